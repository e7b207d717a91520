// hopper_backward: backward's products of experts on compute capability 9.0a.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Rows in tiles of 128. Both families in one launch each; either may be absent, its width then 0.
template <class T>
struct hopper_backward {
  static bool available();
  static void down_backward(expert_products<T> const&, CUstream_st*);
  static void down_weights(expert_products<T> const&, CUstream_st*);
  static void up_backward(expert_products<T> const&, CUstream_st*);
  static void up_weights(expert_products<T> const&, CUstream_st*);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
