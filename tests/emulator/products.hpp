// Products of small matrices, as numbers of f32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "real.hpp"

namespace emulator {

constexpr int tile_rows = 16;  // of A, for one warp

/// sums (16 x columns) = A B, of a depth. A and B lie by depth: a[k][16], b[k][pitch]; sums have
/// the pitch too. Columns are a multiple of 8.
void multiply(f32 const* a, f32 const* b, f32* sums, int columns, int depth, int pitch);

}  // namespace emulator
