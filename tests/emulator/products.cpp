// Products of small matrices: here the compiler may contract, as products of two numbers of 16 bits
// are exact.
// SPDX-License-Identifier: Apache-2.0
#include "products.hpp"

#include <cstring>

namespace emulator {

void multiply(f32 const* a, f32 const* b, f32* sums, int columns, int depth, int pitch) {
  using row = f32 __attribute__((vector_size(32)));
  constexpr int at_once = 8;  // rows, and columns
  for (int c = 0; c < columns; c += at_once)
    for (int first = 0; first < tile_rows; first += at_once) {
      row sum[at_once] = {};
      for (int k = 0; k < depth; ++k) {
        row y;
        std::memcpy(&y, b + k * pitch + c, sizeof y);
        for (int r = 0; r < at_once; ++r) sum[r] += a[k * tile_rows + first + r] * y;
      }
      for (int r = 0; r < at_once; ++r)
        std::memcpy(sums + (first + r) * pitch + c, &sum[r], sizeof(row));
    }
}

}  // namespace emulator
