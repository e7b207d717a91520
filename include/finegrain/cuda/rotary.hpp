// Rotary positions on the device, and where the rows of a batch stand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/matrix.hpp"
#include "../plan/rotary.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The sequences and positions of T rows, as in a batch; pointers are to memory of the device.
struct places {
  std::int64_t tokens = 0;               // T
  std::int64_t const* starts = nullptr;  // (sequences + 1); null: one sequence
  std::int64_t sequences = 1;
  std::int64_t const* positions = nullptr;       // (T); null: past + t - its sequence's first row
  std::int64_t past = 0;                         // earlier tokens, in a cache; of one sequence
  std::int64_t const* past_on_device = nullptr;  // where it stands in place of past, if not null
};

template <class T>
struct rotary {
  /// Turns the pairs (i, i + how.dim/2) of the first how.dim numbers of every head as `how` says, in
  /// the rows of q and of k, (T, heads * how.head) each; k may be an empty view. direction is 1, or -1
  /// for the gradient. how.dim, 256 at most, and how.head are multiples of 8.
  static void turn(places where, finegrain::rotary const& how, float direction, matrix<T> q,
                   matrix<T> k, CUstream_st* stream);
  /// Turns neighbours (2i, 2i + 1) of the last how.dim numbers of each head of how.head numbers, as
  /// `how` says, or back. Both are multiples of 8, how.dim 256 at most.
  static void turn_neighbours(places where, finegrain::rotary const& how, float direction,
                              matrix<T> m, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
