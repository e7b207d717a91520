// portable_products: the experts' products with mma.sync, for compute capability 8.0 and later.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "products.hpp"
#include "rows.cuh"
#include "weights.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Calls with the row tile as a type's constant: the ones of `Tiles`.
template <int... Tiles, class Call>
void with_tile(int tile, char const* name, Call const& call) {
  if (!((tile == Tiles && (call(std::integral_constant<int, Tiles>{}), true)) || ...))
    throw invalid_argument("%s has no tiles of %d rows", name, tile);
}

/// Four warps across, each 64 rows (or all) x 64 columns; 96 KB at most, which every device has.
template <int Tile, int Parts>
using row_shape = block_shape<Tile, 256, 32, (Tile < 64 ? 1 : Tile / 64), 4, 4, Parts>;

template <class T>
void portable_products<T>::up_forward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<16, 32, 64, 128>(p.rows.tile, "up_forward", [&]<int M>(std::integral_constant<int, M>) {
    launch_rows<row_product::up_forward, row_shape<M, 2>>(p, stream, "up_forward");
  });
}
template <class T>
void portable_products<T>::down_forward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<16, 32, 64, 128>(
      p.rows.tile, "down_forward", [&]<int M>(std::integral_constant<int, M>) {
        launch_rows<row_product::down_forward, row_shape<M, 1>>(p, stream, "down_forward");
      });
}
template <class T>
void portable_products<T>::down_backward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<64, 128>(p.rows.tile, "down_backward", [&]<int M>(std::integral_constant<int, M>) {
    using shape = block_shape<M, 128, 32, 2, 2, 4>;
    launch_rows<row_product::down_backward, shape>(p, stream, "down_backward");
  });
}
template <class T>
void portable_products<T>::up_backward(expert_products<T> const& p, CUstream_st* stream) {
  with_tile<64, 128>(p.rows.tile, "up_backward", [&]<int M>(std::integral_constant<int, M>) {
    using shape = std::conditional_t<M == 64, block_shape<64, 128, 32, 2, 2, 4>, row_shape<M, 1>>;
    launch_rows<row_product::up_backward, shape>(p, stream, "up_backward");
  });
}
template <class T>
void portable_products<T>::down_weights(expert_products<T> const& p, CUstream_st* stream) {
  launch_weights<false, block_shape<128, 128, 32, 2, 2, 4>>(p, stream, "down_weights");
}
template <class T>
void portable_products<T>::up_weights(expert_products<T> const& p, CUstream_st* stream) {
  launch_weights<true, block_shape<128, 128, 32, 2, 2, 4>>(p, stream, "up_weights");
}

template <class T>
inline constexpr std::tuple portable_products_code{
    &portable_products<T>::up_forward,    &portable_products<T>::down_forward,
    &portable_products<T>::down_backward, &portable_products<T>::down_weights,
    &portable_products<T>::up_backward,   &portable_products<T>::up_weights};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
