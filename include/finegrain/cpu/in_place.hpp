// in_place: products with weights as stored whose rows are long, without packing.
//
// Rows of A and of W are both contiguous along k, and so every lane keeps a sum of its own until the
// end. Few rows of A then cost no more than reading W once, in long runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <utility>

#include "operands.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

inline constexpr std::int64_t long_row = 512;  // of k: shorter rows spend too much on adding lanes
inline constexpr int dot_rows = registers == 32 ? 6 : 3;  // with 4 columns, fills the registers
inline constexpr int dot_cols = 4;
inline constexpr int few_rows = 2 * dot_rows;  // so few are left in place, and W is read row by row

/// sums[0, 4) = the lanes of a, b, c, d, each added: one order for every caller.
FINEGRAIN_INLINE void add_lanes(vec a, vec b, vec c, vec d, float* sums) {
  using namespace detail;
  vec const ab = pick<low_of_two>(a, b) + pick<high_of_two>(a, b);
  vec const cd = pick<low_of_two>(c, d) + pick<high_of_two>(c, d);
  float parts[lanes];
  store(parts, pick<low_pair>(ab, cd) + pick<high_pair>(ab, cd));  // of each 128 bits, all four
  for (int half = lanes / 2; half >= dot_cols; half /= 2)
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  for (int i = 0; i < dot_cols; ++i) sums[i] = parts[i];
}

/// Lanes of Rows x dot_cols sums over `count` places of k: begun or, if not fresh, taken from
/// `kept`; left there or, if final, added up into `sums`, whose rows stand panel_width apart.
template <int Rows>
void dot_tile(float const* const* a, float const* const* w, std::int64_t count, bool fresh,
              bool final, float* kept, float* sums, ahead const& next) {
  vec sum[Rows][dot_cols];
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    FINEGRAIN_UNROLL
    for (int c = 0; c < dot_cols; ++c)
      sum[r][c] = fresh ? vec{} : load(kept + (r * dot_cols + c) * lanes);
  }
  auto step = [&](auto&& get, std::int64_t k) __attribute__((always_inline)) {
    vec x[Rows];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) x[r] = get(a[r] + k);
    FINEGRAIN_UNROLL
    for (int c = 0; c < dot_cols; ++c) {
      vec const y = get(w[c] + k);
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r) add_product(x[r], y, sum[r][c]);
    }
  };
  auto const whole = [](float const* p) __attribute__((always_inline)) { return load(p); };
  std::int64_t k = 0;
  for (; k + line <= count; k += line) {
    next.fetch(k);
    for (std::int64_t i = 0; i < line; i += lanes) step(whole, k + i);
  }
  for (; k < count; k += lanes) {
    std::int64_t const n = std::min<std::int64_t>(lanes, count - k);
    step([n](float const* p) { return load_first(p, n); }, k);
  }
  FINEGRAIN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (final) {
      add_lanes(sum[r][0], sum[r][1], sum[r][2], sum[r][3], sums + r * panel_width);
    } else {
      FINEGRAIN_UNROLL
      for (int c = 0; c < dot_cols; ++c) store(kept + (r * dot_cols + c) * lanes, sum[r][c]);
    }
  }
}
inline void dot_tile(int rows, float const* const* a, float const* const* w, std::int64_t count,
                     bool fresh, bool final, float* kept, float* sums, ahead const& next) {
  using function = void (*)(float const* const*, float const* const*, std::int64_t, bool, bool,
                            float*, float*, ahead const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, dot_rows>{dot_tile<R + 1>...};
  }
  (std::make_integer_sequence<int, dot_rows>());
  height[static_cast<std::size_t>(rows - 1)](a, w, count, fresh, final, kept, sums, next);
}

/// Columns [begin, end) of the panels from `first` on, for up to half_rows rows; `sums` has
/// `panel` numbers a panel. Blocks of k pass over all columns, whose lanes' sums stay in room.right
/// meanwhile; a few rows take all of k at once.
inline void multiply_long(row_list a, int rows, std::int64_t K, transposed const& b,
                          std::int64_t first, int columns, room& room, float* sums, int panel) {
  constexpr int stride = 2 * left_stride;
  bool const few = rows <= few_rows;
  float const* row[half_rows];
  auto const list = [&](int c, std::int64_t k0, float const** w) {
    for (int i = 0; i < dot_cols; ++i)
      w[i] = b.row(first + (c + i) / panel_width, (c + i) % panel_width) + k0;
  };
  for (std::int64_t k0 = 0, count; k0 < K; k0 += count) {
    count = few ? K : std::min<std::int64_t>(2 * depth, K - k0);
    for (int r = 0; r < rows; ++r) {
      row[r] = few ? a[r] : room.left + r * stride;
      if (!few) std::copy_n(a[r] + k0, count, room.left + r * stride);
    }
    for (int c = 0; c < columns; c += dot_cols) {
      float const* w[dot_cols];
      list(c, k0, w);
      ahead next;
      next.count = dot_cols;
      next.length = count;
      if (c + dot_cols < columns)
        list(c + dot_cols, k0, next.rows);
      else
        list(0, std::min(k0 + count, K - 1), next.rows);
      int const tiles = static_cast<int>(ceil_div(rows, dot_rows));
      for (int t = 0; t < tiles; ++t, next.count = 0) {
        int const top = rows * t / tiles, height = rows * (t + 1) / tiles - top;
        dot_tile(height, row + top, w, count, k0 == 0, k0 + count == K,
                 room.right + (c * rows + top * dot_cols) * lanes,
                 sums + c / panel_width * panel + c % panel_width + top * panel_width, next);
      }
    }
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
