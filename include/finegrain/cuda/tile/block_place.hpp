// block_place: which tile of a matrix a block works at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The place of a block in a grid of row tiles x column tiles. `Group` row tiles take turns at one
/// column tile before the next one: blocks under way at one time form a square rather than a stripe,
/// so that they share rows and weights in L2, however wide the matrix.
struct block_place {
  int row_tile, column_tile;
};
template <int Group = 8>
FINEGRAIN_HD block_place place_of(int block, int row_tiles, int column_tiles) {
  int const group = block / (Group * column_tiles), in_group = block - group * Group * column_tiles;
  int const rows = row_tiles - Group * group < Group ? row_tiles - Group * group : Group;
  return {Group * group + in_group % rows, in_group / rows};
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
