// What a DeepSeekMoE layer works with: its weights, what it saves, its scratch, its groups of experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dispatch.hpp"
#include "experts.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Which experts a plan computes.
struct mixture_parts {
  bool shared, routed;
};

/// A layer's weights, or their gradients, with run-time shapes. Parts that are not there are empty.
template <class T>
struct layer_weights {
  router_weights<T> router;
  stack<T> gate, up, down;                       // R x (F, D), R x (F, D), R x (D, F)
  stack<T> shared_gate, shared_up, shared_down;  // 1 x (S F, D), ..., 1 x (D, S F)
  matrix<T> weigh_shared;                        // (1, D)

  FINEGRAIN_ONE_COPY layer_weights() {}  // of nothing

  template <class U>
  FINEGRAIN_ONE_COPY void set_shared(shared_weights<U> const& w) {
    shared_gate = simd::stacked(w.gate);
    shared_up = simd::stacked(w.up);
    shared_down = simd::stacked(w.down);
    weigh_shared = w.shared_gate;
  }
  template <class U>
  FINEGRAIN_ONE_COPY void set_routed(routed_weights<U> const& w) {
    router = router_weights<T>(w);
    gate = w.gate;
    up = w.up;
    down = w.down;
  }
  template <Frozen W>
  void set_shared(W const& w) {
    shared_gate = shared_up = simd::stacked(w.gate_up);
    shared_down = simd::stacked(w.down);
    weigh_shared = w.shared_gate;
  }
  template <Frozen W>
  void set_routed(W const& w) {
    router = router_weights<T>(w);
    gate = up = simd::stacked(w.gate_up);
    down = simd::stacked(w.down);
  }
};

/// The same with experts whose numbers are packed: of theirs, layer_weights has the shapes alone.
template <format F>
struct frozen_layer : layer_weights<float const> {
  packed_experts<F> experts;
};

struct mixture_saved {
  finegrain::routing<float> routing;
  finegrain::dispatched dispatched;
  matrix<float> gate_up;         // (pairs, kept_units(F)), in training
  matrix<float> shared_gate_up;  // (T, kept_units(S F)), in training
  float* shared_weight;          // (T) with a shared gate or scale

  constexpr mixture_saved(arena& memory, extent e, config const& c, mixture_parts parts)
      : routing(memory, parts.routed ? e : extent{0, e.workers, e.training}, c),
        dispatched(memory, parts.routed ? e.tokens : 0, c.routed, finegrain::slots(c, e),
                   pairs(c, e, parts)),
        gate_up(
            memory.matrix<float>(e.training ? pairs(c, e, parts) : 0, kept_units(c.width, e.kept))),
        shared_gate_up(memory.matrix<float>(e.training && parts.shared ? e.tokens : 0,
                                            kept_units(std::int64_t{c.shared} * c.width, e.kept))),
        shared_weight(memory.take<float>(weighs_shared(c) ? e.tokens : 0)) {}

  /// Used slots that there is room for.
  static constexpr std::int64_t pairs(config const& c, extent e, mixture_parts parts) {
    return parts.routed ? finegrain::pairs(c, e) : 0;
  }
};

struct mixture_scratch {
  route_scratch route;
  expert_task* tasks;
  expert_room room;
  matrix<float> hidden, out;                // (pairs, F), (pairs, D)
  matrix<float> shared_hidden, shared_out;  // (T, S F), (T, D)
  matrix<float> dgate_up, shared_dgate_up;  // (pairs, 2 F), (T, 2 S F)
  matrix<float> dweight, shared_dweight;    // (pairs, parts), (T, parts): partial sums
  float* weight;                            // (pairs) by slot
  matrix<float> dgate;                      // (T, 1) of the shared gate's logit

  FINEGRAIN_ONE_COPY constexpr mixture_scratch(arena& memory, extent e, config const& c,
                                               mixture_parts parts)
      : mixture_scratch(memory, e, c, mixture_saved::pairs(c, e, parts),
                        parts.shared ? e.tokens : 0,
                        parts.routed ? e : extent{0, e.workers, e.training}) {}

 private:
  constexpr mixture_scratch(arena& memory, extent e, config const& c, std::int64_t slots,
                            std::int64_t shared, extent routed)
      : route(memory, routed, c),
        tasks(memory.take<expert_task>(
            simd::most_tasks(slots + shared, c.routed + (c.shared > 0), e.workers))),
        room(memory, e, c.hidden, std::max(std::int64_t{c.width}, shared_width(c))),
        hidden(memory.matrix<float>(slots, c.width)),
        out(memory.matrix<float>(slots, c.hidden)),
        shared_hidden(memory.matrix<float>(shared, shared_width(c))),
        shared_out(memory.matrix<float>(shared, c.hidden)),
        dgate_up(memory.matrix<float>(e.training ? slots : 0, 2 * std::int64_t{c.width})),
        shared_dgate_up(memory.matrix<float>(e.training ? shared : 0, 2 * shared_width(c))),
        dweight(memory.matrix<float>(e.training ? slots : 0, simd::weight_parts(c.width))),
        shared_dweight(memory.matrix<float>(e.training && c.shared_gate ? shared : 0,
                                            simd::weight_parts(shared_width(c)))),
        weight(memory.take<float>(e.training ? slots : 0)),
        dgate(memory.matrix<float>(e.training && c.shared_gate ? shared : 0, 1)) {}

  static constexpr std::int64_t shared_width(config const& c) {
    return std::int64_t{c.shared} * c.width;
  }
};

namespace simd {

/// The groups of experts of one pass over the layer: shared, routed, or both.
FINEGRAIN_LAZY class mixture_groups {
 public:
  mixture_groups(layer_weights<float const> const& w, mixture_saved const& s,
                 mixture_scratch const& t, std::int64_t tokens, bool shared)
      : has_shared_(shared && w.shared_gate.count > 0), has_routed_(w.gate.count > 0) {
    if (has_shared_)
      groups_[0] = {.gate = w.shared_gate,
                    .up = w.shared_up,
                    .down = w.shared_down,
                    .slots = tokens,
                    .gate_up = s.shared_gate_up,
                    .hidden = t.shared_hidden,
                    .out = t.shared_out};
    if (has_routed_)
      groups_[has_shared_] = {.gate = w.gate,
                              .up = w.up,
                              .down = w.down,
                              .slots = s.dispatched.offsets[w.gate.count],
                              .offsets = s.dispatched.offsets,
                              .token = s.dispatched.token,
                              .gate_up = s.gate_up,
                              .hidden = t.hidden,
                              .out = t.out};
  }
  expert_group* shared() { return has_shared_ ? &groups_[0] : nullptr; }
  expert_group* routed() { return has_routed_ ? &groups_[has_shared_] : nullptr; }
  std::span<expert_group const> all() const { return span_of(groups_, has_shared_ + has_routed_); }

 private:
  bool has_shared_, has_routed_;
  expert_group groups_[2];
};

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
