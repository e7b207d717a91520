// few_rows: the experts' forward products for up to 64 rows of an expert, on compute capability 9.0.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// up_forward, without z, and down_forward of products.hpp where experts have few rows:
/// row_map::tile is 8, 16, 32 or 64, and there are routed experts. D and F are multiples of 8, all
/// arrays stand on borders of 16 bytes. Launches overlap as decode_products' do.
template <class T>
struct few_rows {
  /// The current device has the instructions, and the kernels were compiled for them (sm_90a).
  static bool available();
  static void up_forward(expert_products<T> const& p, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
