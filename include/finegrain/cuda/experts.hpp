// experts: the products of products.hpp, each by the path that is fastest for its rows and device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Rows of an expert that products handle at a time, and by which memory is laid out: many for
/// training; for inference as many as an expert has on average, or a few more.
template <class T>
constexpr int tile_rows(config const& c, extent e) {
  std::int64_t const average = e.tokens * c.top_k / c.routed;
  if (e.training || average >= (sizeof(T) > 2 ? 96 : 56)) return 128;
  if (sizeof(T) > 2 && average <= 8) return 16;
  return average <= 1 ? 8 : average <= 8 ? 16 : average <= 24 ? 32 : 64;
}

/// Whether down_combine is the faster way.
constexpr bool few_tokens(std::int64_t tokens, int tile) { return tokens <= 4 && tile <= 8; }

template <class T>
struct experts {
  static void up_forward(expert_products<T> const& p, instructions use, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, instructions use, CUstream_st* stream);
  /// down_forward and combine in one, where few_tokens says so: y (T, D) = the weighted sum of a
  /// token's experts, the shared one's (times its weight, or 1), and `add` (T, D) if not null.
  static void down_combine(expert_products<T> const& p, T const* add, T* y, CUstream_st* stream);
  static void down_backward(expert_products<T> const& p, instructions use, CUstream_st* stream);
  static void down_weights(expert_products<T> const& p, instructions use, CUstream_st* stream);
  static void up_backward(expert_products<T> const& p, instructions use, CUstream_st* stream);
  static void up_weights(expert_products<T> const& p, instructions use, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
