// How products read weights as they are stored: as numbers, or as codes with scales, which become
// bf16 on their way from shared memory to mma.sync.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../coded.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

/// Where scales stand: there are none; one for a row, or for 128 x 128 weights, apart from the
/// codes; or for 32 of a row's weights, among the codes.
enum class scales { none, row, square, inside };

/// Weights of 16 bits. Of a step of 64 columns lane 4 g + c has those of rows g and g + 8 that
/// start at `columns` * c, and at `further` behind them, 8 each.
template <class T>
struct plain {
  using number = T;
  static constexpr int columns = 8, further = 32;
  static constexpr auto scale = scales::none;
  static constexpr int pieces = 4, step_bytes = 4 * 512;  // 16 bytes for each lane; of 16 rows
};

/// Codes of 8 bits, row-major. A lane's columns are 16 neighbours.
struct byte_rows {
  using number = std::uint8_t;
  static constexpr int columns = 16, further = 8;
  static constexpr int pieces = 2, step_bytes = 2 * 512;
};
/// Panels: a step is read as it stands, and each lane's scales behind the codes.
template <format F>
struct panel_codes {
  using number = std::uint8_t;
  static constexpr int columns = 8, further = 32;
  static constexpr auto scale = scales::inside;
  static constexpr int pieces = F == format::int4 ? 1 : 2, step_bytes = pieces * 512 + 256;
  static constexpr int stored = panel_step(F);
};

/// A word of four signs and magnitudes, see coded_family, as two pairs of neighbours' values. As a
/// bf16 that is subnormal a magnitude is 2^-133 times its number; what is made is 2^-6 times it.
struct magnitudes {
  static constexpr float unit = 64;
  static __device__ void decode(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
    first = pair(word);
    second = pair(__byte_perm(word, 0, 0x2301));
  }
  static __device__ std::uint32_t pair(std::uint32_t codes) {
    std::uint32_t value;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(value)
        : "r"(codes & 0x807f807fu), "r"(0x7f007f00u), "r"(0x80008000u));
    return value;
  }
};

template <format F>
struct coded;
template <>
struct coded<format::int8> : byte_rows, magnitudes {
  static constexpr auto scale = scales::row;
};
template <>
struct coded<format::fp8> : byte_rows {
  static constexpr auto scale = scales::square;
  static constexpr float unit = 1;  // scales are times this
  static __device__ void decode(std::uint32_t word, std::uint32_t& first, std::uint32_t& second) {
    first = pair(__byte_perm(word, 0, 0x1404));
    second = pair(__byte_perm(word, 0, 0x3424));
  }
  /// A code in the upper half of each 16 bits: its exponent and mantissa as bf16's are 2^-120 times
  /// the value, of subnormal numbers too.
  static __device__ std::uint32_t pair(std::uint32_t codes) {
    std::uint32_t value;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(value)
        : "r"((codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u)), "r"(0x7b807b80u),
          "r"(0x80008000u));
    return value;
  }
};
template <>
struct coded<format::int8_block> : panel_codes<format::int8_block>, magnitudes {};
template <>
struct coded<format::int4> : panel_codes<format::int4> {
  static constexpr float unit = 1;
  /// The pair in bits 4 i: 128 + code as bf16, less 136.
  static __device__ std::uint32_t pair(std::uint32_t word, int i) {
    std::uint32_t value;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;"
        : "=r"(value)
        : "r"((word >> 4 * i & 0x000f000fu) | 0x43004300u), "r"(0x3f803f80u), "r"(0xc308c308u));
    return value;
  }
};

/// An expert family's weights as a kernel takes them.
template <class W>
struct family_weights {
  typename W::number const *gate, *up, *down;
  bf16 const *gate_scales, *up_scales, *down_scales;
};
template <class T>
family_weights<plain<T>> weights_of(expert_family<T> const& f) {
  return {f.gate, f.up, f.down, nullptr, nullptr, nullptr};
}
template <format F>
family_weights<coded<F>> weights_of(coded_family const& f) {
  return {f.gate, f.up, f.down, f.gate_scales, f.up_scales, f.down_scales};
}

/// Of a step's columns a lane's first.
template <class W>
__device__ int lane_column() {
  return static_cast<int>(threadIdx.x % 4) * W::columns;
}

/// What a lane reads of 16 rows of an expert's weights: 8 of the gate and the same of up, or 16 of
/// down. It begins at `first` of matrices (rows, columns); rows that there are not are the last
/// one, whose products are not stored.
template <class W, bool Up>
struct lane_weights {
  typename W::number const *low, *high;  // of rows g and g + 8; or both of a panel
  int low_scale, high_scale;             // of those apart, the first ones

  __device__ lane_weights() : low(nullptr), high(nullptr), low_scale(0), high_scale(0) {}
  __device__ lane_weights(family_weights<W> const& w, int expert, int first, int rows,
                          int columns) {
    int const lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4;
    if constexpr (W::scale == scales::inside) {
      constexpr int in_panel = Up ? 8 : 16;
      int const panels = ceil_div(rows, in_panel);
      std::int64_t const panel = std::int64_t{expert} * panels + min(first / in_panel, panels - 1);
      low = high = (Up ? w.gate : w.down) + panel * ((columns + 63) / 64 * W::stored) + 16 * lane;
    } else {
      int const row = min(first + g, rows - 1), next = Up ? row : min(first + g + 8, rows - 1);
      int const pitch = W::scale == scales::none ? columns : (columns + 63) / 64 * 64;
      auto const at = [&](int r) {
        return (std::int64_t{expert} * rows + r) * pitch + lane_column<W>();
      };
      low = (Up ? w.gate : w.down) + at(row);
      high = (Up ? w.up : w.down) + at(next);
      low_scale = scale_at(expert, row, rows, columns);
      high_scale = scale_at(expert, next, rows, columns);
    }
  }
  /// Numbers of memory before column k.
  static __device__ int before(int k) {
    if constexpr (W::scale == scales::inside)
      return k / 64 * W::stored;
    else
      return k;
  }
  /// Rows' scales of column k, of those that stand apart. No 16 rows are of two squares.
  __device__ void scales_of(family_weights<W> const& w, int k, float (&to)[2]) const {
    bool const square = W::scale == scales::square;
    int const first = low_scale + (square ? k / 128 : 0);
    auto const at = [](bf16 const* scales, int i) {
      return W::unit * static_cast<float>(scales[i]);
    };
    to[0] = at(Up ? w.gate_scales : w.down_scales, first);
    to[1] = at(Up ? w.up_scales : w.down_scales, square ? first : high_scale);
  }

 private:
  static __device__ int scale_at(int expert, int row, int rows, int columns) {
    if constexpr (W::scale == scales::row) return expert * rows + row;
    if constexpr (W::scale == scales::square)
      return (expert * ((rows + 127) / 128) + row / 128) * ((columns + 127) / 128);
    return 0;
  }
};

}  // namespace decode
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
