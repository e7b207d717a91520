// left: rows of A copied once, for products with many panels of B.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "strips.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// A row is filled up with zeros to a multiple of so many numbers along k, unless all is f32: to whole vectors,
/// to the steps of codes, of which the longest has 8 numbers, and to what a tile takes at a time.
template <format F>
constexpr std::int64_t k_multiple() {
  return F == format::f32 ? 1 : std::max({lanes, 8, unit<F>::numbers * unit<F>::deep});
}
/// Units that hold so many numbers along k.
template <format F>
constexpr std::int64_t units_of(std::int64_t numbers) {
  return ceil_div(numbers, k_multiple<F>()) * (k_multiple<F>() / unit<F>::numbers);
}

/// A part of B: units [k, k + units) of a panel; without units nothing.
struct piece {
  std::int64_t panel = 0, k = 0, units = 0;
};

/// sums (panel, row, column) = a . the piece `now` of B, and the same units of the count - 1 panels behind
/// it; or +=, where now.k is not 0. a begins at unit now.k. It is the `last` if no units of these panels are
/// multiplied later; `then` is the piece that is multiplied next. B has
///
///   pass(rows, panel)                units of the panel that all rows meet before the next
///   abreast(rows)                    panels that are multiplied side by side
///   run(a, now, count, last, sums, then)     the same of up to so many units; it may fetch `then`
template <format F, class B>
void multiply_panels(strips<F> const& a, B const& b, piece const& now, int count, bool last,
                     float* sums, piece const& then) {
  auto const some = [&](piece p) {
    p.units = std::min<std::int64_t>(b.pass(a.rows(), p.panel), p.units);
    return p;
  };
  for (std::int64_t k = 0, pass = b.pass(a.rows(), now.panel); k < now.units; k += pass) {
    piece const here = some({now.panel, now.k + k, now.units - k});
    piece const rest = {now.panel, here.k + here.units, now.units - k - here.units};
    bool const more = rest.units > 0;
    b.run(a.after(k), here, count, last && !more, sums, some(more ? rest : then));
  }
}

/// Rows of A that are rounded to integers once, where several products take each.
template <format F>
struct rounded_rows {
  static constexpr bool wanted = [] {
    if constexpr (Integers<F>) return unit<F>::many_as_integers;
    return false;
  }();
  /// Numbers of room for one of K numbers.
  static constexpr std::int64_t size(std::int64_t K) {
    if constexpr (wanted) return strips<F>::finished_size(units_of<F>(K));
    return 0;
  }
  row_list rows;
};

/// Rows of A in strips over all of k. From the last-level cache they come as fast as tiles want them.
template <format F>
class left_rows {
 public:
  static constexpr int most_rows = 240 / strips<F>::most * strips<F>::most;

  /// Rows that it is wise to take at a time: panels are read, packed or decoded once for them.
  static constexpr int most(std::int64_t K) {
    constexpr std::int64_t enough = 3 << 18;
    constexpr int strip = strips<F>::most;
    std::int64_t const most = enough / strips<F>::size(strip, units_of<F>(K)) * strip;
    return static_cast<int>(std::clamp<std::int64_t>(most, strip, most_rows));
  }
  /// Numbers of room for so many rows, or for as many as are taken at a time.
  static constexpr std::int64_t size(std::int64_t rows, std::int64_t K) {
    return strips<F>::size(std::min<std::int64_t>(rows, most(K)), units_of<F>(K));
  }

  /// Room for rows that are put there later. Units behind the last number are 0.
  left_rows(float* room, int rows, std::int64_t K)
      : units_(units_of<F>(K)), rows_(room, rows, units_) {
    rows_.end(K);
  }
  left_rows(float* room, row_list a, int rows, std::int64_t K) : left_rows(room, rows, K) {
    rows_.pack_rows(a, 0, K);
    rows_.finish();
  }
  left_rows(float* room, rounded_rows<F> const& a, int rows,
            std::int64_t K) requires(rounded_rows<F>::wanted)
      : units_(units_of<F>(K)), rows_(room, rows, units_) {
    rows_.pack_finished(a.rows);
  }
  /// Where rows are put; who puts them there finishes them.
  strips<F> const& rows() const { return rows_; }

  /// put(p, sums) with the product with each panel p of [begin, end) of B: sums (rows, panel_width).
  template <class B, class Put>
  void multiply(B const& b, std::int64_t begin, std::int64_t end, Put&& put) const {
    // amx_integers.hpp keeps off the last 12 bits of their addresses
    alignas(matrix_registers ? 4096 : 64) float sums[tile_panels<F> * most_rows * panel_width];
    for (std::int64_t p = begin, count; p < end; p += count) {
      count = std::min<std::int64_t>(B::abreast(rows_.rows()), end - p);
      multiply_panels(rows_, b, {p, 0, units_}, static_cast<int>(count), true, sums,
                      p + count < end ? piece{p + count, 0, units_} : piece{});
      for (std::int64_t i = 0; i < count; ++i)
        put(p + i, static_cast<float const*>(sums) + i * rows_.rows() * panel_width);
    }
  }

 private:
  std::int64_t units_;
  strips<F> rows_;
};

/// Numbers of room in which a block of B is packed or decoded: units, and scales.
inline constexpr std::int64_t right_room = panel_width * (depth + depth / 16);

/// Panels side by side, so that one row or two have eight chains of multiply-adds: fewer are slower than
/// memory.
constexpr int enough_panels(int rows) { return rows <= 2 ? 4 / rows : 1; }
/// Panels side by side of more rows than a tile has: a tile alone reads at the pace of memory, one by one.
template <format F>
constexpr int panels_for(int rows) {
  return rows > tile_height<F> ? tile_panels<F> : 1;
}

/// B from weights as they are stored: each block of a panel is packed when it is its turn.
template <format F>
struct packing {
  /// Rows that meet the weights where they are: what is packed would be read once or twice.
  static constexpr int few = F == format::f32 ? 2 : 0;
  static constexpr int abreast(int rows) { return panels_for<F>(rows); }

  transposed b;
  std::int64_t K;
  float* room;  // right_room numbers

  /// Where they are, rows of W are read from end to end.
  std::int64_t pass(int rows, std::int64_t panel) const { return stays(rows, panel) ? K : pieces; }

  void run(strips<F> const& a, piece const& now, int panels, bool, float* sums,
           piece const& then) const {
    if constexpr (few > 0)
      if (stays(a.rows(), now.panel))
        return a.rows() == 1 ? where_they_are<1>(a.first(), now, sums, then)
                             : where_they_are<2>(a.first(), now, sums, then);
    std::int64_t const begin = now.k * n, count = std::min(now.units * n, K - begin);
    std::int64_t const size = now.units * panel_width, there = ceil_div(count, n) * panel_width;
    b.pack<F>(now.panel, now.panel + panels, begin, count, room, now.units);
    for (int p = 0; p < panels; ++p)  // A is 0 there
      std::fill(room + p * size + there, room + (p + 1) * size, 0.0f);
    std::int64_t const last = std::min(then.panel + panels, b.panels());
    a.multiply(now.units, {room, panels, size}, now.k == 0 ? sink::fresh : sink::go_on, sums,
               [&](int t) {
                 if (then.units == 0) return ahead{};
                 return b
                     .ahead(then.panel, last, then.k * n, std::min(then.units * n, K - then.k * n),
                            t, a.tiles())
                     .during(now.units);
               });
  }

 private:
  static constexpr std::int64_t n = unit<F>::numbers;
  /// Units that are packed at a time. Pairs are multiplied more slowly than more of them come from the
  /// second-level cache.
  static constexpr std::int64_t pieces = F == format::f32 ? at_once : depth;
  static_assert(pieces * tile_panels<F> <= depth);

  bool stays(int rows, std::int64_t panel) const { return rows <= few && b.whole(panel); }
  /// A whole panel, which is turned over in registers. What is fetched ahead goes on with the rows that
  /// come next: behind a row's end stand others, that have been read.
  template <int Rows>
  void where_they_are(float const* a, piece const& now, float* sums, piece const& then) const {
    constexpr bool wide = FINEGRAIN_VECTOR_BYTES == 64;  // fetches as rows of codes do
    constexpr std::int64_t soon = (wide ? 16 : 8) * line;
    std::int64_t const stride = b.first.stride;
    for (int j = 0; j < vectors; ++j, sums += lanes) {
      float const* const from = b.vector(now.panel, j);
      float const* const next = j + 1 < vectors  ? b.vector(now.panel, j + 1)
                                : then.units > 0 ? b.vector(then.panel, 0)
                                                 : from;
      vec sum[Rows]{};
      std::int64_t k = 0;
      for (; k + lanes <= K; k += lanes) {
        float const* const later = k + soon < K ? from + k + soon : next + (k + soon - K);
        float const* row[lanes];
        FINEGRAIN_UNROLL
        for (int c = 0; c < lanes; ++c) {
          row[c] = from + c * stride;
          __builtin_prefetch(later + c * stride, 0, wide ? 2 : 3);
        }
        vec column[lanes];
        transpose(row, k, column);
        FINEGRAIN_UNROLL
        for (int c = 0; c < lanes; ++c) {
          FINEGRAIN_UNROLL
          for (int r = 0; r < Rows; ++r)
            add_product(broadcast(a[(k + c) * Rows + r]), column[c], sum[r]);
        }
      }
      if (k < K) {
        float const* row[lanes];
        for (int c = 0; c < lanes; ++c) row[c] = from + c * stride + k;
        vec column[lanes];
        transpose(row, lanes, K - k, column);
        for (int c = 0; k < K; ++k, ++c)
          for (int r = 0; r < Rows; ++r) add_product(broadcast(a[k * Rows + r]), column[c], sum[r]);
      }
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r) store(sums + r * panel_width, sum[r]);
    }
  }
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
