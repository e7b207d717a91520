// coded: weights quantised once into panels of codes and scales, and products with them.
//
// A few rows meet the codes as they are decoded (coded_tile.hpp). For more rows a block of codes is
// decoded first, into a panel as any other's that all tiles share. Either way it is the same sums.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>

#include "coded_tile.hpp"
#include "panels.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// One matrix's panels of codes, as multiply_panels reads them.
template <format F>
struct coded_matrix {
  using code = codec<F>;
  static constexpr format products = code::products;
  static constexpr bool integers = Integers<products>, words = integers && byte_products;

  std::byte const* data;
  code_layout<F> layout;
  float* room;  // right_room numbers: decoded panels, and their scales

  static constexpr std::int64_t pass(int rows, std::int64_t) {
    return rows <= few ? depth : block_depth<products>;
  }
  static constexpr int abreast(int rows) {
    return by_operand<F> && rows <= 2 ? enough_panels(rows) : panels_for<products>(rows);
  }

  void run(strips<products> const& a, piece const& now, int count, bool last, float* sums,
           piece const& then) const {
    std::byte const* const panel = data + now.panel * layout.panel_bytes();
    if (a.rows() <= few) {
      few_rows(a, now, count, panel, sums,
               std::make_integer_sequence<int, std::min(few, strip_rows<products>)>());
    } else if constexpr (few < any_rows) {
      constexpr std::int64_t unit_bytes = code_layout<F>::step_bytes / step_units<F>;
      fetching<decoded>(
          data + then.panel * layout.panel_bytes() + layout.step_at(then.k / step_units<F>),
          then.units * unit_bytes, count, layout.panel_bytes(), a.tiles(), tile_units(now.units),
          [&](auto next) {
            for (std::int64_t u = 0; u < now.units; u += decoded_units)
              more_rows(a.after(u), {now.panel, now.k + u, std::min(decoded_units, now.units - u)},
                        count, panel, sums, next);
          });
    }
    if constexpr (code::block == 0)
      for (int i = 0; last && i < count; ++i)
        scale(panel + i * layout.panel_bytes(), a.rows(), sums + i * a.rows() * panel_width);
  }

 private:
  /// Rows that meet the codes as they are decoded: operand by operand, a tile's multiply-adds leave
  /// time for that. Registers for matrices take no codes.
  static constexpr int few = [] {
    if constexpr (requires { unit<products>::few; }) return unit<products>::few;
    if constexpr (unit<products>::deep > 1) return 0;
    return by_operand<F> ? std::min(tile_rows, strip_rows<products>) : 4;
  }();
  static_assert(products != format::fp8 || few == std::min(tile_rows, strip_rows<products>),
                "a strip of rows meets codes of fp8 as they are decoded");
  /// What codes are decoded to: units; words, of two units each; or floats, `parts` for a unit,
  /// where a product would take it apart.
  static constexpr int parts = [] {
    if constexpr (integers) return unit<products>::many_as_integers ? 1 : unit<products>::kept;
    return unit<products>::kept;
  }();
  static constexpr format decoded = parts > 1 ? format::f32 : products;
  /// Rows of the decoded panel for so many units.
  static constexpr std::int64_t panel_rows(std::int64_t units) {
    return words ? units / 2 : units * parts;
  }
  /// The same as tiles count.
  static constexpr std::int64_t tile_units(std::int64_t units) {
    return in_matrices<decoded> ? units : panel_rows(units);
  }
  /// Units at a time whose decoded panel stays in the first-level cache, with a tile's rows.
  static constexpr std::int64_t decoded_units = words ? depth : at_once / parts;
  /// Whether words are codes times the integers in their scales.
  static constexpr bool scaled_bytes = words && F == format::int4;
  /// Units of a decoded panel whose products are summed before they are scaled; 0: all.
  static constexpr std::int64_t block_units = [] {
    if constexpr (integers) return unit<products>::block_units;
    return summed_steps<F> * step_units<F>;
  }();
  static_assert(!integers || decoded_units % std::max<std::int64_t>(block_units, 1) == 0,
                "pieces of integers are whole blocks");

  template <int... R>
  void few_rows(strips<products> const& a, piece const& now, int count, std::byte const* panel,
                float* sums, std::integer_sequence<int, R...>) const {
    decoder<F> const tables;
    std::int64_t const begin = now.k / step_units<F>;
    std::int64_t const end = begin + now.units / step_units<F>;
    std::byte const* const behind = panel + layout.step_at(end);
    std::int64_t const bytes = behind - (panel + layout.step_at(begin));
    a.each([&](int top, int height, float const* strip, float const* blocks) {
      std::int64_t done = 0;  // panels
      auto const run = [&]<int Rows, int Panels>(auto next) {
        for (; height == Rows && count - done >= Panels; done += Panels)
          coded_tile<F, Rows, Panels>(strip, blocks, layout, panel + done * layout.panel_bytes(),
                                      begin, end, sums + (done * a.rows() + top) * panel_width,
                                      tables, next);
      };
      if constexpr (few > strip_rows<products>)
        if (height < a.rows()) {
          next_piece const next{behind + bytes * top / a.rows(),
                                layout.step_bytes * height / a.rows()};
          return (run.template operator()<R + 1, 1>(next), ...);
        }
      next_steps const next;
      if constexpr (abreast(1) == 4) run.template operator()<1, 4>(next);
      if constexpr (abreast(1) >= 2) run.template operator()<1, 2>(next);
      if constexpr (abreast(2) == 2) run.template operator()<2, 2>(next);
      (run.template operator()<R + 1, 1>(next), ...);
    });
  }

  /// The same of up to decoded_units, for all tiles.
  template <Flow Next>
  void more_rows(strips<products> const& a, piece const& now, int count, std::byte const* panel,
                 float* sums, Next& next) const {
    constexpr int n = step_units<F>;
    constexpr std::int64_t size = panel_rows(decoded_units) * panel_width;
    static_assert(tile_panels<products> * size <= depth * panel_width);
    bool const there = are_words(now.units);
    for (int i = 0; !there && i < count; ++i) {
      std::byte const* const from = panel + i * layout.panel_bytes();
      std::int64_t const begin = now.k / n, end = (now.k + now.units) / n;
      if constexpr (scaled_bytes)
        decode_scaled(from, begin, end, room + i * size, scales() + i * scales_apart);
      else
        decode(from, begin, end, room + i * size, scales() + i * scales_apart);
    }
    if constexpr (block_units == 0) {
      static_assert(tile_panels<products> == 1);
      a.template multiply<decoded>(panel_rows(now.units), {room},
                                   now.k == 0 ? sink::fresh : sink::go_on, sums, next);
    } else {
      if (now.k == 0) std::fill_n(sums, count * a.rows() * panel_width, 0.0f);
      panels_abreast b{room, count, size, 0, code::block > 0 ? scales() : nullptr, scales_apart};
      if (there) {
        b.first = reinterpret_cast<float const*>(panel + layout.step_at(now.k / n));
        b.apart = layout.panel_bytes() / 4;
      }
      a.template multiply_scaled<decoded>(tile_units(now.units), panel_rows(block_units), b, sums,
                                          next);
    }
  }
  /// Whether codes are words where they stand: of 8 bits, with no scales among them. Registers for
  /// matrices read whole ones.
  static constexpr bool are_words(std::int64_t units) {
    if constexpr (words)
      return code::bits == 8 && code::block == 0 &&
             (!in_matrices<products> || units % (2 * unit<products>::register_words) == 0);
    return false;
  }
  /// Steps [begin, end) as a product takes them, and their blocks' scales.
  FINEGRAIN_ONE_COPY void decode(std::byte const* panel, std::int64_t begin, std::int64_t end,
                                 float* to, float* to_scales) const {
    constexpr int rows = static_cast<int>(panel_rows(step_units<F>));
    [[maybe_unused]] decoder<F> const tables;
    for (std::int64_t s = begin; s < end;) {
      std::int64_t const b = s / layout.block_steps();
      std::int64_t const stop = std::min(end, (b + 1) * layout.block_steps());
      std::byte const* codes = panel + layout.step_at(s);
      for (; s < stop; ++s, codes += layout.step_bytes, to += rows * panel_width)
        for (int j = 0; j < vectors; ++j) {
          ivec const c = load_codes(codes + j * std::int64_t{sizeof(ivec)});
          vec made[rows];
          if constexpr (!by_operand<F>) {
            vec units[step_units<F>];
            tables.units(c, units);
            FINEGRAIN_UNROLL
            for (int i = 0; i < rows; ++i)
              made[i] = unit<products>::part(units[i / parts], i % parts);
          } else if constexpr (integers && decoded == format::f32) {
            FINEGRAIN_UNROLL
            for (int i = 0; i < rows; ++i) made[i] = decoder<F>::number(c, i);
          } else {
            operands<F>(c, 0, made);
            if constexpr (F == format::fp8)
              for (vec& x : made) x = code::normal(x);
          }
          FINEGRAIN_UNROLL
          for (int i = 0; i < rows; ++i) store(to + i * panel_width + j * lanes, made[i]);
        }
      if constexpr (code::block > 0) {
        vec by[vectors];
        load_scales<F>(panel + layout.scales_at(b), by);
        for (int j = 0; j < vectors; ++j) store(to_scales + j * lanes, by[j]);
        to_scales += panel_width;
      }
    }
  }
  /// The same of words of int4, whose blocks share a power of 2 by fours: it remains for the sums.
  FINEGRAIN_ONE_COPY void decode_scaled(std::byte const* panel, std::int64_t begin,
                                        std::int64_t end, float* to, float* to_powers) const {
    std::int64_t const steps = layout.block_steps();
    for (std::int64_t s = begin; s < end;) {
      vec scales[code::sharing][vectors]{}, power[vectors];
      for (std::int64_t i = 0; i < code::sharing && s + i * steps < end; ++i)
        load_scales<F>(panel + layout.scales_at(s / steps + i), scales[i]);
      FINEGRAIN_UNROLL
      for (int j = 0; j < vectors; ++j) {
        power[j] = common_power({scales[0][j], scales[1][j], scales[2][j], scales[3][j]});
        store(to_powers + j * lanes, power[j]);
      }
      to_powers += panel_width;
      for (int i = 0; i < code::sharing && s < end; ++i) {
        scaled_words const by[vectors] = {{scales[i][0], power[0]}, {scales[i][1], power[1]}};
        std::byte const* codes = panel + layout.step_at(s);
        std::int64_t const stop = std::min(end, s + steps);
        for (; s < stop; ++s, codes += layout.step_bytes, to += 2 * panel_width) {
          FINEGRAIN_UNROLL
          for (int j = 0; j < vectors; ++j) {
            ivec const c = load_codes(codes + j * std::int64_t{sizeof(ivec)});
            store(to + j * lanes, by[j](decoder<F>::word(c, 0)));
            store(to + panel_width + j * lanes, by[j](decoder<F>::word(c, 1)));
          }
        }
      }
    }
  }
  float* scales() const { return room + depth * panel_width; }
  static constexpr std::int64_t scales_apart = depth / 16 / tile_panels<products> * panel_width;

  /// Products with codes whose scale is one for all of k.
  void scale(std::byte const* panel, int rows, float* sums) const {
    vec by[vectors];
    load_scales<F>(panel + layout.scales_at(0), by);
    for (int j = 0; j < vectors; ++j)
      for (int r = 0; r < rows; ++r) {
        float* const at = sums + r * panel_width + j * lanes;
        store(at, load(at) * by[j]);
      }
  }
};

/// Panels of codes.
template <format F>
requires(Quantised<F>) struct panels<F> : panel_shape {
  using code = codec<F>;
  static constexpr format products = code::products;
  std::byte* data = nullptr;

  constexpr panels() = default;
  constexpr panels(arena& memory, std::int64_t count, std::int64_t rows, std::int64_t cols,
                   int sides = 1)
      : panel_shape{count, rows, cols, sides},
        data(memory.take<std::byte>(count * matrix_bytes())) {}

  coded_matrix<F> matrix(std::int64_t i, float* room) const {
    return {data + i * matrix_bytes(), {cols}, room};
  }
  /// One matrix alone.
  panels only(std::int64_t i) const {
    panels one = *this;
    one.data += i * matrix_bytes(), one.count = 1;
    return one;
  }

  /// How many panels must be packed by one task: those whose rows may share scales.
  constexpr std::int64_t together() const {
    return std::max<std::int64_t>(1, code::outputs / width());
  }
  /// Packs weights w (rows, cols) as vector j of the panels [p, last) of matrix i. They are together()
  /// panels, or as many as are left.
  void pack(finegrain::matrix<float const> w, int j, std::int64_t i, std::int64_t p,
            std::int64_t last) const {
    auto const at = layout();
    constexpr int n = step_numbers<F>, all = (1 << code::bits) - 1;
    std::int64_t const top = first_row(p, j);
    [[maybe_unused]] vec power{};  // int4's
    for (std::int64_t b = 0; b < at.blocks(); ++b) {
      std::int64_t const step = b * at.block_steps(), k = step * n;
      std::int64_t const stop = std::min(at.steps(), step + at.block_steps());
      std::int64_t const there = std::clamp<std::int64_t>(cols - k, 0, (stop - step) * n);
      vec common{};
      if constexpr (code::outputs > 1) {  // of both vectors' rows: the whole square
        for (std::int64_t r = p * width(); r < p * width() + code::outputs; r += lanes)
          common = larger(common, magnitude(most_of(w, r, k, there)));
        common = vec{} + largest(common);
      }
      for (std::int64_t q = p; q < last; ++q) {
        std::byte* const panel = data + i * matrix_bytes() + q * at.panel_bytes();
        std::int64_t const row = top + (q - p) * width();
        vec exact, scales{};
        if constexpr (F == format::int4) {
          if (b % code::sharing == 0)  // of the only panel: its rows share no scales
            power = code::power(most_of(
                w, row, k, std::clamp<std::int64_t>(cols - k, 0, code::sharing * code::block)));
          vec block[code::block]{};
          each_columns(w, row, k, there, there,
                       [&](std::int64_t first, vec const(&columns)[lanes]) {
                         std::copy_n(columns, lanes, block + first);
                       });
          exact = code::scale(block, power);
        } else {
          exact = code::scale(code::outputs > 1 ? common : most_of(w, row, k, there));
        }
        for (int lane = 0; lane < lanes; ++lane) {
          bf16 const scale(exact[lane]);
          std::memcpy(panel + at.scales_at(b) + (lane * vectors + j) * 2, &scale, sizeof scale);
          scales[lane] = static_cast<float>(scale);
        }
        std::byte* to = panel + at.step_at(step) + j * std::int64_t{sizeof(ivec)};
        auto const there_is = scales != 0.0f;
        vec const divisor = there_is ? scales : vec{} + 1.0f;
        ivec codes{};
        each_columns(w, row, k, there, (stop - step) * n,
                     [&](std::int64_t first, vec const(&columns)[lanes]) {
                       FINEGRAIN_UNROLL
                       for (int c = 0; c < lanes; ++c) {
                         int const place = static_cast<int>(first + c) % n;
                         vec const x = there_is ? columns[c] / divisor : vec{};
                         codes |= (code::codes(x) & all) << bit_of_code(code::bits, place);
                         if (place < n - 1) continue;
                         std::memcpy(to, &codes, sizeof codes);
                         codes = ivec{}, to += at.step_bytes;
                       }
                     });
      }
    }
  }

 private:
  constexpr code_layout<F> layout() const { return {cols}; }
  constexpr std::int64_t matrix_bytes() const { return size() * layout().panel_bytes(); }

  /// put(k, columns) for every `lanes` numbers [k, k + lanes) of `count` of rows [top, top + lanes), as columns;
  /// from number `there` on, and for rows that are missing, they are 0.
  template <class Put>
  static void each_columns(finegrain::matrix<float const> w, std::int64_t top, std::int64_t begin,
                           std::int64_t there, std::int64_t count, Put&& put) {
    float const* from[lanes];
    std::int64_t const n = std::clamp<std::int64_t>(w.rows - top, 0, lanes);
    for (int r = 0; r < lanes; ++r) from[r] = r < n ? w.row(top + r) + begin : nullptr;
    for (std::int64_t k = 0; k < count; k += lanes) {
      vec columns[lanes]{};
      if (n == lanes && k + lanes <= there) {
        transpose(from, k, columns);
      } else if (k < there) {
        float const* here[lanes];
        for (int r = 0; r < lanes; ++r) here[r] = r < n ? from[r] + k : nullptr;
        transpose(here, n, std::min<std::int64_t>(lanes, there - k), columns);
      }
      put(k, columns);
    }
  }
  /// The first of those of the largest magnitude, of each row.
  static vec most_of(finegrain::matrix<float const> w, std::int64_t top, std::int64_t begin,
                     std::int64_t count) {
    vec most{};
    each_columns(w, top, begin, count, count, [&](std::int64_t, vec const(&columns)[lanes]) {
      FINEGRAIN_UNROLL
      for (int i = 0; i < lanes; ++i)
        most = magnitude(columns[i]) > magnitude(most) ? columns[i] : most;
    });
    return most;
  }
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
