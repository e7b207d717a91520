// coded_tile: products of a few rows with panels of codes, which are decoded as they are met.
//
// For each step of k (codec.hpp) and vector of columns, 32 bits a lane are loaded and made the
// operands of a few multiply-adds, each with every row. Products that share the columns' scales are
// summed in one chain; the sum times these is added to the total. Beside integers the row has scales,
// too, of blocks of one sum or several (integers.hpp).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "code_layout.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Steps whose products are summed before they are scaled, by the weights' or a row's; 0: all.
template <format F>
inline constexpr std::int64_t summed_steps = [] {
  if constexpr (Integers<codec<F>::products>)
    return unit<codec<F>::products>::sum_units / step_units<F>;
  else
    return std::int64_t{codec<F>::block / step_numbers<F>};
}();

/// Whether operands are made of codes one by one; else all of a step's units, which the product may
/// take apart.
template <format F>
inline constexpr bool by_operand = Integers<codec<F>::products> ||
                                   (unit<format::bf16>::parts > 1 &&
                                    requires { decoder<F>::number(ivec{}, 0); });

/// Multiply-adds of a step with a row.
template <format F>
inline constexpr int step_multiply_adds = [] {
  using u = unit<codec<F>::products>;
  if constexpr (Integers<codec<F>::products>)
    return static_cast<int>(u::multiply_adds(step_units<F>));
  else
    return step_units<F> * u::parts;
}();
/// What the i-th of them takes of the codes.
template <format F>
FINEGRAIN_INLINE vec operand(ivec codes, int i) {
  if constexpr (!Integers<codec<F>::products>)
    return decoder<F>::number(codes, i);
  else if constexpr (byte_products)
    return decoder<F>::word(codes, i);
  else
    return decoder<F>::pair(codes, i);
}

/// A step's codes for vector j of panels `distance` bytes apart.
FINEGRAIN_INLINE ivec load_step(std::byte const* codes, std::int64_t distance, int j) {
  return load_codes(codes + j / vectors * distance + j % vectors * std::int64_t{sizeof(ivec)});
}

/// Whether a unit's operands are made together.
template <format F>
inline constexpr bool in_pairs = requires(vec (&to)[2]) {
  decoder<F>::numbers(ivec{}, 0, to);
};
/// Operands that are made of codes at a time: of one row four of its numbers stay in registers; a unit's two
/// where a tile leaves registers for them.
template <format F, int Rows>
inline constexpr int operands_at_once = in_pairs<F> ? (Rows <= tile_rows - 2 ? 2 : 1)
                                        : Rows == 1 ? std::min(step_multiply_adds<F>, 4)
                                                    : 1;
template <format F, int Count>
FINEGRAIN_INLINE void operands(ivec codes, int first, vec (&to)[Count]) {
  if constexpr (in_pairs<F> && Count % 2 == 0) {
    FINEGRAIN_UNROLL
    for (int i = 0; i < Count; i += 2) {
      vec both[2];
      decoder<F>::numbers(codes, (first + i) / 2, both);
      to[i] = both[0], to[i + 1] = both[1];
    }
  } else {
    FINEGRAIN_UNROLL
    for (int i = 0; i < Count; ++i) to[i] = operand<F>(codes, first + i);
  }
}
/// Whether the numbers that few rows meet are raised.
template <format F>
inline constexpr bool are_raised = [] {
  if constexpr (F == format::fp8) return codec<F>::raises;
  return false;
}();

/// sum += a . operands [First, First + Count) of a step, of some of a strip's rows.
template <format F, int Height, int First, int Count, int Rows, int Panels>
FINEGRAIN_INLINE void add_operands(float const* a, std::byte const*& codes, std::int64_t distance,
                                   [[maybe_unused]] bool subnormal,
                                   vec (&sum)[Rows][Panels * vectors]) {
  using u = unit<codec<F>::products>;
  constexpr int width = Panels * vectors;
  auto const columns = [&](int j, vec(&to)[Count]) __attribute__((always_inline)) {
    asm("" : "+r"(codes));  // or compilers keep codes in registers, and sums in memory
    operands<F>(load_step(codes, distance, j), First, to);
    if constexpr (are_raised<F>) codec<F>::raise(subnormal, to);
  };
  auto const row = [&](int r, int i) __attribute__((always_inline)) {
    return every_lane<codec<F>::products>(a[(First + i) * Height + r]);
  };
  if constexpr (Rows > width) {  // the fewer of the two stay in registers
    vec w[width][Count];
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) columns(j, w[j]);
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int i = 0; i < Count; ++i) {
        vec const x = row(r, i);
        FINEGRAIN_UNROLL
        for (int j = 0; j < width; ++j) u::multiply_add(x, w[j][i], sum[r][j]);
      }
    }
  } else {
    vec x[Rows][Count];
    FINEGRAIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      FINEGRAIN_UNROLL
      for (int i = 0; i < Count; ++i) x[r][i] = row(r, i);
    }
    FINEGRAIN_UNROLL
    for (int j = 0; j < width; ++j) {
      vec w[Count];
      columns(j, w);
      FINEGRAIN_UNROLL
      for (int i = 0; i < Count; ++i) {
        FINEGRAIN_UNROLL
        for (int r = 0; r < Rows; ++r) u::multiply_add(x[r][i], w[i], sum[r][j]);
      }
    }
  }
}
/// sum += a . a step, some operands at a time.
template <format F, int Height, int Rows, int Panels, int... At>
FINEGRAIN_INLINE void add_step(float const* a, std::byte const*& codes, std::int64_t distance,
                               vec (&sum)[Rows][Panels * vectors],
                               std::integer_sequence<int, At...>) {
  constexpr int some = operands_at_once<F, Rows>;
  bool subnormal = false;
  if constexpr (are_raised<F>) {
    ivec step[Panels * vectors];
    FINEGRAIN_UNROLL
    for (int j = 0; j < Panels * vectors; ++j) step[j] = load_step(codes, distance, j);
    subnormal = codec<F>::some_are_subnormal(step);
  }
  (add_operands<F, Height, At * some, some, Rows, Panels>(a, codes, distance, subnormal, sum), ...);
}
/// The same with units that are made of all codes before.
template <format F, int Rows, int Panels>
FINEGRAIN_INLINE void add_units(float const* a, std::byte const* codes, std::int64_t distance,
                                vec (&sum)[Rows][Panels * vectors], decoder<F> const& decode) {
  using u = unit<codec<F>::products>;
  constexpr int width = Panels * vectors;
  vec units[width][step_units<F>], w[width];
  FINEGRAIN_UNROLL
  for (int j = 0; j < width; ++j) decode.units(load_step(codes, distance, j), units[j]);
  FINEGRAIN_UNROLL
  for (int i = 0; i < step_multiply_adds<F>; ++i) {
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

/// Bytes, of all panels side by side. A loop that decodes has no room for the waits that the machine's own
/// fetching leaves.
inline constexpr std::int64_t fetched_ahead = 4096;
/// Whether products take codes so fast that fetching into the first level alone is not enough.
#if FINEGRAIN_VECTOR_BYTES == 64 || defined(FINEGRAIN_BYTE_PRODUCTS)
inline constexpr bool fetched_far = true;
#else
inline constexpr bool fetched_far = false;
#endif
/// What of the codes is fetched while rows meet a step: of one strip, what it reads next; of several, each a part
/// of what all read next, `pace` bytes a step, or memory would wait for the strips behind the first.
struct next_steps {};
struct next_piece {
  std::byte const* at;
  std::int64_t pace;
};
/// Fetches steps of panels `distance` bytes apart, the first of which ends at `end`: into the first level, and
/// from thrice as far into the second. Behind its end stand the panels that are read beside it, so that what is
/// read next stands behind all of them. With few places every other line goes into the second. Figures are in
/// docs/tried.md.
template <format F, int Panels, class Next>
FINEGRAIN_INLINE void fetch_steps(std::byte const* codes, std::int64_t distance,
                                  std::byte const* end, [[maybe_unused]] Next& next) {
  constexpr int bytes = code_layout<F>::step_bytes;
  constexpr bool halved = few_places && Panels > 1, twice = fetched_far && !halved;
  auto const from = [&](std::int64_t ahead) __attribute__((always_inline)) {
    std::byte const* const at = codes + ahead / Panels;
    return at < end ? at : at + (Panels - 1) * distance;
  };
  std::byte const *const soon = from(fetched_ahead), *const later = from(3 * fetched_ahead);
  FINEGRAIN_UNROLL
  for (int p = 0; p < Panels; ++p)
    for (int i = 0; i < bytes; i += halved ? 128 : 64) {
      __builtin_prefetch(soon + p * distance + i, 0, halved ? 2 : 3);
      if constexpr (twice && requires { next.pace; })
        __builtin_prefetch(next.at + next.pace * i / bytes, 0, 2);
      else if constexpr (twice)
        __builtin_prefetch(later + p * distance + i, 0, 2);
    }
  if constexpr (requires { next.pace; }) next.at += next.pace;
}

/// sum += a . so many steps of panels, the first of which ends at `end`, of some of a strip's rows.
template <format F, int Height, int Rows, int Panels, bool Fetches, class Next>
FINEGRAIN_INLINE void add_steps(float const* a, std::byte const* codes, std::int64_t distance,
                                std::int64_t steps, [[maybe_unused]] std::byte const* end,
                                vec (&sum)[Rows][Panels * vectors],
                                [[maybe_unused]] decoder<F> const& decode,
                                [[maybe_unused]] Next& next) {
  for (; steps > 0; --steps) {
    if constexpr (Fetches) fetch_steps<F, Panels>(codes, distance, end, next);
    if constexpr (by_operand<F>)
      add_step<F, Height, Rows, Panels>(
          a, codes, distance, sum,
          std::make_integer_sequence<int, step_multiply_adds<F> / operands_at_once<F, Rows>>());
    else
      add_units<F, Rows, Panels>(a, codes, distance, sum, decode);
    codes += code_layout<F>::step_bytes;
    a += step_multiply_adds<F> * Height;
  }
}

/// Sums of a row's block.
template <format F>
inline constexpr int block_sums = [] {
  if constexpr (Integers<codec<F>::products>) return unit<codec<F>::products>::block_sums;
  return 1;
}();

/// sums(panel, row, column) += a . so many steps, of some of a strip's rows. Those whose turn is first fetch
/// what comes next. Returns the codes behind the steps.
template <format F, int Height, int Rows, int Panels, bool Fetches, class Next>
FINEGRAIN_INLINE std::byte const* add_blocks(float const* a, [[maybe_unused]] float const* blocks,
                                             std::byte const* codes, std::int64_t distance,
                                             std::byte const* end_of_first, std::int64_t steps,
                                             std::int64_t sum_steps, float* sums,
                                             decoder<F> const& decode, Next& next) {
  constexpr format P = codec<F>::products;
  constexpr int width = Panels * vectors;
  constexpr bool scaled = codec<F>::block > 0, integers = Integers<P>;
  // of one block of several sums, or of blocks of one
  constexpr bool by_block = 1 < block_sums<F>, held = !by_block && totals_are_held<P>(Rows * width);
  [[maybe_unused]] float const* row_scales = nullptr;
  if constexpr (integers) row_scales = blocks + unit<P>::scale_at * Height;
  asm("" : "+r"(sums));  // or compilers keep totals in registers that are not there
  [[maybe_unused]] vec totals[Rows][width]{};
  auto const each = [&](int first, int last, auto const& f) __attribute__((always_inline)) {
    FINEGRAIN_UNROLL
    for (int j = first; j < last; ++j) {
      FINEGRAIN_UNROLL
      for (int r = 0; r < Rows; ++r)
        f(r, j, sums + (j / vectors * Height + r) * panel_width + j % vectors * lanes);
    }
  };
  if constexpr (held)
    each(
        0, width, [&](int r, int j, float const* at) __attribute__((always_inline)) {
          totals[r][j] = load(at);
        });
  for (; steps > 0; steps -= sum_steps) {
    std::int64_t const some = std::min(steps, sum_steps);
    vec sum[Rows][width];
    each(
        0, width, [&](int r, int j, float const* at) __attribute__((always_inline)) {
          if constexpr (integers)
            sum[r][j] = every_lane<P>(blocks[r]);
          else
            sum[r][j] = scaled ? vec{} : load(at);
        });
    add_steps<F, Height, Rows, Panels, Fetches>(a, codes, distance, some, end_of_first, sum, decode,
                                                next);
    a += some * step_multiply_adds<F> * Height;
    codes += some * code_layout<F>::step_bytes;
    if constexpr (!held) asm("" : "+r"(sums));
    FINEGRAIN_UNROLL
    for (int p = 0; p < Panels; ++p) {
      [[maybe_unused]] vec scale[vectors] = {vec{} + 1.0f, vec{} + 1.0f};
      if constexpr (scaled) load_scales<F>(codes + p * distance, scale);
      each(
          p * vectors,
          (p + 1) * vectors, [&](int r, int j, float* at) __attribute__((always_inline)) {
            if constexpr (by_block) {
              unit<P>::add_scaled(sum[r][j], scale[j % vectors], totals[r][j]);
            } else if constexpr (!integers && !scaled) {
              store(at, sum[r][j]);
            } else {
              vec total = held ? totals[r][j] : load(at);
              if constexpr (integers)
                unit<P>::add_scaled(sum[r][j], broadcast(blocks[unit<P>::scale_at * Height + r]),
                                    scale[j % vectors], total);
              else
                add_product(sum[r][j], scale[j % vectors], total);
              if constexpr (held)
                totals[r][j] = total;
              else
                store(at, total);
            }
          });
    }
    codes += scaled ? code_layout<F>::scale_bytes : 0;
    if constexpr (by_block)
      blocks += Height;
    else if constexpr (integers)
      blocks += unit<P>::block_floats * Height;
  }
  if constexpr (held)
    each(
        0, width, [&](int r, int j, float* at) __attribute__((always_inline)) {
          store(at, totals[r][j]);
        });
  if constexpr (by_block) {
    asm("" : "+r"(sums));
    each(
        0, width, [&](int r, int j, float* at) __attribute__((always_inline)) {
          vec total = load(at);
          add_product(totals[r][j], broadcast(row_scales[r]), total);
          store(at, total);
        });
  }
  return codes;
}

/// sums(panel, row, column) = or += a(Rows, K) . the steps [begin, end) of so many panels. `blocks`
/// is what integers of rows have for each block.
template <format F, int Rows, int Panels, class Next>
FINEGRAIN_ONE_COPY void coded_tile(float const* a, [[maybe_unused]] float const* blocks,
                                   code_layout<F> const& layout, std::byte const* panel,
                                   std::int64_t begin, std::int64_t end, float* sums,
                                   decoder<F> const& decode, Next next) {
  using product = unit<codec<F>::products>;
  // Rows that take turns wait for codes in bursts: not worth it where sums are scaled every 128 numbers.
  constexpr bool take_turns = [] {
    if constexpr (Integers<codec<F>::products>)
      return 1 < product::block_sums || 1 < product::turn_blocks;
    return false;
  }();
  constexpr int first =
      take_turns ? rows_in_turn<codec<F>::products>(Rows, 1 < block_sums<F>) : Rows;
  std::int64_t const distance = layout.panel_bytes();
  std::int64_t const sum_steps = summed_steps<F> > 0 ? summed_steps<F> : layout.steps();
  std::byte const* const end_of_first = panel + distance;
  std::byte const* codes = panel + layout.step_at(begin);
  if (begin == 0) std::fill_n(sums, Panels * Rows * panel_width, 0.0f);
  while (begin < end) {
    std::int64_t steps = end - begin;
    if constexpr (Integers<codec<F>::products>)
      steps = std::min(steps, product::turn_blocks * block_sums<F> * sum_steps);
    auto const add = [&]<int Some, bool Fetches>(int row) __attribute__((always_inline)) {
      return add_blocks<F, Rows, Some, Panels, Fetches>(a + row, blocks + row, codes, distance,
                                                        end_of_first, steps, sum_steps,
                                                        sums + row * panel_width, decode, next);
    };
    std::byte const* const behind = add.template operator()<first, true>(0);
    if constexpr (first < Rows) add.template operator()<Rows - first, false>(first);
    codes = behind;
    begin += steps;
    a += steps * step_multiply_adds<F> * Rows;
    if constexpr (Integers<codec<F>::products>)
      blocks += product::turn_blocks * product::block_floats * Rows;
  }
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
