// coded: experts whose weights are codes of a quantised format, in memory of the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "../base/buffer.hpp"
#include "products.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Formats whose numbers are codes with scales, and those that have a scale for 32 of a row's
/// weights: they stand in panels.
constexpr bool is_coded(format f) {
  return f == format::fp8 || f == format::int8 || f == format::int8_block || f == format::int4;
}
constexpr bool in_panels(format f) { return f == format::int8_block || f == format::int4; }

/// Bytes of a row of codes, and of 16 rows of a panel's 64 columns.
constexpr std::int64_t code_pitch(std::int64_t columns) { return (columns + 63) / 64 * 64; }
FINEGRAIN_HD constexpr int panel_step(format f) { return f == format::int4 ? 512 + 64 : 1024 + 64; }
constexpr std::int64_t panel_bytes(format f, std::int64_t columns) {
  return (columns + 63) / 64 * panel_step(f);
}

/// A family of experts' weights as codes, row-major, rows code_pitch long and 0 at their ends, and
/// their scales. A number is its scale times its code's value.
///
///   int8   sign and 7 bits of magnitude; a scale for each row: (R, F), (R, D). Of four neighbours
///          the magnitudes of 0, 1, 2, 3 are the low bits of bytes 0, 2, 1, 3, and the signs the
///          top bits of bytes 1, 3, 0, 2
///   fp8    e4m3 without NaN; a scale for 128 x 128: (R, F / 128, D / 128), (R, D / 128, F / 128),
///          quotients rounded up
///
/// Or as panels of 16 rows: 8 of the gate and the same 8 of up, F / 8 panels, all in `gate`; or 16
/// of down, D / 16 rounded up. A panel is a row of steps of 64 columns. A step's codes are in the
/// order of lanes 4 g + c, which have rows g and g + 8 and 8 columns 8 c of each 32:
///
///   int8_block   16 bytes of row g for each lane, then 16 bytes of row g + 8; bytes as int8's
///   int4         16 bytes for each lane: 8 of row g, 8 of row g + 8. Columns 2 i and 2 i + 1 of 8
///                stand in bits 4 i and 16 + 4 i of a word, 8 more than their values
///
/// and then for each g the scales (of row g, of g + 8) of its first 32 columns and of the next.
struct coded_family {
  std::uint8_t *gate = nullptr, *up = nullptr, *down = nullptr;
  bf16 *gate_scales = nullptr, *up_scales = nullptr, *down_scales = nullptr;

  constexpr coded_family() = default;
  constexpr coded_family(arena& memory, format f, std::int64_t count, std::int64_t hidden,
                         std::int64_t width) {
    if (in_panels(f)) {
      gate = memory.take<std::uint8_t>(count * ceil_div(width, 8) * panel_bytes(f, hidden));
      down = memory.take<std::uint8_t>(count * ceil_div(hidden, 16) * panel_bytes(f, width));
      return;
    }
    gate = memory.take<std::uint8_t>(count * width * code_pitch(hidden));
    up = memory.take<std::uint8_t>(count * width * code_pitch(hidden));
    down = memory.take<std::uint8_t>(count * hidden * code_pitch(width));
    gate_scales = memory.take<bf16>(count * scales(f, width, hidden));
    up_scales = memory.take<bf16>(count * scales(f, width, hidden));
    down_scales = memory.take<bf16>(count * scales(f, hidden, width));
  }
  /// Scales of a matrix.
  static constexpr std::int64_t scales(format f, std::int64_t rows, std::int64_t columns) {
    return f == format::int8 ? rows : ceil_div(rows, 128) * ceil_div(columns, 128);
  }
};

/// Up to so many tokens one matrix, or one expert that all tokens go to, is streamed past them.
inline constexpr std::int64_t most_streamed = 64;

/// Experts' products with weights in format F, which stand in place of those that `p` points to.
/// Products are of bf16, which holds every code's value, and scales multiply their f32 sums.
template <class T, format F>
struct coded_experts {
  static_assert(std::is_same_v<T, bf16>,
                "on cuda, weights in 8 or 4 bits are those of a network of bf16: basic_cuda<bf16>");
  /// Makes codes of `count` experts' weights, as they stand in expert_family.
  static void pack(T const* gate, T const* up, T const* down, int count, int hidden, int width,
                   coded_family const& to, CUstream_st* stream);
  static void up_forward(expert_products<T> const& p, coded_family const& routed,
                         coded_family const& shared, CUstream_st* stream);
  static void down_forward(expert_products<T> const& p, coded_family const& routed,
                           coded_family const& shared, CUstream_st* stream);
  /// See experts::down_combine.
  static void down_combine(expert_products<T> const& p, coded_family const& routed,
                           coded_family const& shared, T const* add, T* y, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
