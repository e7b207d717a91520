// The router on the device: logits, scores, the choice of experts and their weights, and backward.
// Defined in logits.cuh, route.cuh, route_few.cuh, router_weights.cuh, balance.cuh and report.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/combine_weights.hpp"
#include "../plan/routing.hpp"
#include "dispatch.hpp"
#include "report.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What kernels read of a config and of a request: k slots a token, for `chosen` experts.
struct routing_rules {
  int hidden, routed, k, chosen, mask_best, groups, group_limit;
  int counted;                    // keys that make up what a group is worth
  int vocabulary, table_columns;  // of a hash layer
  finegrain::score score;
  bool hash, uniform, bias, by_logits, renormalise;
  bool given;                 // experts are there before their weights are made
  bool weighed;               // and so are the weights
  bool rule;                  // or a rule may have left slots unused
  bool drops;                 // slots without a row may have an expert all the same
  bool of_chosen;             // weights are softmax of the chosen logits alone
  bool f64, round_logits;     // the router's arithmetic: see precision
  bool round_weights, round;  // final weights alone, or every operation
  float scale, epsilon, floor, shared_scale;
  bool limited;       // whether groups are
  int group_shift;    // 2^this lanes of a warp for each group
  int group_inverse;  // e * this >> 20 is expert e's group

  constexpr routing_rules(config const& c, routing_request const& request)
      : hidden(c.hidden),
        routed(c.routed),
        k(slots(c, request)),
        chosen(finegrain::chosen(c, request)),
        mask_best(request.mask_best),
        groups(c.groups),
        group_limit(c.group_limit),
        counted(group_keys(c)),
        vocabulary(c.vocabulary),
        table_columns(c.top_k),
        score(c.score),
        hash(c.selection == selection::hash),
        uniform(!c.has_router()),
        bias(c.bias),
        by_logits(c.by_logits),
        renormalise(c.renormalise),
        given(hash || c.selection == selection::expert_choice || c.selection == selection::rule ||
              c.selection == selection::given),
        weighed(c.selection == selection::given),
        rule(c.selection == selection::rule),
        drops(c.chance_second || request.capacity > 0 || request.device_capacity > 0),
        of_chosen(finegrain::detail::softmax_of_chosen(c)),
        f64(c.precision == precision::f64),
        round_logits(rounds_logits(c)),
        round_weights(c.precision == precision::bf16_logits),
        round(c.precision == precision::bf16),
        scale(c.scale),
        epsilon(c.epsilon),
        floor(c.floor),
        shared_scale(c.shared_scale),
        limited(c.group_limit < c.groups),
        group_shift(0),
        group_inverse(ceil_div(1 << 20, c.routed / c.groups)) {
    while (groups << (group_shift + 1) <= 32) ++group_shift;
  }
};

/// A router's weights. Null where the config has none.
template <class T>
struct router_numbers {
  T const* router = nullptr;       // (R, D)
  summed<T> bias = {};             // (R)
  summed<T> table = {};            // (vocabulary, K)
  T const* shared_gate = nullptr;  // (D)
};

/// The expert that a slot has, dropped or not; -1 of an unused one.
FINEGRAIN_HD constexpr int expert_of_slot(std::int32_t slot) {
  return slot == no_expert ? -1 : expert_in(slot);
}

/// What a router keeps for backward and for reports. Numbers are f32 whatever T is.
struct router_state {
  float* logits = nullptr;          // (T, R)
  float* scores = nullptr;          // (T, R); null: nobody reads them
  std::int32_t* experts = nullptr;  // (T, k) best first: see is_kept
  float* weights = nullptr;         // (T, k)
  std::int32_t* best = nullptr;     // (T, chosen) the best by score, for the sequence loss; or null
  float* shared_weight = nullptr;   // (T) of a shared gate
  float const* keys = nullptr;      // (T, R) by which experts are chosen; null: scores or logits
  /// (arrivals_size) zeros, and zeros again when a pass has ended; null: few tokens have no launch of
  /// their own. Passes that overlap have not the same.
  std::int32_t* arrivals = nullptr;
};
inline constexpr int few_routed_tokens = 512, arrivals_size = 1 + few_routed_tokens / 16;

/// Where a batch's sequences begin: (count + 1) rows of the device, or null for one sequence.
struct sequence_starts {
  std::int64_t const* rows = nullptr;
  int count = 1;
};

/// Coefficients of balance losses, and the windows that they are means over.
struct balance_terms {
  double expert, device, communication, sequence, z, importance, load;
  bool by_sequence;                       // expert, device and communication are of each sequence
  bool rule;                              // a user's is added to them
  double const* of_rule = nullptr;        // (R) its factors
  int devices, most_devices;              // of these; see most_devices
  std::int64_t const* earlier = nullptr;  // (R) counts of the step's earlier batches, of so many
  std::int64_t earlier_tokens = 0;        // tokens, which join those of a batch's window
  float const* smooth = nullptr;          // (R) mean tokens of the load loss

  constexpr balance_terms(config const& c, routing_request const& request)
      : balance_terms(c, request, losses_of(c, request)) {}
  constexpr balance_terms(config const& c, routing_request const& request,
                          balance_losses const& loss)
      : expert(loss.expert),
        device(loss.device),
        communication(loss.communication),
        sequence(loss.sequence),
        z(loss.z),
        importance(loss.importance),
        load(loss.load),
        by_sequence(loss.over == window::sequence),
        rule(loss.rule != nullptr),
        devices(request.devices),
        most_devices(finegrain::most_devices(c, request)) {}
  FINEGRAIN_HD constexpr bool windows() const {
    return expert > 0 || device > 0 || communication > 0 || rule;
  }
  FINEGRAIN_HD constexpr bool reads_scores() const { return windows() || sequence > 0; }
};

/// What balance losses' gradients are made of, as in finegrain::routing. Null where there is none.
struct balance_factors {
  float* factors = nullptr;     // (max(T, 1), R) in rows of sequences' first tokens
  float* importance = nullptr;  // (R)
};

/// Backward's input: the experts' dots of products.hpp, in parts.
struct weight_dots {
  float const* dot = nullptr;  // (rows, parts)
  int parts = 0;
};

/// Numbers of the partial sums of the router's weight gradients, `columns` = R, or R + 1 with a
/// shared gate: tokens in `splits` runs of a multiple of 32.
struct router_splits {
  int splits, tokens;
  static constexpr router_splits of(std::int64_t T, int columns, int D) {
    std::int64_t const tiles = std::int64_t{(columns + 63) / 64} * ((D + 127) / 128);
    std::int64_t const wanted = tiles >= 264 ? 1 : 264 / tiles, parts = (T + 127) / 128;
    std::int64_t const splits = parts < 1 ? 1 : wanted < parts ? wanted : parts;
    std::int64_t const each = (ceil_div(T, splits) + 31) / 32 * 32;
    return {static_cast<int>(splits), static_cast<int>(each)};
  }
  static constexpr std::int64_t partials(std::int64_t T, int columns, int D) {
    return std::int64_t{of(T, columns, D).splits} * columns * D;
  }
};

/// Numbers of each lane of the warp that chooses among so many experts for a token.
constexpr int lane_numbers(int experts) { return experts <= 64 ? 2 : experts <= 256 ? 8 : 32; }

/// The choice among up to 32 N experts: what is compiled for their number, which is lane_numbers.
template <class T, int N>
struct choice {
  /// All of a plain router: logits, and `choose`. ids (T) is for hash layers. rows are of k slots a
  /// token; block_counts has room for token_chunks::counts.
  static void forward(routing_rules const& c, router_numbers<T> const& w, T const* x,
                      std::int32_t const* ids, router_state const& state, row_map const& rows,
                      std::int32_t* block_counts, CUstream_st* stream);
  /// Scores, experts, weights and rows from state.logits.
  static void choose(routing_rules const& c, router_numbers<T> const& w, std::int32_t const* ids,
                     router_state const& state, row_map const& rows, std::int32_t* block_counts,
                     CUstream_st* stream);
};

template <class T>
struct route {
  // ---- forward ----

  /// state.logits = x router^T, as the config's precision has it. None of a uniform router.
  static void logits(routing_rules const& c, T const* router, T const* x, float* logits,
                     std::int64_t tokens, CUstream_st* stream);
  /// weight (T) = shared_scale sigmoid(x . gate); shared_scale where the gate is null.
  static void shared_weight(routing_rules const& c, T const* gate, T const* x, float* weight,
                            std::int64_t tokens, CUstream_st* stream);
  /// The balance losses' factors, from scores, experts, weights and rows. A no-op without losses.
  static void balance(routing_rules const& c, balance_terms const& loss, router_state const& state,
                      row_map const& rows, sequence_starts starts, balance_factors const& to,
                      CUstream_st* stream);
  /// `partials` has room for router_report::partials(R).
  static void report(routing_rules const& c, balance_terms const& loss, summed<T> bias,
                     router_state const& state, row_map const& rows, sequence_starts starts,
                     balance_factors const& factors, router_report const& report, double* partials,
                     CUstream_st* stream);

  // ---- backward ----

  /// dlogits (T, R) from the experts' dots and the balance losses.
  static void backward(routing_rules const& c, balance_terms const& loss, weight_dots dots,
                       router_state const& state, row_map const& rows, sequence_starts starts,
                       balance_factors const& factors, float* dlogits, CUstream_st* stream);
  /// d loss / d (x . gate), dgate (T), from the shared expert's dots (T, parts).
  static void shared_backward(routing_rules const& c, weight_dots dots, float const* shared_weight,
                              float* dgate, std::int64_t tokens, CUstream_st* stream);
  /// drouter (R, D) (+)= dlogits^T x and, where there is a dgate, dshared_gate (D) (+)= dgate^T x.
  /// `partials` has room for router_splits::partials.
  static void weights_backward(int D, int R, T const* x, float const* dlogits, float const* dgate,
                               T* drouter, T* dshared_gate, gradients mode, float* partials,
                               std::int64_t tokens, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
