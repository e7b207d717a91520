// What a layer of experts takes on the device: memory for forward to keep, scratch memory, weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "experts.hpp"
#include "routing/kinds.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What a layer of experts keeps from forward to backward, and for its reports. Without a router,
/// or without a shared expert, those parts are empty.
template <class T>
struct mixture_saved {
  router_state router;
  row_map rows;
  balance_factors factors;
  kind_state kinds;
  T *z, *shared_z;  // (rows, 2 F), (T, 2 S F) of training

  constexpr mixture_saved(arena& memory, extent e, config const& c, bool shared, bool routed) {
    int const k = routed ? slots(c, e) : 0, R = routed ? c.routed : 0;
    std::int64_t const kept = e.training ? e.tokens : 0;
    router.logits = take_some<float>(memory, e.tokens * R);
    router.scores = take_some<float>(memory, e.tokens * R);
    router.experts = take_some<std::int32_t>(memory, e.tokens * k);
    router.weights = take_some<float>(memory, e.tokens * k);
    router.best = take_some<std::int32_t>(memory, e.tokens * k);
    router.shared_weight = take_some<float>(memory, shared && weighs_shared(c) ? e.tokens : 0);
    if (routed) rows = rows_of(memory, e, c);
    factors.factors = take_some<float>(memory, std::max<std::int64_t>(e.tokens, 1) * R);
    factors.importance = take_some<float>(memory, R);
    if (routed) kinds = kind_state(memory, e, c);
    std::int64_t const all = e.training && routed ? rows.max_rows() : 0;
    z = take_some<T>(memory, all * 2 * c.width);
    shared_z = take_some<T>(memory, shared ? kept * 2 * c.shared * c.width : 0);
  }
  static constexpr row_map rows_of(arena& memory, extent e, config const& c) {
    int const k = slots(c, e);
    bool const by_expert = c.selection == selection::expert_choice;
    std::int64_t const share = pairs(c, e) / c.routed;
    return {memory, e.tokens, k, c.routed, tile_rows<T>(c, e), by_expert ? share : 0};
  }
};

/// What either pass needs while it runs.
template <class T>
struct mixture_scratch {
  T *hidden, *shared_hidden;  // (rows, F), (T, S F)
  T *out, *shared_out;        // (rows, D), (T, D)
  T *dz, *shared_dz;          // (rows, 2 F), (T, 2 S F)
  float *dot, *shared_dot;    // (rows, parts of F), (T, parts of S F)
  float *dlogits, *dgate;     // (T, R), (T)
  float* router_sums;
  std::int32_t* block_counts;
  double* report_sums;
  std::int64_t* earlier;  // (R)
  kind_scratch<T> kinds;

  constexpr mixture_scratch(arena& memory, extent e, config const& c, bool shared, bool routed) {
    int const R = routed ? c.routed : 0, P = routed ? c.cosine : 0;
    int const D = c.hidden, F = c.width, SF = shared ? c.shared * c.width : 0;
    std::int64_t const T_ = e.tokens;
    arena counting;
    std::int64_t const rows = routed ? mixture_saved<T>::rows_of(counting, e, c).max_rows() : 0;
    std::int64_t const back = e.training ? 1 : 0;
    hidden = take_some<T>(memory, rows * F);
    shared_hidden = take_some<T>(memory, T_ * SF);
    out = take_some<T>(memory, rows * D);
    shared_out = take_some<T>(memory, shared ? T_ * D : 0);
    dz = take_some<T>(memory, back * rows * 2 * F);
    shared_dz = take_some<T>(memory, back * T_ * 2 * SF);
    dot = take_some<float>(memory, back * rows * dot_parts(F));
    shared_dot = take_some<float>(memory, back * T_ * dot_parts(SF));
    dlogits = take_some<float>(memory, back * T_ * R);
    dgate = take_some<float>(memory, back * std::max<std::int64_t>(T_, 1));
    std::int64_t sums = 0;  // more columns may be in fewer splits
    for (int columns : {1, R, R + 1, P, P + 1})
      if (columns > 0) sums = std::max(sums, router_splits::partials(T_, columns, D));
    router_sums = take_some<float>(memory, back * sums);
    block_counts = take_some<std::int32_t>(memory, routed ? token_chunks::counts(T_, R) : 0);
    report_sums = take_some<double>(memory, routed ? router_report::partials(R) : 0);
    earlier = take_some<std::int64_t>(memory, R);
    if (routed) kinds = kind_scratch<T>(memory, e, c);
  }
};

/// A layer's weights, or their gradients. What a layer has not is null.
template <class T>
struct mixture_weights {
  router_weights<T> router;
  T *gate = nullptr, *up = nullptr, *down = nullptr;
  T* shared_gate_weights = nullptr;  // (D) of the gate before the shared expert
  T *shared_gate = nullptr, *shared_up = nullptr, *shared_down = nullptr;
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
