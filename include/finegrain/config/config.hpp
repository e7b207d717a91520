// config: a mixture-of-experts layer in a handful of numbers, and the paper's transformations of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How logits become scores: softmax over the routed experts (DeepSeekMoE V1, V2), or each by
/// itself (sigmoid: V3; sqrt(softplus): V4).
enum class score { softmax, sigmoid, sqrt_softplus };

/// What a group of experts is worth when groups are limited: its best biased score (V2), the sum of
/// its best two (V3), or of its best top_k / group_limit (Megatron).
enum class group_score { max, top2_sum, top_share_sum };

/// Who is sent where: each token to its K best experts; to those that a table has for its id (Hash
/// layers, V4's first layers); each expert takes its T K / R best tokens (expert choice); in
/// training, tokens go by logits that Sinkhorn's iteration has balanced over the batch; as a rule of
/// your own says, which comes with the batch; or experts and weights come with it, and there is no router.
enum class selection { top_k, hash, expert_choice, sinkhorn, rule, given };

/// The router's arithmetic, whatever the experts': products and all else in f32; products in f64;
/// inputs, logits and final weights rounded to bf16 with f32 between (a bf16 model whose softmax is
/// upcast); or rounded to bf16 after every operation (DeepSeekMoE V1, V3's own inference).
enum class precision { f32, f64, bf16_logits, bf16 };

/// The gate's nonlinearity in an expert, down(act(gate(x)) * up(x)): SiLU, GELU (tanh form), or ReLU
/// [Shazeer 2020].
enum class activation { swiglu, geglu, reglu };
/// GELU's tanh form is z (1 + tanh(u)) / 2 = z / (1 + exp(-2 u)), u = gelu_linear (z + gelu_cubic z^3).
inline constexpr double gelu_linear = 0.7978845608028653559, gelu_cubic = 0.044715;  // sqrt(2 / pi)

/// A gated linear unit, act(gate) * up. With a limit over 0, of the gate that is at most the limit, and
/// of the up between it and its negative [DeepSeek-V4: 10]; no gradient passes what lies beyond.
struct glu {
  activation kind = activation::swiglu;
  float limit = 0;

  constexpr glu() = default;
  constexpr glu(activation kind, float limit = 0) : kind(kind), limit(limit) {}
  constexpr bool limited() const { return limit > 0; }
  friend constexpr bool operator==(glu const&, glu const&) = default;
};

/// One mixture layer, as built. Only what changes shapes or code stands here; learning rates,
/// balance coefficients, token counts and seeds are given when it runs.
struct config {
  int hidden = 0;  // D: width of the layer's input and output
  int width = 0;   // F: width of one expert
  int routed = 0;  // R: routed experts
  int top_k = 0;   // K: routed experts that each token is sent to
  int shared = 0;  // S: experts that every token is sent to; stored as one of width S * F

  // How experts are chosen, and weighed.
  finegrain::score score = finegrain::score::softmax;
  bool renormalise = false;  // divide the K chosen scores by their sum + epsilon
  float scale = 1.0f;        // times this, after renormalising
  int groups = 1;            // routed experts stand in so many groups of equal size,
  int group_limit = 1;       // and a token's experts come from at most so many of them
  finegrain::group_score group_score = finegrain::group_score::max;
  bool bias = false;  // a selection bias: it moves the choice, never the weights

  // The experts.
  bool shared_gate = false;   // the shared experts' sum is weighted by sigmoid(a linear map of x)
  float shared_scale = 1.0f;  // and by this
  glu act = activation::swiglu;  // or {activation::swiglu, 10}: with a limit

  // Other members of the family. Softmax after top-k is by_logits, renormalise and epsilon 0.
  finegrain::selection selection = finegrain::selection::top_k;
  finegrain::precision precision = finegrain::precision::f32;
  bool by_logits = false;        // the choice goes by logits + bias in place of scores + bias
  bool uniform = false;          // hash: every weight is scale / K, and there is no router
  bool constant_weight = false;  // renormalise with top_k = 1 is meant: every weight is then scale
  bool chance_second = false;    // training uses a second expert with probability 2 g2 [GShard]
  bool jitter = false;        // training may multiply the router's input by random factors [Switch]
  bool noisy = false;         // training adds noise of a learned deviation to logits [Shazeer 2017]
  bool given_logits = false;  // logits are made before: set by mixture<C, Router>, not by hand
  int cosine = 0;  // over 0: logits are cosines in so many dimensions, over a temperature [X-MoE]
  int vocabulary = 0;      // hash: token ids that the table has
  float epsilon = 1e-20f;  // renormalise: what the sum is increased by,
  float floor = 0.0f;      // having been raised to at least this

  /// m times the experts, each 1/m as wide, m times as many chosen [DeepSeekMoE 3.1].
  constexpr config segmented(int m) const;
  /// k of the chosen experts leave the router and are shared [DeepSeekMoE 3.2].
  constexpr config isolated(int k) const;
  /// The choice goes by token id, of so many, without groups and bias; scores still weigh [V4].
  constexpr config by_id(int ids) const;
  /// Experts that a token runs through, top_k + shared; of a process's share of them, at most all.
  constexpr int active() const { return (top_k < routed ? top_k : routed) + shared; }
  /// Whether scores weigh the experts. Without a router weights are equal, or come with the batch.
  constexpr bool has_router() const { return !uniform && selection != selection::given; }

  friend constexpr bool operator==(config const&, config const&) = default;
};

namespace detail {

/// Clang 14 reads wrong members of a template argument whose class ends in padding that a derived
/// class could use. (A member that is a double would bring such padding to config.)
template <class Numbers>
struct derived_from : Numbers {
  char next;
};
template <class Numbers>
inline constexpr bool ends_without_padding = sizeof(derived_from<Numbers>) > sizeof(Numbers);
static_assert(ends_without_padding<config>, "config must not end in padding: see above");

}  // namespace detail

/// The config itself if a layer can have it; throws invalid_config, in a sentence, if not. The one
/// place where the rules stand: `valid<C>` asks it while compiling, readers of files at run time.
/// (A compiler shows the line that threw: throw and sentence stay on one line.)
constexpr config const& checked(config const& c) {
  // clang-format off
  if (c.hidden < 1) throw invalid_config("finegrain::config: hidden, the width of the layer's input, must be at least 1");
  if (c.width < 1) throw invalid_config("finegrain::config: width, the width of one expert, must be at least 1");
  if (c.routed < 1) throw invalid_config("finegrain::config: routed, the number of routed experts, must be at least 1");
  if (c.top_k < 1 || (c.top_k > c.routed && c.selection != selection::given)) throw invalid_config("finegrain::config: top_k must lie between 1 and routed");
  if (c.shared < 0) throw invalid_config("finegrain::config: shared, the number of shared experts, must not be negative");
  if (std::int64_t{c.shared} * c.width > INT32_MAX) throw invalid_config("finegrain::config: shared experts together must be narrower than 2^31");
  if (c.groups < 1) throw invalid_config("finegrain::config: groups must be at least 1");
  if (c.routed % c.groups != 0) throw invalid_config("finegrain::config: groups must divide the routed experts into equal parts");
  if (c.group_limit < 1 || c.group_limit > c.groups) throw invalid_config("finegrain::config: group_limit must lie between 1 and groups");
  if (c.selection == selection::top_k && c.routed / c.groups * c.group_limit < c.top_k) throw invalid_config("finegrain::config: top_k experts must fit into group_limit groups");
  if (c.group_score == group_score::top2_sum && c.groups > 1 && c.routed / c.groups < 2) throw invalid_config("finegrain::config: group_score top2_sum needs groups of at least two experts");
  if (c.group_score == group_score::top_share_sum && c.top_k % c.group_limit != 0) throw invalid_config("finegrain::config: group_score top_share_sum needs group_limit to divide top_k");
  if (c.top_k == 1 && c.renormalise && !c.constant_weight) throw invalid_config("finegrain::config: with top_k = 1, renormalise makes every weight 1 and the router learns nothing; constant_weight says that this is meant");
  if (!(c.epsilon >= 0) || c.epsilon > 1 || !(c.floor >= 0) || c.floor > 1) throw invalid_config("finegrain::config: epsilon and floor must lie between 0 and 1");
  if (!(c.scale > 0) || c.scale > 1e6f) throw invalid_config("finegrain::config: scale must be positive and finite");
  if (c.selection != selection::top_k && c.groups != 1) throw invalid_config("finegrain::config: groups limit selection::top_k, and no other selection");
  if (c.selection != selection::top_k && c.bias) throw invalid_config("finegrain::config: bias moves selection::top_k, and no other selection");
  if (c.selection != selection::top_k && c.by_logits) throw invalid_config("finegrain::config: by_logits is for selection::top_k");
  if (c.selection == selection::expert_choice && c.renormalise) throw invalid_config("finegrain::config: with expert_choice a token may have no expert, so renormalise has no meaning");
  if (c.selection == selection::hash && c.vocabulary < 1) throw invalid_config("finegrain::config: selection::hash needs vocabulary, the number of token ids");
  if (c.selection != selection::hash && c.vocabulary != 0) throw invalid_config("finegrain::config: vocabulary is for selection::hash");
  if (c.uniform && c.selection != selection::hash) throw invalid_config("finegrain::config: uniform weights are for selection::hash: a router that is not read learns nothing");
  if (c.uniform && (c.renormalise || c.cosine > 0 || c.jitter || c.noisy)) throw invalid_config("finegrain::config: with uniform weights there is no router to renormalise, jitter or make noisy");
  if (c.selection == selection::given && (c.renormalise || c.scale != 1 || c.precision != precision::f32 || c.cosine > 0 || c.jitter || c.noisy || c.constant_weight || c.score != score::softmax)) throw invalid_config("finegrain::config: with selection::given weights come with the batch as they are, and there is no router to score, renormalise, scale, round, jitter or make noisy");
  if (c.chance_second && (c.selection != selection::top_k || c.top_k != 2)) throw invalid_config("finegrain::config: chance_second needs selection::top_k with top_k = 2");
  if (c.cosine > 0 && c.precision != precision::f32) throw invalid_config("finegrain::config: a cosine router computes in f32");
  if (c.cosine < 0) throw invalid_config("finegrain::config: cosine, the dimensions of a cosine router, must not be negative");
  if (!(c.shared_scale > 0) || c.shared_scale > 1e6f) throw invalid_config("finegrain::config: shared_scale must be positive and finite");
  if (!(c.act.limit >= 0) || c.act.limit > 1e6f) throw invalid_config("finegrain::config: act's limit must be positive and at most 1e6, or 0 for none");
  if (c.given_logits) throw invalid_config("finegrain::config: given_logits is for the library: a router of your own is mixture<C, Router>");
  if (c.shared_scale != 1 && c.shared == 0) throw invalid_config("finegrain::config: shared_scale needs shared experts");
  if (c.shared_gate && c.shared == 0) throw invalid_config("finegrain::config: shared_gate needs shared experts");
  // clang-format on
  return c;
}

/// Whether a layer can have this config: `static_assert(valid<C>)` gives checked's sentence.
template <config C>
inline constexpr bool valid = (checked(C), true);

/// A conventional mixture of N experts with K chosen, none shared; other fields as given.
template <int N, int K>
constexpr config conventional(config c) {
  c.routed = N;
  c.top_k = K;
  c.shared = 0;
  return checked(c);
}

constexpr config config::segmented(int m) const {
  if (m < 1) throw invalid_config("finegrain::config: segmented(m) needs m of at least 1");
  if (width % m != 0)
    throw invalid_config("finegrain::config: segmented(m) needs m to divide width");
  config c = *this;
  c.width /= m;
  c.routed *= m;
  c.top_k *= m;
  c.shared *= m;
  return checked(c);
}

constexpr config config::by_id(int ids) const {
  config c = *this;
  c.selection = selection::hash;
  c.vocabulary = ids;
  c.bias = false;
  c.groups = c.group_limit = 1;
  return checked(c);
}

constexpr config config::isolated(int k) const {
  if (k < 0 || k >= top_k)
    throw invalid_config("finegrain::config: isolated(k) needs 0 <= k < top_k");
  if (groups != 1)
    throw invalid_config("finegrain::config: isolated(k) is for experts in one group");
  config c = *this;
  c.routed -= k;
  c.top_k -= k;
  c.shared += k;
  return checked(c);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
