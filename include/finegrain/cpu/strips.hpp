// strips: rows of A as many at a time as a tile has, or two, unit by unit, and tiles that run along them.
//
// A strip is read from end to end, as a panel is, and one call runs many tiles. Calls, and rows that
// lie apart, took a fifth of the time of a sum of 48 products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tile.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Rows of A, some units of each, in strips of two heights, the higher ones first: where they have up
/// to 14 rows, 29 are 10, 10 and 9. In memory a strip of rows a, b, c goes unit by unit; where a tile
/// takes several of a row at a time (`deep`), by so many; and behind integers is what blocks have:
///
///   a0 b0 c0  a1 b1 c1  a2 b2 c2 ...
///   a0 a1 ... a15  b0 b1 ... b15  c0 c1 ... c15  a16 a17 ...
///   a0 b0 c0  a1 b1 c1 ...  | starts a b c of each sum, scales a b c | of the next block ...
template <format F>
class strips {
  static constexpr int deep = unit<F>::deep;

 public:
  /// Rows of a strip at most.
  static constexpr int most = strip_rows<F>;
  /// Numbers of room for so many rows and units.
  static constexpr std::int64_t size(std::int64_t rows, std::int64_t units) {
    return rows * row_size(units) + ceil_div(rows, most) * gap;
  }

  /// Units are a multiple of those that a tile takes at a time. Registers for matrices take no less time
  /// for fewer rows: there all strips but the last are whole.
  strips(float* room, int rows, std::int64_t units)
      : room_(room),
        rows_(rows),
        count_(ceil_div(rows, most)),
        height_(in_matrices<F> ? std::min(rows, most) : ceil_div(rows, count_)),
        low_height_(in_matrices<F> ? rows - (count_ - 1) * height_ : height_ - 1),
        high_count_(in_matrices<F> ? rows / height_ : rows - count_ * low_height_),
        units_(units) {}

  /// Numbers [k, k + count) of rows of A; k is a multiple of `lanes`.
  void pack_rows(row_list a, std::int64_t k, std::int64_t count) const {
    each([&](int top, int height, float* to) {
      if constexpr (deep > 1) {
        constexpr std::int64_t some = deep * unit<F>::numbers;
        for (int r = 0; r < height; ++r) {
          float const* from = a[top + r] + k;
          float* row = to + r * deep;
          std::int64_t left = count;
          for (; left >= some; left -= some, from += some, row += height * deep)
            unit<F>::take(from, some, row);
          if (left == 0) continue;
          std::fill_n(row, deep, 0.0f);
          unit<F>::take(from, left, row);
        }
        return;
      }
      if (height == 1) return unit<F>::keep(a[top] + k, count, to);
      in_groups(height, [&](int r, int n) {
        // Lanes behind the last row are stored where the next unit is stored later, so that they may
        // be the last row's again; where no unit follows, zeros must stand: a product reads them.
        float const* from[lanes];
        for (int j = 0; j < lanes; ++j) from[j] = a[top + r + std::min(j, n - 1)] + k;
        vec columns[lanes];
        std::int64_t i = 0;
        as_rows(
            n, [&]<int Rows>() __attribute__((always_inline)) {
              for (; i + lanes < count; i += lanes) {
                transpose<Rows>(from, i, columns);
                keep_units(columns, lanes, height, to + unit_at(i) * height + r);
              }
            });
        for (int j = 0; j < lanes; ++j)
          columns[j] = j >= n               ? vec{}
                       : i + lanes == count ? load(from[j] + i)
                                            : load_first(from[j] + i, count - i);
        transpose(columns);
        keep_units(columns, count - i, height, to + unit_at(i) * height + r);
      });
    });
  }

  /// Numbers first, first + 1, ... of rows k < count of a: A turned over. Behind the last unit numbers
  /// of the next strip's rows may stand, which a product of so many units as there are does not read.
  void pack_columns(row_list a, std::int64_t first, std::int64_t count) const {
    constexpr int n = unit<F>::numbers;
    for (std::int64_t k = 0; k < count; k += n * deep) {
      float const* from[n * deep];
      for (int i = 0; i < n * deep; ++i) from[i] = k + i < count ? a[k + i] + first : nullptr;
      each([&](int top, int height, float* to) {
        in_groups(height, [&](int r, [[maybe_unused]] int rows) {
          auto const numbers_of = [&](float const* const* of, vec(&numbers)[n]) {
            for (int i = 0; i < n; ++i)
              numbers[i] = !of[i] ? vec{}
                           : top + r + lanes <= rows_
                               ? load(of[i] + top + r)
                               : load_first(of[i] + top + r, rows_ - top - r);
          };
          vec numbers[n];
          if constexpr (deep == 1) {
            numbers_of(from, numbers);
            keep_unit(numbers, height, to + unit_at(k) * height + r);
          } else {
            vec units[lanes];
            for (int u = 0; u < deep; ++u) {
              numbers_of(from + u * n, numbers);
              units[u] = unit<F>::join(numbers);
            }
            transpose(units);
            for (int i = 0; i < rows; ++i)
              store(to + unit_at(k) * height + (r + i) * deep, units[i]);
          }
        });
      });
    }
  }

  /// Numbers [k, k + count) of every row, up to `lanes` of them: of row r the first of row(r), behind
  /// which are zeros. Those of the numbers before k must stand there; k is a multiple of `lanes`.
  template <class Row>
  FINEGRAIN_INLINE void put(std::int64_t k, std::int64_t count, Row const& row) const {
    each([&](int top, int height, float* strip) __attribute__((always_inline)) {
      if constexpr (deep > 1) {
        std::int64_t const u = k / unit<F>::numbers, group = u / deep * deep;
        float* const to = strip + group * height + (u - group);
        for (int r = 0; r < height; ++r) unit<F>::take(row(top + r), to + r * deep);
        return;
      }
      float* const to = strip + unit_at(k) * height;
      in_groups(
          height, [&](int r, int n) __attribute__((always_inline)) {
            vec columns[lanes]{};
            for (int j = 0; j < n; ++j) columns[j] = row(top + r + j);
            as_rows(
                n, [&]<int Rows>() __attribute__((always_inline)) { transpose<Rows>(columns); });
            keep_units(columns, count, height, to + r);
          });
    });
  }
  /// Units from number `count` of each row on become 0, with those that stand beside them.
  void end(std::int64_t count) const {
    each([&](int, int height, float* to) {
      std::int64_t const begin = count / unit<F>::numbers / deep * deep;
      std::fill(to + begin * unit<F>::kept * height, to + units_ * unit<F>::kept * height, 0.0f);
    });
  }
  /// Makes what products read of what was put, once all units are there.
  void finish() const {
    if constexpr (requires { unit<F>::few; })
      each([&](int, int height, float* strip, float* blocks) {
        unit<F>::finish(strip, units_, height, are_few(), blocks);
      });
  }

  /// Numbers that a row's integers and what its blocks have take, end to end.
  static constexpr std::int64_t finished_size(std::int64_t units) {
    return words_size(units) + blocks_size(units);
  }
  /// Copies them, of the one row that there is.
  void copy_finished(float* to) const {
    std::int64_t const words = unit<F>::multiply_adds(units_);
    std::copy_n(at(0, 1), words, to);
    std::fill(to + words, to + words_size(units_), 0.0f);
    std::copy_n(blocks_at(0, 1), blocks_size(units_), to + words_size(units_));
  }
  /// Rows of which each was copied so.
  void pack_finished(row_list a) const {
    each([&](int top, int height, float* strip, float* blocks) {
      if constexpr (in_matrices<F>)
        if (!are_few()) {
          constexpr std::int64_t words = unit<F>::register_words;
          for (std::int64_t i = 0; i < words_size(units_); i += words)
            for (int r = 0; r < height; ++r, strip += words)
              std::copy_n(a[top + r] + i, words, strip);
          return put_side_by_side(a, top, height, words_size(units_), blocks_size(units_), blocks);
        }
      put_side_by_side(a, top, height, 0, unit<F>::multiply_adds(units_), strip);
      put_side_by_side(a, top, height, words_size(units_), blocks_size(units_), blocks);
    });
  }

  /// The same strips from unit k on; of integers, of rows that are finished.
  strips after(std::int64_t k) const {
    strips rest = *this;
    rest.skipped_ += k;
    return rest;
  }

  /// Tiles of every strip with panels of units of `Of`, one or as many as a tile has; sums (panel, row,
  /// column). Next is what is to be done meanwhile: a flow, or next(t) during tile t of all `tiles`.
  template <format Of = F, class Next>
  void multiply(std::int64_t units, panels_abreast panels, sink to, float* sums,
                Next&& next) const {
    panels.sums_apart = rows_ * panel_width;
    int done = 0;  // tiles
    each_height([&](int first, int count, int height) {
      auto const go = [&](auto&& meanwhile) {
        run_tiles<Of, strip_form<F>>(height, at(first, height), units, panels, to,
                                     sums + top(first) * panel_width, panel_width, step(height),
                                     count, meanwhile);
      };
      if constexpr (Flow<Next>)
        go(next);
      else
        go(wishes<decltype(next(0))>([&](int t) { return next(done + t); }));
      done += count * tiles_of<F>(height);
    });
  }
  /// The same of blocks of so many units, each of which may have scales; added to the sums.
  template <format Of, Flow Next>
  void multiply_scaled(std::int64_t units, std::int64_t block, panels_abreast panels, float* sums,
                       Next& next) const {
    panels.sums_apart = rows_ * panel_width;
    each_height([&](int first, int count, int height) {
      scaled_tiles<Of, F>(height, at(first, height), blocks_at(first, height), units, block, panels,
                          sums + top(first) * panel_width, step(height), count, next);
    });
  }

  int rows() const { return rows_; }
  float const* first() const { return at(0, height_); }
  /// Tiles that they are.
  int tiles() const {
    return high_count_ * tiles_of<F>(height_) + (count_ - high_count_) * tiles_of<F>(low_height_);
  }
  /// f(first row, height, units) for every strip; or with what its blocks have.
  template <class Function>
  FINEGRAIN_INLINE void each(Function&& f) const {
    each_height([&](int first, int count, int height) __attribute__((always_inline)) {
      for (int t = first; t < first + count; ++t) {
        if constexpr (requires(float* p) { f(0, height, p, p); })
          f(top(t), height, at(t, height), blocks_at(t, height));
        else
          f(top(t), height, at(t, height));
      }
    });
  }

 private:
  /// Floats before number k, of a row that is put together.
  static constexpr std::int64_t unit_at(std::int64_t k) {
    return k / unit<F>::numbers * unit<F>::kept;
  }
  /// What a row's blocks have.
  static constexpr std::int64_t blocks_size(std::int64_t units) {
    if constexpr (Integers<F>)
      return ceil_div(units, unit<F>::block_units) * unit<F>::block_floats;
    else
      return 0;
  }
  /// A row's integers, as many as registers for matrices read.
  static constexpr std::int64_t words_size(std::int64_t units) {
    constexpr std::int64_t some = in_matrices<F> ? unit<F>::register_words : 1;
    return ceil_div(unit<F>::multiply_adds(units), some) * some;
  }
  /// A row's units; of bytes at least a register's words.
  static constexpr std::int64_t numbers_size(std::int64_t units) {
    std::int64_t const size = units * unit<F>::kept;
    if constexpr (Integers<F> && in_matrices<F>)
      return std::max<std::int64_t>(size, 2 * unit<F>::register_words);
    else
      return size;
  }
  static constexpr std::int64_t row_size(std::int64_t units) {
    return numbers_size(units) + blocks_size(units);
  }
  /// Behind a strip's units, and behind its blocks: vectors are stored where the last of their lanes
  /// are not wanted.
  static constexpr std::int64_t gap = 32;
  static_assert(2 * lanes <= gap && (deep == 1 || deep == lanes));

  /// Whether rows that are finished meet codes as they are decoded.
  bool are_few() const {
    if constexpr (requires { unit<F>::few; })
      return rows_ <= unit<F>::few;
    else
      return false;
  }
  /// f(first strip, how many, height) for strips of each height.
  template <class Function>
  FINEGRAIN_INLINE void each_height(Function&& f) const {
    if (high_count_ > 0) f(0, high_count_, height_);
    if (high_count_ < count_) f(high_count_, count_ - high_count_, low_height_);
  }
  tile_step step(int height) const {
    return {height * row_size(units_) + gap, 0, height * panel_width};
  }
  /// The first row of strip t, and where it stands, from its unit `skipped_` on.
  int top(int t) const {
    return t * height_ - std::max(t - high_count_, 0) * (height_ - low_height_);
  }
  float* strip(int t) const { return room_ + top(t) * row_size(units_) + t * gap; }
  float* at(int t, int height) const {
    std::int64_t before = skipped_ * unit<F>::kept;
    if constexpr (Integers<F>) before = unit<F>::finished(skipped_, are_few());
    return strip(t) + before * height;
  }
  float* blocks_at(int t, int height) const {
    return strip(t) + (numbers_size(units_) + blocks_size(skipped_)) * height + gap / 2;
  }

  /// f(r, n) for every `lanes` rows of a strip, the last ones first.
  template <class Function>
  FINEGRAIN_INLINE static void in_groups(int height, Function&& f) {
    for (int r = (height - 1) / lanes * lanes; r >= 0; r -= lanes)
      f(r, std::min<int>(lanes, height - r));
  }
  /// Numbers [begin, begin + count) of rows of a from `top` on: those of one place side by side. Behind
  /// the last there is room for a vector.
  static void put_side_by_side(row_list a, int top, int height, std::int64_t begin,
                               std::int64_t count, float* to) {
    if (height == 1) {
      std::copy_n(a[top] + begin, count, to);
      return;
    }
    in_groups(height, [&](int r, int n) {
      float const* from[lanes];
      for (int j = 0; j < lanes; ++j) from[j] = a[top + r + std::min(j, n - 1)] + begin;
      for (std::int64_t i = 0; i < count; i += lanes) {
        std::int64_t const some = std::min<std::int64_t>(lanes, count - i);
        vec columns[lanes];
        if (some == lanes) {
          as_rows(
              n, [&]<int Rows>()
                     __attribute__((always_inline)) { transpose<Rows>(from, i, columns); });
        } else {
          for (int j = 0; j < lanes; ++j) columns[j] = load_first(from[j] + i, some);
          transpose(columns);
        }
        for (std::int64_t j = 0; j < some; ++j) store(to + (i + j) * height + r, columns[j]);
      }
    });
  }
  /// A unit of rows side by side.
  FINEGRAIN_INLINE static void keep_unit(vec const (&numbers)[unit<F>::numbers], int height,
                                         float* to) {
    vec floats[unit<F>::kept];
    unit<F>::keep(numbers, floats);
    FINEGRAIN_UNROLL
    for (int i = 0; i < unit<F>::kept; ++i) store(to + i * height, floats[i]);
  }
  FINEGRAIN_INLINE static void keep_units(vec const (&columns)[lanes], std::int64_t count,
                                          int height, float* to) {
    constexpr int n = unit<F>::numbers;
    FINEGRAIN_UNROLL
    for (int k = 0; k < lanes; k += n, to += height * unit<F>::kept) {
      if (k < count) {  // not a return: clang unrolls no loop that has one
        vec numbers[n];
        FINEGRAIN_UNROLL
        for (int i = 0; i < n; ++i) numbers[i] = columns[k + i];
        keep_unit(numbers, height, to);
      }
    }
  }

  float* room_;
  int rows_, count_;                      // rows; strips
  int height_, low_height_, high_count_;  // of high_count_ strips; of the others
  std::int64_t units_, skipped_ = 0;
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
