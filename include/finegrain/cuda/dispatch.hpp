// dispatch: filling a row_map from the experts that tokens chose. Defined in dispatch.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "row_map.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The tokens of a batch in equal chunks, one for each block of a router's kernels. Rows do not
/// depend on how a batch is cut.
struct token_chunks {
  int blocks, tokens;  // blocks >= 1; tokens of each, the last one's may be fewer

  FINEGRAIN_HD static constexpr token_chunks of(std::int64_t T, int R) {
    if (T <= 8) return {1, 8};
    std::int64_t const each = ceil_div(T, most(R)), whole = (each + 7) / 8 * 8;
    return {static_cast<int>(ceil_div(T, whole)), static_cast<int>(whole)};
  }
  /// Room for the counts that blocks leave for the others: fewer tokens never need more.
  static constexpr std::int64_t counts(std::int64_t T, int R) {
    return at_least(at_most(ceil_div(T, 8), std::int64_t{most(R)}), std::int64_t{1}) * R;
  }

 private:
  /// 4 blocks, or 2, for each multiprocessor of an H100.
  FINEGRAIN_HD static constexpr int most(int R) { return R <= 64 ? 528 : 264; }
};

template <class T>
struct dispatch {
  /// Fills all of `rows` from experts (T, k), of which those below 0 have no row, and their
  /// weights (T, k). `block_counts` has room for token_chunks::counts. Rows of an expert are in the
  /// order of their tokens.
  static void build(row_map const& rows, std::int32_t const* experts, float const* weights,
                    std::int32_t* block_counts, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
