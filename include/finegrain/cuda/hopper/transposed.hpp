// hopper_transposed: down_forward of experts with some dozens of rows, for capability 9.0.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Weights are the left operand and rows the right one, 32 to 224 of them at a time: an expert's
/// weights are read once, and no more than 31 pads are multiplied. Where hopper_forward is available.
/// Of row_map, the tile is a multiple of 32, and its list of tiles is not read. Of a tile's pads
/// those beyond the next multiple of 32 rows are neither read nor written.
template <class T>
struct hopper_transposed {
  static void down_forward(expert_products<T> const& p, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
