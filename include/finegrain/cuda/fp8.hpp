// fp8_products: an expert's forward products of many tokens with both operands in 8 bits, on
// compute capability 9.0.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Rows of numbers in e4m3. A number is its code's value times the scale that 128 columns of the row
/// share: their largest magnitude / 448, in f32.
struct fp8_rows {
  std::uint8_t* codes = nullptr;  // (count, pitch of width)
  float* scales = nullptr;        // (parts of width, rows): those of a part side by side
  std::int64_t rows = 0;          // count, up to a multiple of 128

  FINEGRAIN_HD static constexpr int parts(int width) { return (width + 127) / 128; }
  FINEGRAIN_HD static constexpr std::int64_t pitch(int width) { return (width + 15) / 16 * 16; }

  constexpr fp8_rows() = default;
  constexpr fp8_rows(arena& memory, std::int64_t count, int width)
      : codes(memory.take<std::uint8_t>(count * pitch(width))),
        scales(memory.take<float>((count + 127) / 128 * 128 * parts(width))),
        rows((count + 127) / 128 * 128) {}
};

/// A family's weights in format fp8, and its rows: x of each row (rows, D) in the rows' own order,
/// and hidden (rows, F). Routed: row_map::max_rows() rows; shared: T.
struct fp8_family {
  coded_family weights;
  fp8_rows x, hidden;
};

/// Both in memory of the same family's bf16 rows: x's place is free until down_forward writes `out`.
template <class T>
fp8_family fp8_rows_of(coded_family const& weights, expert_family<T> const& f, std::int64_t count,
                       int hidden) {
  auto const within = [count](T* memory, int width) {
    arena place(reinterpret_cast<std::byte*>(memory), bytes_of<T>(count * width));
    return fp8_rows(place, count, width);
  };
  return {weights, within(f.out, hidden), within(f.hidden, f.width)};
}
/// Whether there is room for them: always, but for a few rows or a few columns.
template <class T>
constexpr bool fp8_fits(expert_products<T> const& p) {
  auto const fits = [](std::int64_t count, int width) {
    arena counting;
    static_cast<void>(fp8_rows(counting, count, width));
    return counting.used() <= bytes_of<T>(count * width);
  };
  auto const family = [&](int width, std::int64_t count) {
    return width == 0 || count == 0 || (fits(count, p.hidden) && fits(count, width));
  };
  return family(p.routed.width, p.rows.max_rows()) && family(p.shared.width, p.rows.tokens);
}

/// up_forward and down_forward of products.hpp, of these weights in place of those that `p` points
/// to, and with rounded activations:
///
///   quantize       x of each family = the rows of p.x, in e4m3; one launch ahead of up_forward
///   up_forward     hidden = act(gate) up in f32, rounded to e4m3 and nothing else
///   down_forward   out in bf16, of f32 sums
///
/// Products of 128 of K are summed by the tensor core (which keeps about 14 bits of a sum), scaled
/// and added up in f32. A part of a row whose numbers are all below 2^-100 becomes zeros. Rows in
/// tiles of 128: row_map::tile == 128. D and F are multiples of 8; arrays stand on borders of 16
/// bytes.
template <class T>
struct fp8_products {
  /// The current device has the instructions, and the kernels were compiled for them (sm_90a).
  static bool available();
  static void quantize(expert_products<T> const& p, fp8_family const& routed,
                       fp8_family const& shared, CUstream_st* stream);
  static void up_forward(expert_products<T> const& p, fp8_family const& routed,
                         fp8_family const& shared, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, fp8_family const& routed,
                           fp8_family const& shared, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
