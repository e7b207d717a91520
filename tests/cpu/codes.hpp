// The codes of quantised formats by their definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <finegrain/cpu/codec.hpp>

namespace under_test {

/// The code nearest to x, a number without its scale; of two as near the even one.
template <finegrain::format F>
std::uint32_t nearest_code(float x) {
  using codec = finegrain::simd::codec<F>;
  if constexpr (F == finegrain::format::fp8) {
    float const a = std::min(std::abs(x), 448.0f);
    int const e = a < 0x1p-6f ? -6 : std::ilogb(a);
    // a = q * 2^(e - 3) with q in 8 ... 16, or below 8 where numbers are subnormal; 16 carries over
    auto const q = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(a, 3 - e)));
    return ((static_cast<std::uint32_t>(e + 6) << 3) + q) | (std::signbit(x) ? 128u : 0u);
  } else {
    bool const four = codec::bits == 4;
    long const n = std::clamp(std::lrint(x), four ? -8l : -127l, four ? 7l : 127l);
    return static_cast<std::uint32_t>(n + codec::zero) & ((1u << codec::bits) - 1);
  }
}

}  // namespace under_test
