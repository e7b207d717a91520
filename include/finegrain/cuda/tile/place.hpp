// Which tile of a matrix a block works at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// How many tiles cover n.
FINEGRAIN_HD inline int tiles_of(int n, int tile) { return (n + tile - 1) / tile; }

/// The place of a block in a grid of row tiles x column tiles. 8 row tiles take turns at one column
/// tile before the next one: blocks under way at one time form a square rather than a stripe, so
/// that they share rows and weights in L2, however wide the matrix.
struct block_place {
  int row_tile, column_tile;
};
FINEGRAIN_HD inline block_place place_of(int block, int row_tiles, int column_tiles) {
  int const group = block / (8 * column_tiles), in_group = block - group * 8 * column_tiles;
  int const rows = row_tiles - 8 * group < 8 ? row_tiles - 8 * group : 8;
  return {8 * group + in_group % rows, in_group / rows};
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
