// left: rows of A copied once, for products with many panels of B.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tile.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Units that hold so many numbers along k; of bf16 four at a time, because codes come so.
template <format F>
constexpr std::int64_t units_of(std::int64_t numbers) {
  return F == format::f32 ? numbers : ceil_div(numbers, 8) * 4;
}

/// Rows of A in units, as tiles read them: block by block of `depth` units, in each all rows. They
/// lie in the second-level cache.
template <format F>
class left_rows {
 public:
  static constexpr int most_rows = 112;

  /// Numbers of room that rows of K numbers want.
  static constexpr std::int64_t size(std::int64_t K) {
    constexpr std::int64_t enough = 3 << 16;
    return std::max(tile_rows * row_size(K), std::min(most_rows * row_size(K), enough));
  }
  /// Rows that it is wise to take at a time.
  static constexpr int most(std::int64_t K) {
    return static_cast<int>(std::min<std::int64_t>(most_rows, size(K) / row_size(K)));
  }

  /// Room for rows that are stored later. Units behind the last number are 0.
  left_rows(float* room, int rows, std::int64_t K)
      : room_(room), rows_(rows), units_(units_of<F>(K)) {
    constexpr std::int64_t n = unit<F>::numbers;
    for (int r = 0; r < rows && K < units_ * n; ++r)
      for (std::int64_t k = K / n; k < units_; ++k) std::fill_n(at(r, k), unit<F>::parts, 0.0f);
  }
  left_rows(float* room, row_list a, int rows, std::int64_t K) : left_rows(room, rows, K) {
    constexpr std::int64_t n = unit<F>::numbers;
    for (int r = 0; r < rows; ++r)
      for (std::int64_t k = 0; k * n < K; k += depth)
        unit<F>::keep(a[r] + k * n, std::min(depth * n, K - k * n), at(r, k));
  }
  /// A vector of a row's numbers, from k on, a multiple of `lanes`; 0 behind the row's end.
  FINEGRAIN_INLINE void store(int row, std::int64_t k, vec numbers) const {
    unit<F>::keep(numbers, at(row, k / unit<F>::numbers));
  }

  /// put(p, sums) with the product with each panel p of [begin, end) of B: sums (rows, panel_width).
  /// B has
  ///
  ///   pass                             units of a panel that all rows meet before the next
  ///   abreast(rows)                    panels that are multiplied side by side
  ///   run(rows, a, block, p, count, k, units, last, sums, next)
  ///                                    sums = or, from k = 0 on, += a . so much of `count` panels
  ///   next(p, k, units, part, parts)   what is to be fetched in a part of the time that it takes;
  ///                                    p is behind the last panel if there is nothing more
  template <class B, class Put>
  void multiply(B const& b, std::int64_t begin, std::int64_t end, Put&& put) const {
    alignas(64) float sums[most_rows * panel_width];
    make_starts();
    for (std::int64_t p = begin, count; p < end; p += count) {
      count = std::min<std::int64_t>(B::abreast(rows_), end - p);
      for (std::int64_t k = 0; k < units_; k += B::pass) {
        std::int64_t const units = std::min<std::int64_t>(B::pass, units_ - k);
        bool const more = k + units < units_;
        std::int64_t const then = more ? k + units : 0;
        b.run(rows_, at(0, k), rows_ * left_stride<F>, p, static_cast<int>(count), k, units, !more,
              sums, [&](int part, int parts) {
                using fetched = decltype(b.next(p, k, units, part, parts));
                if (!more && p + count == end) return fetched{};
                return b.next(more ? p : p + count, then,
                              std::min<std::int64_t>(B::pass, units_ - then), part, parts);
              });
      }
      for (std::int64_t i = 0; i < count; ++i)
        put(p + i, static_cast<float const*>(sums) + i * rows_ * panel_width);
    }
  }

  /// Where sums of blocks do not start at 0, that is kept behind each `depth` units of a row.
  void make_starts() const {
    if constexpr (requires { unit<F>::starting; })
      for (int r = 0; r < rows_; ++r)
        for (std::int64_t k = 0; k < units_; k += depth)
          unit<F>::start(at(r, k), std::min<std::int64_t>(depth, units_ - k),
                         starts_of<F>(at(r, k)));
  }

  /// Where a row's unit k stands; the same of the next block is rows * left_stride<F> on.
  float* at(int row, std::int64_t k) const {
    return room_ + (k / depth * rows_ + row) * left_stride<F> + k % depth * unit<F>::parts;
  }

 private:
  static constexpr std::int64_t row_size(std::int64_t K) {
    return ceil_div(units_of<F>(K), depth) * left_stride<F>;
  }

  float* room_;
  int rows_;
  std::int64_t units_;
};

/// Numbers of room in which a block of B is packed or decoded: units, and scales.
inline constexpr std::int64_t right_room = panel_width * (depth + depth / 16);

/// B from weights as they are stored: each block of a panel is packed when it is its turn.
template <format F>
struct packing {
  static constexpr std::int64_t pass = depth;
  /// Rows that meet the weights where they are: what is packed would be read once or twice. Longer
  /// registers pack at the pace of memory.
  static constexpr int few = F == format::f32 && registers == 16 ? 2 : 0;
  static constexpr int abreast(int) { return 1; }

  transposed b;
  std::int64_t K;
  float* room;  // right_room numbers

  template <class Next>
  void run(int rows, float const* a, std::int64_t block, std::int64_t p, int, std::int64_t k,
           std::int64_t units, bool, float* sums, Next&& next) const {
    if constexpr (few > 0)
      if (rows <= few && b.whole(p) && units % lanes == 0)
        return rows == 1 ? in_place<1>(a, p, k, units, sums) : in_place<2>(a, p, k, units, sums);
    b.pack<F>(p, p + 1, k * n, std::min(units * n, K - k * n), room, units);
    if (std::int64_t const there = ceil_div(K - k * n, n); there < units)  // A is 0 there
      std::fill(room + there * panel_width, room + units * panel_width, 0.0f);
    tiles<F>(rows, a, block, units, room, k == 0 ? sink::fresh : sink::go_on, sums, panel_width,
             next);
  }
  ahead next(std::int64_t p, std::int64_t k, std::int64_t units, int part, int parts) const {
    return b.ahead(p, p + 1, k * n, std::min(units * n, K - k * n), part, parts);
  }

 private:
  static constexpr std::int64_t n = unit<F>::numbers;

  /// sums = or += a . units [k, k + units) of panel p, whose weights are turned over in registers.
  template <int Rows>
  void in_place(float const* a, std::int64_t p, std::int64_t k, std::int64_t units,
                float* sums) const {
    constexpr std::int64_t soon = 4 * line;
    for (int j = 0; j < vectors; ++j, sums += lanes) {
      vec sum[Rows];
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r) sum[r] = k == 0 ? vec{} : load(sums + r * panel_width);
      float const* from = b.vector(p, j) + k;
      for (std::int64_t i = 0; i < units; i += lanes, from += lanes) {
        vec column[lanes];
        FINEGRAIN_UNROLL
        for (int c = 0; c < lanes; ++c) {
          column[c] = load(from + c * b.first.stride);
          __builtin_prefetch(from + c * b.first.stride + soon, 0, 3);
        }
        transpose(column);
        FINEGRAIN_UNROLL
        for (int c = 0; c < lanes; ++c) {
          FINEGRAIN_UNROLL
          for (int r = 0; r < Rows; ++r)
            add_product(broadcast(a[r * left_stride<F> + i + c]), column[c], sum[r]);
        }
      }
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r) store(sums + r * panel_width, sum[r]);
    }
  }
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
