// portable_products: the shape of the blocks that each product is cut into, by row_map::tile.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "products.hpp"
#include "rows.cuh"
#include "weights.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline void check_tile(int tile, char const* name) {
  if (tile != 128) throw invalid_argument("%s has no tiles of %d rows", name, tile);
}

/// Calls with the row tile of forward as a type's constant. Backward's is 128, and tiles of 16 are
/// of numbers of 32 bits: `decode/` has the others'.
template <class T, class Call>
void with_tile(int tile, char const* name, Call const& call) {
  if constexpr (!in_pairs<T>)
    if (tile == 16) return call(std::integral_constant<int, 16>{});
  if (tile == 32) return call(std::integral_constant<int, 32>{});
  if (tile == 64) return call(std::integral_constant<int, 64>{});
  check_tile(tile, name);
  call(std::integral_constant<int, 128>{});
}
/// Four warps across, each 64 rows (or all) x 64 columns; 96 KB at most, which every device has.
template <int Tile, int Parts>
using row_shape = block_shape<Tile, 256, 32, (Tile < 64 ? 1 : Tile / 64), 4, 4, Parts>;

template <class T>
void portable_products<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<T>(p.rows.tile, "up_forward", [&]<int M>(std::integral_constant<int, M>) {
    launch_rows<row_product::up_forward, row_shape<M, 2>>(p, stream, "up_forward");
  });
}
template <class T>
void portable_products<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<T>(p.rows.tile, "down_forward", [&]<int M>(std::integral_constant<int, M>) {
    launch_rows<row_product::down_forward, row_shape<M, 1>>(p, stream, "down_forward");
  });
}
template <class T>
void portable_products<T>::down_backward(expert_products<T> const& p, CUstream_st* stream) {
  check_tile(p.rows.tile, "down_backward");
  launch_rows<row_product::down_backward, block_shape<128, 128, 64, 2, 2, 3>>(p, stream,
                                                                              "down_backward");
}
template <class T>
void portable_products<T>::up_backward(expert_products<T> const& p, CUstream_st* stream) {
  check_tile(p.rows.tile, "up_backward");
  launch_rows<row_product::up_backward, row_shape<128, 1>>(p, stream, "up_backward");
}
template <class T>
void portable_products<T>::down_weights(expert_products<T> const& p, CUstream_st* stream) {
  launch_weights<false, block_shape<128, 128, 32, 2, 2, 5>>(p, stream, "down_weights");
}
template <class T>
void portable_products<T>::up_weights(expert_products<T> const& p, CUstream_st* stream) {
  launch_weights<true, block_shape<128, 128, 32, 2, 2, 4>>(p, stream, "up_weights");
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
