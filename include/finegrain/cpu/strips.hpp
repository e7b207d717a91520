// strips: rows of A as many at a time as a tile has, unit by unit, and tiles that run along them.
//
// For products whose A is copied anyway: a strip is read from end to end, as a panel is, and one call
// runs many tiles. Calls, and rows that lie apart, took a fifth of a sum of 48 products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tile.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Where the next of several tiles has its strip, its panel and its sums, from those of the last.
struct tile_step {
  std::int64_t strip, panel, sums;
};

/// What a caller wants fetched (`ahead`), or copied too, while its tile t runs. It refers to the
/// caller's function, so that tiles are compiled once and not for every caller.
template <class Next>
class wishes {
 public:
  template <class Function>
  explicit wishes(Function const& f)
      : of_(&f),
        ask_([](void const* of, int t) -> Next { return (*static_cast<Function const*>(of))(t); }) {
  }
  Next operator()(int t) const { return ask_(of_, t); }

 private:
  void const* of_;
  Next (*ask_)(void const*, int);
};

/// `count` tiles one after the other, each sums = or += strip . panel: of a strip's unit the parts, of
/// a part its rows, side by side.
template <format F, int Rows, class Next>
void run_tiles(float const* strip, std::int64_t units, float const* panel, sink to, float* sums,
               std::int64_t stride, tile_step step, int count, wishes<Next> const& next) {
  constexpr std::int64_t size = Rows * unit<F>::parts;
  for (int t = 0; t < count; ++t) {
    Next const meanwhile = next(t);
    [[maybe_unused]] moving also;
    if constexpr (requires { meanwhile.also; }) also = meanwhile.also;
    float const *a = strip, *b = panel;
    vec sum[Rows][vectors];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j)
        sum[r][j] = to == sink::go_on ? load(sums + r * stride + j * lanes) : vec{};
    }
    std::int64_t k = 0;
    for (; k + line <= units; k += line) {
      meanwhile.fetch(k);
      if constexpr (requires { meanwhile.also; }) also.some();
      for (std::int64_t i = 0; i < line; i += together) {
        FINEGRAIN_UNROLL
        for (int j = 0; j < together; ++j)
          add_unit<F, 1, Rows, Rows>(a + j * size, b + j * panel_width, sum);
        a += together * size;
        b += together * panel_width;
      }
    }
    for (; k < units; ++k, a += size, b += panel_width) add_unit<F, 1, Rows, Rows>(a, b, sum);
    if constexpr (requires { meanwhile.also; }) also.rest();
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) store(sums + r * stride + j * lanes, sum[r][j]);
    }
    strip += step.strip;
    panel += step.panel;
    sums += step.sums;
  }
}
template <format F, class Next>
void run_tiles(int rows, float const* strip, std::int64_t units, float const* panel, sink to,
               float* sums, std::int64_t stride, tile_step step, int count,
               wishes<Next> const& next) {
  using function = void (*)(float const*, std::int64_t, float const*, sink, float*, std::int64_t,
                            tile_step, int, wishes<Next> const&);
  static constexpr auto height = []<int... R>(std::integer_sequence<int, R...>) {
    return std::array<function, tile_rows>{run_tiles<F, R + 1, Next>...};
  }
  (std::make_integer_sequence<int, tile_rows>());
  height[static_cast<std::size_t>(rows - 1)](strip, units, panel, to, sums, stride, step, count,
                                             next);
}

/// 1 to block_rows rows of A, up to `depth` units of each, in strips of two heights, the higher ones
/// first.
template <format F>
class strips {
 public:
  /// Numbers of room for a strip: a vector is stored where the last of its lanes are not wanted.
  static constexpr std::int64_t size = tile_rows * depth * unit<F>::parts + 16;
  static_assert(depth % lanes == 0 && lanes <= 16);
  static_assert(ceil_div(block_rows, tile_rows) * size <= left_size);

  strips(float* room, int rows)
      : room_(room),
        rows_(rows),
        count_((rows + tile_rows - 1) / tile_rows),
        height_((rows + count_ - 1) / count_),
        high_(rows - count_ * (height_ - 1)) {}

  /// Numbers [k, k + count) of rows of A, and zeros up to a whole vector's.
  void pack_rows(row_list a, std::int64_t k, std::int64_t count) const {
    each([&](int top, int height, float* to) {
      for (int r = (height - 1) / lanes * lanes; r >= 0; r -= lanes) {  // the last ones first
        float const* from[lanes];  // behind the last row it again: lanes that are not wanted
        for (int j = 0; j < lanes; ++j) from[j] = a[top + std::min(r + j, height - 1)] + k;
        float* at = to + r;
        for (std::int64_t i = 0; i < count; i += lanes) {
          vec columns[lanes];
          if (i + lanes <= count) {
            FINEGRAIN_UNROLL
            for (int j = 0; j < lanes; ++j) columns[j] = load(from[j] + i);
          } else {
            for (int j = 0; j < lanes; ++j) columns[j] = load_first(from[j] + i, count - i);
          }
          transpose(columns);
          at = keep_units(columns, height, at);
        }
      }
    });
  }

  /// Numbers first, first + 1, ... of rows k < count of a: A turned over.
  void pack_columns(row_list a, std::int64_t first, std::int64_t count) const {
    constexpr int n = unit<F>::numbers;
    for (std::int64_t k = 0; k < count; k += n) {
      float const* from[n];
      for (int i = 0; i < n; ++i) from[i] = k + i < count ? a[k + i] + first : nullptr;
      each([&](int top, int height, float* to) {
        for (int r = (height - 1) / lanes * lanes; r >= 0; r -= lanes) {
          vec numbers[n];
          for (int i = 0; i < n; ++i)
            numbers[i] = !from[i] ? vec{}
                         : top + r + lanes <= rows_
                             ? load(from[i] + top + r)
                             : load_first(from[i] + top + r, rows_ - top - r);
          keep_unit(numbers, height, to + k / n * height * unit<F>::parts + r);
        }
      });
    }
  }

  /// Tiles of every strip with one panel; next(t) is what is to be done during tile t.
  template <class Next>
  void multiply(std::int64_t units, float const* panel, sink to, float* sums,
                Next const& next) const {
    using wish = decltype(next(0));
    auto const run = [&](int first, int count, int height) {
      auto const later = [&](int t) { return next(first + t); };
      if (count > 0)
        run_tiles<F>(height, room_ + first * size, units, panel, to,
                     sums + top(first) * panel_width, panel_width, {size, 0, height * panel_width},
                     count, wishes<wish>(later));
    };
    run(0, high_, height_);
    run(high_, count_ - high_, height_ - 1);
  }

  int count() const { return count_; }
  /// f(first row, height, numbers) for every strip.
  template <class Function>
  void each(Function&& f) const {
    for (int t = 0; t < count_; ++t) f(top(t), height_ - (t >= high_), room_ + t * size);
  }

 private:
  int top(int t) const { return t * height_ - std::max(t - high_, 0); }

  FINEGRAIN_INLINE static void keep_unit(vec const (&numbers)[unit<F>::numbers], int height,
                                         float* to) {
    vec parts[unit<F>::parts];
    unit<F>::keep(numbers, parts);
    FINEGRAIN_UNROLL
    for (int i = 0; i < unit<F>::parts; ++i) store(to + i * height, parts[i]);
  }
  FINEGRAIN_INLINE static float* keep_units(vec const (&columns)[lanes], int height, float* to) {
    constexpr int n = unit<F>::numbers;
    FINEGRAIN_UNROLL
    for (int k = 0; k < lanes; k += n) {
      vec numbers[n];
      for (int i = 0; i < n; ++i) numbers[i] = columns[k + i];
      keep_unit(numbers, height, to);
      to += height * unit<F>::parts;
    }
    return to;
  }

  float* room_;
  int rows_, count_, height_, high_;
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
