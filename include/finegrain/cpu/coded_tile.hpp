// coded_tile: products of a few rows with codes, which are decoded as they are met.
//
// Within a block that shares a scale, products with the codes' values are summed in one chain; the
// block's sum times its scale is added to the total.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "codec.hpp"
#include "panels.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Where things stand in a panel: block after block of k, in each the codes, k by k two vectors of
/// them, and then panel_width scales: as bf16 units, the first vector's in the lower halves.
template <format F>
struct code_layout {
  using code = codec<F>;
  static constexpr int step_units = units_of_codes<F>, step_numbers = numbers_of_codes<F>;
  static constexpr std::int64_t step_bytes = panel_width * 4, scale_bytes = panel_width * 2;
  std::int64_t K;  // numbers along k

  constexpr std::int64_t steps() const { return units_of<code::products>(K) / step_units; }
  /// At least one, though a matrix may have no columns, and then has no block.
  constexpr std::int64_t block_steps() const {
    return code::block == 0 ? std::max<std::int64_t>(steps(), 1) : code::block / step_numbers;
  }
  constexpr std::int64_t blocks() const { return ceil_div(steps(), block_steps()); }
  constexpr std::int64_t panel_bytes() const {
    return steps() * step_bytes + blocks() * scale_bytes;
  }
  /// The bytes before a step's codes.
  constexpr std::int64_t at(std::int64_t step) const {
    return step * step_bytes + step / block_steps() * scale_bytes;
  }
  /// The bytes before a block's scales.
  constexpr std::int64_t scales_at(std::int64_t block) const {
    return std::min(steps(), (block + 1) * block_steps()) * step_bytes + block * scale_bytes;
  }
};

/// Steps whose products are summed before they are scaled, by the weights' scale or a row's; 0: all.
template <format F>
inline constexpr std::int64_t summed_steps = [] {
  if constexpr (Integers<codec<F>::products>)
    return unit<codec<F>::products>::block_units / code_layout<F>::step_units;
  else
    return std::int64_t{codec<F>::block / code_layout<F>::step_numbers};
}();

/// Bytes, of all panels side by side. Who decodes number by number has no room for the waits that the
/// machine's own fetching leaves. For one row or two in registers of 64 bytes it is the second level
/// that is fetched into, which docs/tried.md has figures of.
inline constexpr std::int64_t fetched_ahead = 4096;

FINEGRAIN_INLINE ivec load_codes(std::byte const* from) {
  ivec codes;
  __builtin_memcpy(&codes, from, sizeof codes);
  return codes;
}
/// Scales of both vectors of a panel, for sums of the codes' values as decoders make them.
template <format F>
FINEGRAIN_INLINE void load_scales(std::byte const* from, vec (&to)[vectors]) {
  ivec const units = load_codes(from);
  to[0] = reinterpret_cast<vec>(units << 16), to[1] = reinterpret_cast<vec>(units & -65536);
  if constexpr (codec<F>::times != 1)
    for (vec& scale : to) scale *= codec<F>::times;
}

/// Whether codes become floats or integers one by one, or units that a product takes apart.
template <format F>
inline constexpr bool by_number = Integers<codec<F>::products> ||
                                  (unit<format::bf16>::parts > 1 &&
                                   requires { decoder<F>::part(ivec{}, 0, 0); });

/// Multiply-adds of a step's codes with a row.
template <format F>
inline constexpr int parts_of_step = [] {
  using u = unit<codec<F>::products>;
  if constexpr (Integers<codec<F>::products>)
    return static_cast<int>(u::multiply_adds(units_of_codes<F>));
  else
    return units_of_codes<F> * u::parts;
}();
/// What the i-th multiply-add of a step takes of its codes, and a vector of what it takes of A: integers,
/// which must not go through floats' arithmetic, or floats.
template <format F>
FINEGRAIN_INLINE vec part_of(ivec codes, int i) {
  using u = unit<codec<F>::products>;
  if constexpr (Integers<codec<F>::products> && byte_products)
    return decoder<F>::words(codes, i);
  else if constexpr (Integers<codec<F>::products>)
    return decoder<F>::integers(codes, i);
  else
    return decoder<F>::part(codes, i / u::parts, i % u::parts);
}
/// A step's codes for vector j of panels `distance` bytes apart.
FINEGRAIN_INLINE std::byte const* codes_at(std::byte const* codes, std::int64_t distance, int j) {
  return codes + j / vectors * distance + j % vectors * std::int64_t{sizeof(ivec)};
}

/// sum += a . number At of each code, decoded alone.
template <format F, int Rows, int Panels, int At>
FINEGRAIN_INLINE void add_number(float const* a, std::byte const*& codes, std::int64_t distance,
                                 vec (&sum)[Rows][Panels * vectors]) {
  using u = unit<codec<F>::products>;
  asm("" : "+r"(codes));  // or compilers keep codes in registers, and sums in memory
  constexpr int width = Panels * vectors;
  auto const number = [&](int j) __attribute__((always_inline)) {
    return part_of<F>(load_codes(codes_at(codes, distance, j)), At);
  };
  auto const row = [&](int r) __attribute__((always_inline)) {
    return every_lane<codec<F>::products>(a[At * Rows + r]);
  };
  if constexpr (Rows > width) {  // the fewer of the two stay in registers
    vec w[width];
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) w[j] = number(j);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = row(r);
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) u::multiply_add(x, w[j], sum[r][j]);
    }
  } else {
    vec x[Rows];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) x[r] = row(r);
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) {
      vec const w = number(j);
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r) u::multiply_add(x[r], w, sum[r][j]);
    }
  }
}
template <format F, int Rows, int Panels, int... At>
FINEGRAIN_INLINE void add_numbers(float const* a, std::byte const*& codes, std::int64_t distance,
                                  vec (&sum)[Rows][Panels * vectors],
                                  std::integer_sequence<int, At...>) {
  (add_number<F, Rows, Panels, At>(a, codes, distance, sum), ...);
}
/// The same for one row: four of its numbers stay in registers, and a code is loaded once for them.
template <format F, int Panels>
FINEGRAIN_INLINE void add_numbers(float const* a, std::byte const* codes, std::int64_t distance,
                                  vec (&sum)[1][Panels * vectors]) {
  using u = unit<codec<F>::products>;
  constexpr int all = parts_of_step<F>, some = std::min(all, 4);
  FINEGRAIN_UNROLL
  for (int first = 0; first < all; first += some) {
    vec x[some];
    FINEGRAIN_UNROLL
    for (int i = 0; i < some; ++i) x[i] = every_lane<codec<F>::products>(a[first + i]);
    FINEGRAIN_UNROLL
    for (int j = 0; j < Panels * vectors; ++j) {
      ivec const c = load_codes(codes_at(codes, distance, j));
      FINEGRAIN_UNROLL
      for (int i = 0; i < some; ++i) u::multiply_add(x[i], part_of<F>(c, first + i), sum[0][j]);
    }
  }
}
/// sum += a . the numbers of each code, decoded unit by unit.
template <format F, int Rows, int Panels>
FINEGRAIN_INLINE void add_units(float const* a, std::byte const* codes, std::int64_t distance,
                                vec (&sum)[Rows][Panels * vectors], decoder<F> const& decode) {
  using u = unit<codec<F>::products>;
  constexpr int n = units_of_codes<F>, width = Panels * vectors;
  vec units[width][n], w[width];
  FINEGRAIN_UNROLL
  for (int j = 0; j < width; ++j) decode.units(load_codes(codes_at(codes, distance, j)), units[j]);
  FINEGRAIN_UNROLL
  for (int i = 0; i < n * u::parts; ++i) {
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) w[j] = u::part(units[j][i / u::parts], i % u::parts);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      vec const x = every_lane<codec<F>::products>(a[i * Rows + r]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j) u::multiply_add(x, w[j], sum[r][j]);
    }
  }
}
/// sum += a . the values of so many steps of codes, of panels `distance` bytes apart, the first of which
/// ends at `behind`. What is fetched ahead goes on there with the panels behind them all.
template <format F, int Rows, int Panels>
FINEGRAIN_INLINE void add_codes(float const* a, std::byte const* codes, std::int64_t distance,
                                std::int64_t steps, [[maybe_unused]] std::byte const* behind,
                                vec (&sum)[Rows][Panels * vectors],
                                [[maybe_unused]] decoder<F> const& decode) {
  constexpr int numbers = parts_of_step<F>;
  for (; steps > 0; --steps, codes += code_layout<F>::step_bytes, a += numbers * Rows) {
    if constexpr (by_number<F>) {
      std::byte const* soon = codes + fetched_ahead / Panels;
      soon += soon < behind ? 0 : (Panels - 1) * distance;
      FINEGRAIN_UNROLL
      for (int p = 0; p < Panels; ++p) {
        if constexpr (FINEGRAIN_VECTOR_BYTES == 64 && Panels > 1) {
          __builtin_prefetch(soon + p * distance, 0, 2);
        } else {
          for (int i = 0; i < code_layout<F>::step_bytes; i += 64)
            __builtin_prefetch(soon + p * distance + i, 0, 3);
        }
      }
    }
    if constexpr (by_number<F> && Rows == 1)
      add_numbers<F, Panels>(a, codes, distance, sum);
    else if constexpr (by_number<F>)
      add_numbers<F, Rows, Panels>(a, codes, distance, sum,
                                   std::make_integer_sequence<int, numbers>());
    else
      add_units<F, Rows, Panels>(a, codes, distance, sum, decode);
  }
}

/// sums(Rows, panel_width) of each of so many panels = or += a . the values of steps [begin, end).
template <format F, int Rows, int Panels>
FINEGRAIN_ONE_COPY void coded_tile(float const* a, [[maybe_unused]] float const* blocks,
                                   code_layout<F> const& layout, std::byte const* panel,
                                   std::int64_t begin, std::int64_t end, float* sums,
                                   decoder<F> const& decode) {
  constexpr format P = codec<F>::products;
  constexpr int width = Panels * vectors;
  constexpr bool scaled = codec<F>::block > 0, integers = Integers<P>;
  std::int64_t const distance = layout.panel_bytes();
  std::int64_t const block_steps = summed_steps<F> > 0 ? summed_steps<F> : layout.steps();
  std::byte const* const behind = panel + distance;
  std::byte const* codes = panel + layout.at(begin);
  auto const sum_at = [&](int r, int j) {
    return sums + (j / vectors * Rows + r) * panel_width + j % vectors * lanes;
  };
  if (begin == 0) std::fill_n(sums, Panels * Rows * panel_width, 0.0f);
  while (begin < end) {
    std::int64_t const steps = std::min(end - begin, block_steps);
    vec sum[Rows][width];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int j = 0; j < width; ++j)
        if constexpr (integers)
          sum[r][j] = every_lane<codec<F>::products>(blocks[r]);
        else
          sum[r][j] = scaled ? vec{} : load(sum_at(r, j));
    }
    add_codes<F, Rows, Panels>(a, codes, distance, steps, behind, sum, decode);
    begin += steps;
    a += steps * parts_of_step<F> * Rows;
    codes += steps * layout.step_bytes;
    asm("" : "+r"(sums));  // or compilers keep totals in registers that are not there
    FINEGRAIN_UNROLL
    for (int p = 0; p < Panels; ++p) {
      [[maybe_unused]] vec scale[vectors] = {vec{} + 1.0f, vec{} + 1.0f};
      if constexpr (scaled) load_scales<F>(codes + p * distance, scale);
      FINEGRAIN_UNROLL
      for (int j = p * vectors; j < (p + 1) * vectors; ++j) {
        FINEGRAIN_UNROLL
        for (int r = 0; r < Rows; ++r) {
          if constexpr (!integers && !scaled) {
            store(sum_at(r, j), sum[r][j]);
            continue;
          }
          vec total = load(sum_at(r, j));
          if constexpr (integers)
            unit<P>::add_scaled(sum[r][j], blocks[Rows + r], scale[j % vectors], total);
          else
            add_product(sum[r][j], scale[j % vectors], total);
          store(sum_at(r, j), total);
        }
      }
    }
    if constexpr (integers) blocks += unit<P>::block_floats * Rows;
    codes += scaled ? layout.scale_bytes : 0;
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
