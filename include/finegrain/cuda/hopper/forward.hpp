// hopper_forward: the experts' forward products on compute capability 9.0, by wgmma and TMA.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Rows in tiles of 128: row_map::tile == 128. D and F are multiples of 8, all arrays stand on
/// borders of 16 bytes. Worth it from about 64 rows an expert on.
template <class T>
struct hopper_forward {
  /// The current device has the instructions, and the kernels were compiled for them (sm_90a).
  static bool available();
  static void up_forward(expert_products<T> const& p, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
