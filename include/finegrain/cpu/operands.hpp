// operands: what a product reads, and how it is copied to where it stays in a cache, in units of any
// format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/bounds.hpp"
#include "../base/matrix.hpp"
#include "executor.hpp"
#include "meanwhile.hpp"
#include "unit.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// Rows of numbers by index: row i, or row index[i]. Of weights, row i also in bf16.
struct row_list {
  float const* data = nullptr;
  std::int64_t stride = 0;
  std::int32_t const* index = nullptr;
  bf16 const* rounded = nullptr;

  row_list() = default;
  row_list(copied_weights const& w)  // NOLINT(*-explicit*)
      : data(w.data), stride(w.stride), rounded(w.rounded) {}
  row_list(matrix<float const> m, std::int32_t const* index = nullptr)  // NOLINT(*-explicit*)
      : data(m.data), stride(m.stride), index(index) {}
  row_list(matrix<float> m) : row_list(matrix<float const>(m)) {}  // NOLINT(*-explicit*)
  float const* operator[](std::int64_t i) const { return data + (index ? index[i] : i) * stride; }
  /// The rows from row i on.
  row_list after(std::int64_t i) const {
    row_list rest = *this;
    if (index)
      rest.index += i;
    else
      rest.data += i * stride, rest.rounded += rounded ? i * stride : 0;
    return rest;
  }
};

/// Columns of up to `lanes` rows of as many numbers; what is missing is 0.
FINEGRAIN_INLINE void transpose(float const* const* from, std::int64_t rows, std::int64_t cols,
                                vec (&columns)[lanes]) {
  if (cols == lanes) {
    FINEGRAIN_UNROLL
    for (int r = 0; r < lanes; ++r) columns[r] = r < rows ? load(from[r]) : vec{};
  } else {
    for (int r = 0; r < lanes; ++r) columns[r] = r < rows ? load_first(from[r], cols) : vec{};
  }
  transpose(columns);
}
/// to[c * stride + r] = from[r][c] for up to `lanes` rows and columns, and zeros to a whole vector.
FINEGRAIN_INLINE void transpose(float const* const* from, std::int64_t rows, std::int64_t cols,
                                float* to, std::int64_t stride) {
  vec columns[lanes];
  if (rows == lanes && cols == lanes) {
    transpose(from, 0, columns);
    FINEGRAIN_UNROLL
    for (int c = 0; c < lanes; ++c) store(to + c * stride, columns[c]);
    return;
  }
  transpose(from, rows, cols, columns);
  for (std::int64_t c = 0; c < cols; ++c) store(to + c * stride, columns[c]);
}

/// What is to be fetched of rows in bf16, in floats: half as many.
inline ahead halves_ahead(bf16 const* first, std::int64_t stride, std::int64_t rows,
                          std::int64_t length) {
  return {reinterpret_cast<float const*>(first), stride / 2, rows, length / 2};
}

/// A vector's columns of a panel, from up to `lanes` rows of `count` numbers each, N: units of k, one
/// after the other, panel_width apart. Missing rows are 0.
template <format F, class N>
void pack_rows(N const* const* rows, std::int64_t n, std::int64_t count, float* to) {
  constexpr std::int64_t stretch = lanes * unit<F>::numbers;  // of k, for `lanes` units
  N const* from[lanes];
  for (int r = 0; r < lanes; ++r) from[r] = r < n ? rows[r] : nullptr;
  std::int64_t k = 0;
  if constexpr (F == format::f32)
    if (n == lanes)  // whole vectors, without a condition for each row
      for (; k + lanes <= count; k += lanes, to += lanes * panel_width) {
        vec columns[lanes];
        transpose(rows, k, columns);
        FINEGRAIN_UNROLL
        for (int c = 0; c < lanes; ++c) store(to + c * panel_width, columns[c]);
      }
  for (int r = 0; r < n; ++r) from[r] += k;
  for (; k < count; k += stretch, to += lanes * panel_width) {
    std::int64_t const ks = std::min(stretch, count - k);
    if constexpr (F == format::f32) {
      transpose(from, n, ks, to, panel_width);
    } else {
      float block[lanes][lanes];
      float const* units[lanes];
      std::int64_t const there = ceil_div(ks, unit<F>::numbers), all = product_units<F>(ks);
      for (int r = 0; r < lanes; ++r) {
        units[r] = block[r];
        if (r < n) unit<F>::take(from[r], ks, block[r]);
        if (there < all) std::fill(block[r] + there, block[r] + all, 0.0f);
      }
      transpose(units, n, all, to, panel_width);
    }
    for (std::int64_t r = 0; r < n; ++r) from[r] += stretch;
  }
}

/// The same from numbers [k0, k0 + count) of rows [begin, begin + lanes) of w, as far as it has them, or of
/// `data` in its place.
template <format F, class N>
void pack_vector(N const* data, matrix<float const> w, std::int64_t begin, std::int64_t k0,
                 std::int64_t count, float* to) {
  N const* from[lanes];
  std::int64_t const n = std::clamp<std::int64_t>(w.rows - begin, 0, lanes);
  for (std::int64_t i = 0; i < n; ++i) from[i] = data + (begin + i) * w.stride + k0;
  pack_rows<F>(from, n, count, to);
}

// B of a product (transposed, straight) is a number of panels, of which `multiply` takes some and some of
// k at a time:
//
//   group<F>, units<F>         panels, and units of k, that are packed at a time
//   pack<F>(first, last, k0, count, to, distance)
//                              packs numbers [k0, k0 + count) of k of panels [first, last), `distance`
//                              units apart
//   in_pieces<F>               whether that is done part by part, by pack_part, while the panels before
//                              are multiplied
//   ahead(first, last, k0, count, part, parts)
//                              what a tile fetches of what is packed next

/// B = W^T for weights stored [out][in]: column n of B is row n of W. Or two of one shape side by
/// side, gate and up: the first half of a panel's vectors from the one, the second from the other.
struct transposed {
  copied_weights first, second;

  transposed(copied_weights w) : first(w), second(matrix<float const>()) {}  // NOLINT(*-explicit*)
  transposed(copied_weights gate, copied_weights up) : first(gate), second(up) {}

  /// Outputs of one matrix in a panel.
  std::int64_t width() const { return second.data ? panel_width / 2 : panel_width; }
  std::int64_t panels() const { return ceil_div(first.rows, width()); }

  /// The weights are read in long rows, of a tile's panels: to turn over a few numbers of each would take
  /// longer.
  template <format F>
  static constexpr int group = tile_panels<F>;
  template <format>
  static constexpr int units = depth;
  template <format>
  static constexpr bool in_pieces = false;
  /// k0 is a multiple of a vector's units.
  template <format F>
  void pack(std::int64_t first_panel, std::int64_t last, std::int64_t k0, std::int64_t count,
            float* to, std::int64_t distance) const {
    for (std::int64_t p = first_panel; p < last; ++p, to += distance * panel_width)
      for (int j = 0; j < vectors; ++j) {
        copied_weights const& w = side(j);
        if constexpr (F == format::bf16)
          if (w.rounded) {
            pack_vector<F>(w.rounded, w, row(p, j), k0, count, to + j * lanes);
            continue;
          }
        pack_vector<F>(w.data, w, row(p, j), k0, count, to + j * lanes);
      }
  }
  /// Whether no row of a panel is missing; and the first row of a panel's vector.
  bool whole(std::int64_t panel) const { return (panel + 1) * width() <= first.rows; }
  float const* vector(std::int64_t panel, int j) const { return side(j).row(row(panel, j)); }
  /// By rows of W: those of all panels, or the first matrix's and then the second's.
  simd::ahead ahead(std::int64_t panel, std::int64_t last, std::int64_t k0, std::int64_t count,
                    int part, int parts) const {
    std::int64_t const all = (last - panel) * panel_width;
    std::int64_t const begin = all * part / parts, end = all * (part + 1) / parts;
    int const j = second.data && begin >= all / 2;
    std::int64_t const w = panel * width() + begin - j * (all / 2);
    std::int64_t const rows = std::min(end - begin, first.rows - w);
    if (bf16 const* const rounded = side(j).rounded)
      return halves_ahead(rounded + w * first.stride + k0, first.stride, rows, count);
    return {side(j).row(w) + k0, first.stride, rows, count};
  }

 private:
  copied_weights const& side(int j) const { return second.data && j == 1 ? second : first; }
  std::int64_t row(std::int64_t panel, int j) const {
    return panel * width() + (second.data ? 0 : j * lanes);
  }
};
static_assert(vectors == 2);

/// B as stored: row k of B is row k of a list; after `split` rows those of a second list go on.
struct straight {
  row_list first;
  std::int64_t cols = 0;
  row_list second{};
  std::int64_t split = INT64_MAX;

  std::int64_t panels() const { return ceil_div(cols, panel_width); }
  template <class N = float>
  N const* row(std::int64_t k) const {
    row_list const& list = k < split ? first : second;
    if (k >= split) k -= split;
    if constexpr (std::is_same_v<N, bf16>)
      return list.rounded + k * list.stride;
    else
      return list[k];
  }
  bool copied() const { return first.rounded && (split == INT64_MAX || second.rounded); }

  /// A row of B gives each of them its part. Where that is but an instruction or two, it is done in
  /// pieces.
  template <format>
  static constexpr int group = block_panels;
  template <format F>
  static constexpr int units = block_depth<F>;
  template <format F>
  static constexpr bool in_pieces = unit<F>::parts == 1 && unit<F>::deep == 1;
  template <format F>
  void pack(std::int64_t first_panel, std::int64_t last, std::int64_t k0, std::int64_t count,
            float* to, std::int64_t distance) const {
    if constexpr (F == format::bf16)
      if (copied()) return pack_rows<F, bf16>(first_panel, last, k0, count, to, distance);
    pack_rows<F, float>(first_panel, last, k0, count, to, distance);
  }
  /// A part of what pack does, by units: done, or to be done by a tile of so many units.
  template <format F>
  moving<F> pack_part(std::int64_t first_panel, std::int64_t last, std::int64_t k0,
                      std::int64_t count, int part, int parts, std::int64_t units, float* to,
                      std::int64_t distance) const {
    constexpr std::int64_t n = unit<F>::numbers;
    std::int64_t const all = product_units<F>(count), begin = all * part / parts,
                       end = all * (part + 1) / parts;
    if (begin == end) return {};
    std::int64_t const k = k0 + begin * n, rows = std::min(end * n, count) - begin * n;
    to += begin * panel_width;
    row_list const& list = k < split ? first : second;
    bool const one = k >= split || k + rows <= split;
    if (!one || list.index || last * panel_width > cols || rows % n > 0) {
      pack<F>(first_panel, last, k, rows, to, distance);
      return {};
    }
    int const panels = static_cast<int>(last - first_panel);
    std::int64_t const left = (end - begin) * panels;
    std::int64_t const column = first_panel * panel_width;
    return {row(k) + column,
            copied() ? row<bf16>(k) + column : nullptr,
            to,
            list.stride,
            distance * panel_width,
            panels,
            0,
            left,
            ceil_div(left, std::max<std::int64_t>(units / line, 1))};
  }
  /// By rows of B.
  simd::ahead ahead(std::int64_t first_panel, std::int64_t last, std::int64_t k0,
                    std::int64_t count, int part, int parts) const {
    std::int64_t const begin = first_panel * panel_width, k = k0 + count * part / parts;
    row_list const& list = k < split ? first : second;
    if (list.index) return {};
    std::int64_t const rows = k0 + count * (part + 1) / parts - k;
    std::int64_t const length = std::min(last * panel_width, cols) - begin;
    if (copied()) return halves_ahead(row<bf16>(k) + begin, list.stride, rows, length);
    return {row(k) + begin, list.stride, rows, length};
  }

 private:
  /// The same from the numbers, or from their copy in bf16.
  template <format F, class N>
  void pack_rows(std::int64_t first_panel, std::int64_t last, std::int64_t k0, std::int64_t count,
                 float* to, std::int64_t distance) const {
    constexpr int n = unit<F>::numbers;
    std::int64_t const units = product_units<F>(count);
    bool const whole = last * panel_width <= cols;
    for (std::int64_t u = 0; u < units; ++u) {
      N const* from[n];
      for (int i = 0; i < n; ++i) from[i] = u * n + i < count ? row<N>(k0 + u * n + i) : nullptr;
      for (std::int64_t p = first_panel; p < last; ++p) {
        float* const out = to + ((p - first_panel) * distance + u) * panel_width;
        FINEGRAIN_UNROLL
        for (int j = 0; j < vectors; ++j) {
          std::int64_t const c = p * panel_width + j * lanes;
          std::int64_t const left = whole ? lanes : std::clamp<std::int64_t>(cols - c, 0, lanes);
          store(out + j * lanes, unit_of<F>(from, c, left));
        }
      }
    }
  }
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
