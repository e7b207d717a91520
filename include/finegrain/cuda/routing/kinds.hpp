// Routers of rarer kinds on the device: cosines, noise and jitter in logits, choices that look at a
// whole batch, and slots that are dropped. Defined in the .cuh files here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What is asked of a router beside its routing_rules, in one pass.
struct router_kinds {
  int cosine;                      // dimensions of a cosine router, or 0
  bool noisy, chance, sinkhorn;    // in training alone
  bool by_expert;                  // experts choose tokens
  bool by_rule;                    // a user's
  bool by_batch;                   // experts and weights come with it
  bool last;                       // full experts drop later choices and tokens
  double jitter;                   // in training alone
  std::int64_t room, device_room;  // slots that experts and devices take; 0: all
  std::int64_t share;              // tokens that an expert chooses
  int devices;
  double exempt;

  router_kinds(config const& c, routing_request const& request, extent e)
      : cosine(c.cosine),
        noisy(c.noisy && e.training),
        chance(c.chance_second && e.training && chosen(c, request) == 2),
        sinkhorn(c.selection == selection::sinkhorn && e.training),
        by_expert(c.selection == selection::expert_choice),
        by_rule(c.selection == selection::rule),
        by_batch(c.selection == selection::given),
        last(request.drop == drop::last),
        jitter(e.training ? jitter_of(c, request) : 0),
        room(room_of(request.capacity, c, request, e, c.routed)),
        device_room(room_of(request.device_capacity, c, request, e, request.devices)),
        share(share_of(c, chosen(c, request), e.tokens)),
        devices(request.devices),
        exempt(request.exempt) {}

  bool drops() const { return chance || room > 0 || device_room > 0; }
  /// Whether route does all there is to do.
  bool plain() const {
    return cosine == 0 && !noisy && jitter == 0 && !sinkhorn && !by_expert && !by_rule &&
           !by_batch && !drops();
  }
  bool random() const { return noisy || jitter > 0 || chance || device_room > 0; }
  /// Whether the router's part of dx is made by itself, and not in combine.
  bool apart() const { return noisy || jitter > 0; }

 private:
  static std::int64_t room_of(double factor, config const& c, routing_request const& request,
                              extent e, int parts) {
    return factor > 0 ? finegrain::detail::room_of(factor, e.tokens * slots(c, request), parts) : 0;
  }
};

/// Whether layers of a config may need all of `kinds`. Others need plain_kinds_code of it, for what is
/// asked of any router, to drop slots and balance rules; and with a selection bias biased_code.
constexpr bool rarer(config const& c) {
  return c.cosine > 0 || c.noisy || c.jitter || c.selection == selection::sinkhorn ||
         c.selection == selection::expert_choice || c.selection == selection::rule ||
         c.selection == selection::given;
}

/// Further weights of a router, or their gradients. Null where the config has none.
template <class T>
struct kind_numbers {
  T* router = nullptr;       // (R, D), or (R, P) of a cosine router
  T* project = nullptr;      // (P, D)
  T* temperature = nullptr;  // (1)
  T* noise = nullptr;        // (R, D)
};

/// What routers of these kinds keep for backward.
struct kind_state {
  float* projected = nullptr;         // (T, P) of a cosine router
  float* spread = nullptr;            // (T, R) of a noisy one: the deviation's softplus^-1
  float* smooth = nullptr;            // (2, R) of the load loss: mean tokens, d loss / d these
  std::uint64_t* seed = nullptr;      // (1) of this router's random numbers in this pass
  matrix<float>* dweights = nullptr;  // (1) where gradients of weights that came with the batch go

  constexpr kind_state() = default;
  constexpr kind_state(arena& memory, extent e, config const& c)
      : projected(take_some<float>(memory, e.tokens * c.cosine)),
        spread(take_some<float>(memory, c.noisy && e.training ? e.tokens * c.routed : 0)),
        smooth(take_some<float>(memory, c.noisy && e.training ? 2 * c.routed : 0)),
        seed(memory.take<std::uint64_t>(1)),
        dweights(take_some<matrix<float>>(memory, c.selection == selection::given)) {}
};

/// What they need while they run.
template <class T>
struct kind_scratch {
  static constexpr int blocks = 32;  // of Sinkhorn's kernel
  float* keys = nullptr;             // (T, R) that Sinkhorn has balanced
  double* by_token = nullptr;        // (T)
  double* sums = nullptr;            // (2, blocks, R)
  float* lengths = nullptr;          // (R), then (T), of cosine routers' vectors
  float* dprojected = nullptr;       // (T, P)
  float* dspread = nullptr;          // (T, R); in forward, the load loss's probabilities
  T* input = nullptr;                // (T, D) x as a router with jitter reads it
  T* dinput = nullptr;               // (T, D) the router's part of dx
  float* admission = nullptr;        // (T) of quantiles
  double* rule = nullptr;            // (2, R) what a balance rule reads, then what it writes

  constexpr kind_scratch() = default;
  constexpr kind_scratch(arena& memory, extent e, config const& c) {
    std::int64_t const T_ = e.tokens, R = c.routed, back = e.training ? T_ : 0;
    bool const balanced = c.selection == selection::sinkhorn && e.training;
    keys = take_some<float>(memory, balanced ? T_ * R : 0);
    by_token = take_some<double>(memory, balanced ? T_ : 0);
    sums = take_some<double>(memory, balanced ? 2 * blocks * R : 0);
    lengths = take_some<float>(memory, c.cosine > 0 ? R + T_ : 0);
    dprojected = take_some<float>(memory, back * c.cosine);
    dspread = take_some<float>(memory, c.noisy ? back * R : 0);
    input = take_some<T>(memory, c.jitter ? back * c.hidden : 0);
    dinput = take_some<T>(memory, c.jitter || c.noisy ? back * c.hidden : 0);
    admission = take_some<float>(memory, c.bias ? T_ : 0);
    rule = memory.take<double>(2 * R);
  }
};

/// A product that adds to the gradient of a router's input: d (T, columns) times m (columns, D).
template <class T>
struct input_part {
  float const* d = nullptr;
  T const* m = nullptr;
  int columns = 0;
};

template <class T>
struct kinds {
  // ---- forward: the choice, in this order ----

  /// Keeps the seed of this pass for backward: the router-th word of the request's seed, with which
  /// `step`, unless it is null, is mixed as a trainer does on the host.
  static void keep_seed(std::uint64_t seed, std::int64_t const* step, std::uint64_t router,
                        kind_state const& to, CUstream_st* stream);
  /// state.logits (T, R), of routers of all kinds.
  static void logits(routing_rules const& c, router_kinds const& kinds,
                     kind_numbers<T const> const& w, T const* x, router_state const& state,
                     kind_state const& saved, kind_scratch<T> const& t, std::int64_t tokens,
                     CUstream_st* stream);
  /// Around a user's rule: state.scores, from logits, which it reads; and of its experts those that may
  /// stay.
  static void scores(routing_rules const& c, router_state const& state, std::int64_t tokens,
                     CUstream_st* stream);
  static void distinct(routing_rules const& c, router_state const& state, std::int64_t tokens,
                       CUstream_st* stream);
  /// state's experts and weights from those (T, k) that came with a batch, and in `saved` where their
  /// gradients go. What is not an expert, or one that an earlier slot has, becomes no_expert.
  static void take(routing_rules const& c, matrix<std::int32_t const> experts,
                   matrix<float const> weights, matrix<float> dweights, router_state const& state,
                   kind_state const& saved, std::int64_t tokens, CUstream_st* stream);
  /// Ahead of choice::choose: t.keys that Sinkhorn has balanced, or the experts that chose tokens.
  static void prepare(routing_rules const& c, router_kinds const& kinds, router_state const& state,
                      kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* stream);
  /// Behind it: what is dropped, and rows again. block_counts is for these.
  static void drop(routing_rules const& c, router_kinds const& kinds, router_state const& state,
                   kind_state const& saved, sequence_starts starts, row_map const& rows,
                   std::int32_t* block_counts, CUstream_st* stream);

  // ---- forward: losses and the report ----

  /// t.rule (R): how many times each expert was chosen in this batch, over the mean.
  static void chosen(routing_rules const& c, balance_terms const& loss, router_state const& state,
                     kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* stream);
  /// The same of one of its sequences.
  static void chosen_in(sequence_starts starts, int sequence, routing_rules const& c,
                        balance_terms const& loss, router_state const& state,
                        kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* stream);
  /// Adds what a rule wrote for a sequence, behind t.rule's R numbers, to this sequence's factors.
  static void add_factors(sequence_starts starts, int sequence, routing_rules const& c,
                          kind_scratch<T> const& t, std::int64_t tokens, float* factors,
                          CUstream_st* stream);
  /// saved.smooth from logits, for a load loss of this coefficient.
  static void load(routing_rules const& c, double coefficient, router_state const& state,
                   kind_state const& saved, kind_scratch<T> const& t, std::int64_t tokens,
                   CUstream_st* stream);
  /// quantile (R): the biases with which each expert would be chosen K T / R times.
  static void quantiles(routing_rules const& c, summed<T> bias, router_state const& state,
                        kind_scratch<T> const& t, std::int64_t tokens, double* quantile,
                        CUstream_st* stream);

  // ---- backward ----

  /// The gradients of weights that came with the batch, to where take was told.
  static void give(weight_dots dots, kind_state const& saved, row_map const& rows,
                   CUstream_st* stream);
  /// t.dspread of a noisy router, from dlogits, which the load loss (`load` > 0) adds to.
  static void noise_backward(routing_rules const& c, double load, router_state const& state,
                             kind_state const& saved, kind_scratch<T> const& t, float* dlogits,
                             std::int64_t tokens, CUstream_st* stream);
  /// t.dprojected of a cosine router, and gradients of its experts' vectors and temperature.
  static void cosine_backward(routing_rules const& c, int dimensions,
                              kind_numbers<T const> const& w, router_state const& state,
                              kind_state const& saved, kind_scratch<T> const& t,
                              float const* dlogits, kind_numbers<T> const& dw, gradients mode,
                              std::int64_t tokens, CUstream_st* stream);
  /// t.input: x (T, D) with the jitter of this pass.
  static void jitter(routing_rules const& c, double jitter, T const* x, kind_state const& saved,
                     kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* stream);
  /// t.dinput = the sum of both parts, times jitter, plus add (T, D) unless that is null.
  static void input_backward(routing_rules const& c, double jitter, input_part<T> const& a,
                             input_part<T> const& b, kind_state const& saved,
                             kind_scratch<T> const& t, T const* add, std::int64_t tokens,
                             CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
