// decode_products: an expert's forward products for few tokens, at the speed that weights are read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// up_forward and down_forward of products.hpp where experts have few rows: row_map::tile is 8
/// or 16. A tile's rows are one pass over the expert's weights.
///
/// On compute capability 9.0 and later a launch begins while the one ahead of it in the stream
/// still runs: see overlap.cuh. up_forward does all of the shared expert's part at once, the others
/// read the weights of experts that row_map tells. So these must be complete before the launch ahead
/// *begins*: weights and x before the router's, row_map before up_forward. All else is read and
/// written when the launch ahead has ended.
template <class T>
struct decode_products {
  static void up_forward(expert_products<T> const& p, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, CUstream_st* stream);

  /// down_forward and combine in one, for up to fused_tokens tokens: y (T, D) = the sum over a
  /// token's rows of row_weight * hidden . down^T + the same of the shared expert, with its weight
  /// or 1, + residual (T, D), which may be null or y. `out` is not used. The f32 sums' order
  /// depends on which experts the batch has chosen.
  static void fused_down(expert_products<T> const& p, T const* residual, T* y, CUstream_st* stream);
};
inline constexpr int fused_tokens = 8;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
