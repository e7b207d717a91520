// portable_products: the experts' products with mma.sync, for compute capability 8.0 and later.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The products of products.hpp, each one launch for both families. row_map::tile is 32, 64 or 128
/// forward, of f32 16 too, and 128 backward; the wider, the more rows share a read of the weights.
/// Widths are multiples of 8, all arrays on 16-byte borders.
template <class T>
struct portable_products {
  static void up_forward(expert_products<T> const& p, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, CUstream_st* stream);
  static void down_backward(expert_products<T> const& p, CUstream_st* stream);
  static void down_weights(expert_products<T> const& p, CUstream_st* stream);
  static void up_backward(expert_products<T> const& p, CUstream_st* stream);
  static void up_weights(expert_products<T> const& p, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
