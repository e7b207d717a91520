// The codes and scales of quantised formats by their definition.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <finegrain/cpu/codec.hpp>
#include <vector>

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

/// The scales of a row's blocks of 32 numbers in int4. Those of four blocks are integers up to 15 times one
/// power of 2, the least by which the largest number's is below 15.5. A block's integer is the nearest one,
/// by which its largest number is -8, or one beside it, if the codes' errors are smaller then. By powers above
/// 2^106 scales are NaN.
inline std::vector<float> int4_scales(float const* row, std::int64_t count) {
  auto const largest = [&](std::int64_t begin, std::int64_t end) {
    float most = 0;
    for (std::int64_t k = begin; k < std::min(count, end); ++k)
      if (std::abs(row[k]) > std::abs(most)) most = row[k];
    return double(most);
  };
  std::vector<float> scales;
  for (std::int64_t k = 0; k < count; k += 32) {
    double const most = largest(k, k + 32), of_four = largest(k / 128 * 128, k / 128 * 128 + 128);
    double power = 0x1p-126;
    while (std::abs(of_four) / 8 >= 15.5 * power && power < 0x1p122) power *= 2;
    long const nearest = std::clamp(std::lrint(std::abs(most) / 8 / power), 1l, 15l);
    long best = nearest, least = -1;
    auto const scale = [&](long times) {
      return float(double(times) * (most > 0 ? -power : power));
    };
    for (long const times : {nearest, std::max(1l, nearest - 1), std::min(15l, nearest + 1)}) {
      long sum = 0;  // of squares; an error in 16ths of the power
      for (std::int64_t i = k; i < std::min(count, k + 32); ++i) {
        float const y = row[i] / scale(times);
        long const error = std::lrint(16 * (y - float(std::clamp(std::lrint(y), -8l, 7l))));
        sum += error * error * times * times;
      }
      if (least < 0 || sum < least) best = times, least = sum;
    }
    scales.push_back(most == 0 ? 0 : power > 0x1p106 ? NAN : scale(best));
  }
  return scales;
}

/// The scales of a matrix w (rows, cols).
template <finegrain::format F>
class scales_of {
  using codec = finegrain::simd::codec<F>;
  std::int64_t wide_, across_;
  std::vector<float> scales_;

 public:
  scales_of(float const* w, std::int64_t rows, std::int64_t cols)
      : wide_(codec::block == 0 ? std::max<std::int64_t>(cols, 1) : codec::block),
        across_((cols + wide_ - 1) / wide_) {
    for (std::int64_t top = 0; top < rows; top += codec::outputs) {
      if (F == finegrain::format::int4) {
        std::vector<float> const more = int4_scales(w + top * cols, cols);
        scales_.insert(scales_.end(), more.begin(), more.end());
        continue;
      }
      for (std::int64_t left = 0; left < cols; left += wide_) {
        float most = 0;
        for (std::int64_t r = top; r < std::min<std::int64_t>(rows, top + codec::outputs); ++r)
          for (std::int64_t c = left; c < std::min(cols, left + wide_); ++c)
            most = std::max(most, std::abs(w[r * cols + c]));
        float const scale = most / (F == finegrain::format::fp8 ? 448.0f : 127.0f);
        scales_.push_back(float(finegrain::bf16(scale)));
      }
    }
  }
  /// 0 where there are no numbers.
  float operator()(std::int64_t row, std::int64_t column) const {
    auto const at = std::size_t(row / codec::outputs * across_ + column / wide_);
    return column / wide_ < across_ && at < scales_.size() ? scales_[at] : 0.0f;
  }
};

/// What the format keeps of a matrix w (rows, cols).
template <finegrain::format F>
void keep(float* w, std::int64_t rows, std::int64_t cols) {
  scales_of<F> const scales(w, rows, cols);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) {
      float& x = w[r * cols + c];
      float const scale = scales(r, c);
      x = scale == 0 ? 0 : scale * finegrain::simd::codec<F>::value(nearest_code<F>(x / scale));
    }
}

}  // namespace under_test
