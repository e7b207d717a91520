// combine: a token's output is the weighted sum of its experts' rows. Defined in combine.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "row_map.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Sums of experts' rows, slot by slot, then the shared expert's, then `add`: in f32, rounded once.
template <class T>
struct combined {
  int hidden = 0;                          // D
  std::int64_t tokens = 0;                 // T
  int slots = 0;                           // k
  std::int32_t const* slot_row = nullptr;  // (T, k) rows of `routed`; below 0: none
  T const* routed = nullptr;               // (rows, D)
  T const* shared = nullptr;               // (T, D), or null
  T const* add = nullptr;                  // (T, D), or null: a residual
};

/// What a router adds to the gradient of its input: dlogits router + dgate shared_gate.
template <class T>
struct router_part {
  int routed = 0;                  // R, or the columns of another product; 0: there is none
  float const* dlogits = nullptr;  // (T, R)
  T const* router = nullptr;       // (R, D)
  float const* dgate = nullptr;    // (T), or null
  T const* shared_gate = nullptr;  // (D)
};

template <class T>
struct combine {
  /// y (T, D) = sum over slots of weights (T, k) * routed + shared_weight (T) * shared + add.
  /// Without shared_weight, shared_scale stands in its place.
  static void forward(combined<T> const& from, float const* weights, float const* shared_weight,
                      float shared_scale, T* y, CUstream_st* stream);
  /// dx (T, D) = sum over slots of routed + shared + add + the router's part. (The gradients in
  /// rows are weighted already.)
  static void backward(combined<T> const& from, router_part<T> const& router, T* dx,
                       CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
