// The linear map with a weight that is codes of a quantised format, in memory of the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "blas.hpp"
#include "coded.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// A weight (rows, columns) as codes, which stand as those of a coded_family's `down`.
struct coded_matrix {
  std::int64_t rows = 0, columns = 0;
  std::uint8_t* codes = nullptr;
  bf16* scales = nullptr;

  constexpr coded_matrix(arena& memory, format f, std::int64_t rows, std::int64_t columns)
      : rows(rows),
        columns(columns),
        codes(memory.take<std::uint8_t>(in_panels(f) ? (rows + 15) / 16 * panel_bytes(f, columns)
                                                     : rows * code_pitch(columns))),
        scales(memory.take<bf16>(in_panels(f) ? 0 : coded_family::scales(f, rows, columns))) {}
};

/// A weight in format F, in the place of a matrix of numbers.
template <format F>
struct coded_weight : coded_matrix {
  static constexpr format number = F;
  constexpr coded_weight(arena& memory, std::int64_t rows, std::int64_t columns)
      : coded_matrix(memory, F, rows, columns) {}
};

/// Rows of a weight that are made numbers at a time, where there are many tokens: all, or 32 MB,
/// which stay in L2 between the kernel that writes them and the product that reads them.
constexpr std::int64_t decoded_rows(std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t numbers = std::int64_t{16} << 20, some = 128;
  return at_most(rows, at_least(numbers / columns / some, 1) * some);
}

/// Products with a weight in format F. Up to most_streamed tokens codes become bf16 in registers,
/// which hold their values exactly, and scales multiply f32 sums: among so few a token has the bits
/// that it has alone. For more tokens some rows of the weight at a time, each number rounded to bf16,
/// are written to memory and multiplied by cuBLAS.
template <class T, format F>
struct coded_linear {
  static_assert(std::is_same_v<T, bf16>,
                "on cuda, weights in 8 or 4 bits are those of a network of bf16: basic_cuda<bf16>");
  /// Makes codes of a weight (Out, In).
  static void pack(T const* weight, coded_matrix const& to, CUstream_st* stream);
  /// y (T, Out) (+)= x (T, In) times weight (Out, In) transposed. Rows of x begin on 16-byte
  /// borders. Where there are more than most_streamed tokens, `numbers` (some rows, In) has room for
  /// so many rows of the weight at a time.
  static void forward(blas const& library, matrix<T const> x, coded_matrix const& weight,
                      gradients mode, matrix<T> y, matrix<T> numbers, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
