// code_layout: where codes and their scales stand in a panel of quantised weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "codec.hpp"
#include "left.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// A panel is panel_width rows of W, a lane each of two vectors. It is read from end to end: block
/// after block of k, in each the codes, step by step, and then the scales that products are
/// multiplied by.
///
///   vector 0 | vector 1 | vector 0 | vector 1 | ...  | scales | vector 0 | vector 1 | ...
///   of step 0           | of step 1           |      | of block 0        of block 1
///   step_bytes                                         scale_bytes
///
/// Scales are bf16, one of each vector in 32 bits: in the lower half that of vector 0.
template <format F>
struct code_layout {
  using code = codec<F>;
  static constexpr std::int64_t step_bytes = panel_width * 4, scale_bytes = panel_width * 2;
  std::int64_t K;  // numbers along k

  constexpr std::int64_t steps() const { return units_of<code::products>(K) / step_units<F>; }
  /// Steps of a block; at least one, though a matrix may have no columns, and then has no block.
  constexpr std::int64_t block_steps() const {
    return code::block == 0 ? std::max<std::int64_t>(steps(), 1) : code::block / step_numbers<F>;
  }
  constexpr std::int64_t blocks() const { return ceil_div(steps(), block_steps()); }
  constexpr std::int64_t panel_bytes() const {
    return steps() * step_bytes + blocks() * scale_bytes;
  }
  /// The bytes before a step's codes.
  constexpr std::int64_t step_at(std::int64_t step) const {
    return step * step_bytes + step / block_steps() * scale_bytes;
  }
  /// The bytes before a block's scales.
  constexpr std::int64_t scales_at(std::int64_t block) const {
    return std::min(steps(), (block + 1) * block_steps()) * step_bytes + block * scale_bytes;
  }
};

FINEGRAIN_INLINE ivec load_codes(std::byte const* from) {
  ivec codes;
  __builtin_memcpy(&codes, from, sizeof codes);
  return codes;
}
/// A block's scales of both vectors, for sums of what decoders make of codes.
template <format F>
FINEGRAIN_INLINE void load_scales(std::byte const* from, vec (&to)[vectors]) {
  ivec const units = load_codes(from);
  to[0] = reinterpret_cast<vec>(units << 16), to[1] = reinterpret_cast<vec>(units & -65536);
  constexpr float times = codec<F>::times / row_times<codec<F>::products>;
  if constexpr (times != 1)
    for (vec& scale : to) scale *= times;
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
