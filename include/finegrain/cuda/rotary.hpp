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
  /// Turns the pair (i, i + dim/2) of every head by direction * position * theta^(-2i/dim), in the
  /// rows of q and of k, (T, heads * dim) each; k may be an empty view. direction is 1, or -1 for
  /// the inverse, which is also the gradient. dim is a multiple of 8 up to 256.
  static void turn(places where, int dim, double theta, float direction, matrix<T> q, matrix<T> k,
                   CUstream_st* stream);
  /// The same of m alone, by angles that `how` slows, and its numbers become `size` times as large:
  /// YaRN. how.head is how.dim.
  static void turn_sized(places where, finegrain::rotary const& how, float direction, float size,
                         matrix<T> m, CUstream_st* stream);
  /// Turns neighbours (2i, 2i + 1) of the last how.dim numbers of each head of how.head numbers, as
  /// `how` says, or back. Both are multiples of 8, how.dim 256 at most.
  static void turn_neighbours(places where, finegrain::rotary const& how, float direction,
                              matrix<T> m, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
