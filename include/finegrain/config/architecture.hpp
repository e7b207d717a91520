// architecture: a whole decoder in numbers: its attention, its dense layers, its mixture layers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>

#include "config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How rotary positions reach beyond the context that a model was first trained on [YaRN]. Pairs that
/// turn more than `fast` times in that context turn as ever, those that turn less than `slow` times
/// turn `factor` times slower, and others in between. Names and numbers are those of `rope_scaling` in
/// published configs.
struct yarn {
  float factor = 1;      // 1: none of this
  int original = 4096;   // tokens of that context
  float fast = 32;       // beta_fast
  float slow = 1;        // beta_slow
  float mscale = 1;      // rotary numbers are times (0.1 mscale ln factor + 1) over the same of
  float mscale_all = 0;  // mscale_all_dim; scores of latent attention are times the latter's square

  friend constexpr bool operator==(yarn const&, yarn const&) = default;
};

/// Numbers of multi-head latent attention [DeepSeek-V2 2.1]: keys and values of all heads are made
/// from one vector of kv_rank numbers a token, and one rotary key of `rope` numbers is shared.
struct latent {
  int q_rank = 0;       // queries pass through so many numbers; 0: straight from the hidden state
  int kv_rank = 0;      // 0: no latent attention
  int nope = 0;         // numbers of a query and key head without positions,
  int rope = 0;         // and with rotary ones
  int value = 0;        // numbers of a value head
  float theta = 10000;  // rotary pair i of rope / 2 turns by theta^(-2i/rope) a position
  finegrain::yarn yarn = {};

  friend constexpr bool operator==(latent const&, latent const&) = default;
};

/// Whether queries and keys pass an RMS norm before positions turn them: each head alone, with one
/// gain for all heads of queries and one for those of keys (Qwen3), or all heads as one row (OLMoE).
enum class head_norm { none, each, all };

/// What attention of published models has beside its heads; by default, nothing.
struct attention_form {
  bool bias = false;  // of query, key and value, not of the output (Qwen1.5, Qwen2)
  head_norm norm = head_norm::none;
  int rotary = 0;         // positions turn so many first numbers of a head; 0: all
  bool adjacent = false;  // in pairs (2i, 2i + 1), not (i, i + rotary/2) (ERNIE 4.5)
  double theta = 10000;   // pair i turns by theta^(-2i/rotary) a position
  double epsilon = 1e-6;  // of the norms above
  double scale = 0;       // what scores are times; 0: 1 / sqrt(numbers of a head)
  finegrain::yarn yarn = {};

  friend constexpr bool operator==(attention_form const&, attention_form const&) = default;
};

/// Constants that a decoder's numbers are times, as muP and Granite have them; 1: nothing.
struct multipliers {
  double embedding = 1;  // of the embedding's rows
  double residual = 1;   // of what each block makes, before it is added to what it read
  double logits = 1;     // of the logits: 1 / logits_scaling of published configs

  friend constexpr bool operator==(multipliers const&, multipliers const&) = default;
};

/// A decoder: embedding, `layers` blocks of attention and feed-forward, norm, head. The first
/// dense_layers blocks have a feed-forward block of dense_width, the others the mixture; of these
/// the first hash_layers send tokens by their ids, weighed by scores [DeepSeek-V4].
struct architecture {
  int hidden = 0;  // D
  int layers = 0;
  int vocabulary = 0;    // rows of the embedding and of the head
  bool tied = false;     // whether those are one table
  int heads = 0;         // query heads
  int kv_heads = 0;      // key and value heads; 0 with latent attention
  int head_dim = 0;      // numbers of a head; 0 with latent attention
  int dense_layers = 0;  // layers, if the whole model is dense: it then has no moe
  int dense_width = 0;
  int hash_layers = 0;
  config moe = {};
  finegrain::latent latent = {};
  attention_form attention = {};  // where there is no latent attention
  double epsilon = 1e-6;          // of the norms between stages
  finegrain::multipliers multipliers = {};

  friend constexpr bool operator==(architecture const&, architecture const&) = default;
};

static_assert(detail::ends_without_padding<yarn> && detail::ends_without_padding<latent> &&
                  detail::ends_without_padding<attention_form> &&
                  detail::ends_without_padding<multipliers> &&
                  detail::ends_without_padding<architecture>,
              "an architecture must not end in padding: see ends_without_padding");

/// Whether layers have latent attention; whether none has a mixture.
constexpr bool has_latent_attention(architecture const& a) { return a.latent != latent{}; }
constexpr bool is_dense(architecture const& a) { return a.dense_layers == a.layers; }

/// The numbers themselves if rotary positions can have them; throws invalid_config if not.
constexpr yarn const& checked(yarn const& y) {
  // clang-format off
  if (!(y.factor >= 1) || y.factor > 1e6f) throw invalid_config("finegrain::yarn: factor must be at least 1, and finite");
  if (y.original < 1) throw invalid_config("finegrain::yarn: original must be at least 1");
  if (!(y.slow > 0 && y.fast >= y.slow)) throw invalid_config("finegrain::yarn: slow must be positive, and fast at least as large");
  if (!(y.mscale >= 0 && y.mscale_all >= 0) || y.mscale > 1e6f || y.mscale_all > 1e6f) throw invalid_config("finegrain::yarn: mscale and mscale_all must not be negative, and finite");
  // clang-format on
  return y;
}

namespace detail {
/// Whether numbers may be times this: not so small or large that f32 soon has 0 or infinity.
constexpr bool is_multiplier(double by) { return by >= 1e-6 && by <= 1e6; }
}  // namespace detail

/// The form itself if attention can have it; throws invalid_config if not.
constexpr attention_form const& checked(attention_form const& f) {
  // clang-format off
  if (f.rotary < 0 || f.rotary % 2 != 0) throw invalid_config("finegrain::attention_form: positions turn pairs, so rotary must be even, and 0 for all numbers of a head");
  if (!(f.theta > 1)) throw invalid_config("finegrain::attention_form: theta must be more than 1");
  if (!(f.epsilon >= 1e-37 && f.epsilon < 1)) throw invalid_config("finegrain::attention_form: epsilon must lie between 1e-37 and 1");
  if (f.norm == head_norm::none && f.epsilon != attention_form{}.epsilon) throw invalid_config("finegrain::attention_form: epsilon is of the norms of queries and keys, and there are none");
  if (f.scale != 0 && !detail::is_multiplier(f.scale)) throw invalid_config("finegrain::attention_form: scale must lie between 1e-6 and 1e6, or be 0 for the usual one");
  // clang-format on
  checked(f.yarn);
  return f;
}

/// The numbers themselves if latent attention can have them; throws invalid_config if not.
constexpr latent const& checked(latent const& n) {
  // clang-format off
  if (n.q_rank < 0) throw invalid_config("finegrain::latent: q_rank must not be negative");
  if (n.kv_rank < 1) throw invalid_config("finegrain::latent: kv_rank must be at least 1");
  if (n.nope < 1) throw invalid_config("finegrain::latent: nope must be at least 1");
  if (n.rope < 2 || n.rope % 2 != 0) throw invalid_config("finegrain::latent: rotary positions turn pairs, so rope must be even and at least 2");
  if (n.value < 1) throw invalid_config("finegrain::latent: value must be at least 1");
  if (!(n.theta > 1)) throw invalid_config("finegrain::latent: theta must be more than 1");
  // clang-format on
  checked(n.yarn);
  return n;
}

/// The multipliers themselves if a decoder can have them; throws invalid_config if not.
constexpr multipliers const& checked(multipliers const& m) {
  for (double const by : {m.embedding, m.residual, m.logits})
    if (!detail::is_multiplier(by))
      throw invalid_config("finegrain::multipliers: each must lie between 1e-6 and 1e6");
  return m;
}

/// The architecture itself if a decoder can have it; throws invalid_config, in a sentence, if not.
constexpr architecture const& checked(architecture const& a) {
  // clang-format off
  if (a.hidden < 1) throw invalid_config("finegrain::architecture: hidden must be at least 1");
  if (a.layers < 1) throw invalid_config("finegrain::architecture: layers must be at least 1");
  if (a.vocabulary < 1) throw invalid_config("finegrain::architecture: vocabulary must be at least 1");
  if (a.heads < 1) throw invalid_config("finegrain::architecture: heads must be at least 1");
  if (has_latent_attention(a)) {
    checked(a.latent);
    if (a.kv_heads != 0 || a.head_dim != 0) throw invalid_config("finegrain::architecture: latent attention has head sizes of its own, so kv_heads and head_dim must be 0");
    if (a.attention != attention_form{}) throw invalid_config("finegrain::architecture: latent attention has numbers of its own, so attention must be left out");
  } else {
    if (a.kv_heads < 1 || a.heads % a.kv_heads != 0) throw invalid_config("finegrain::architecture: heads must divide evenly among kv_heads");
    if (a.head_dim < 2 || a.head_dim % 2 != 0) throw invalid_config("finegrain::architecture: rotary positions turn pairs, so head_dim must be even and at least 2");
    if (a.attention.rotary > a.head_dim) throw invalid_config("finegrain::architecture: attention.rotary must be at most head_dim");
    checked(a.attention);
  }
  if (!(a.epsilon >= 1e-37 && a.epsilon < 1)) throw invalid_config("finegrain::architecture: epsilon must lie between 1e-37 and 1");
  checked(a.multipliers);
  if (a.dense_layers < 0 || a.dense_layers > a.layers) throw invalid_config("finegrain::architecture: dense_layers must lie between 0 and layers");
  if ((a.dense_layers > 0) != (a.dense_width > 0)) throw invalid_config("finegrain::architecture: dense_width must be positive where there are dense layers, and 0 where there are none");
  if (a.hash_layers < 0 || a.hash_layers > a.layers - a.dense_layers) throw invalid_config("finegrain::architecture: hash_layers must lie between 0 and the layers that are not dense");
  if (a.hash_layers > 0) a.moe.by_id(a.vocabulary);
  if (is_dense(a)) {
    if (a.moe != config{}) throw invalid_config("finegrain::architecture: a model whose layers are all dense must not have a moe");
  } else {
    checked(a.moe);
    if (a.moe.hidden != a.hidden) throw invalid_config("finegrain::architecture: moe.hidden must equal hidden");
  }
  // clang-format on
  return a;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
