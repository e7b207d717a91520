// request: what may be asked of every router of a network, at run time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

struct balance_rule;  // these are in batch.hpp
struct routing_rule;
struct routing_log;

/// The tokens over which balance losses take their means: all of the batch, or each sequence.
enum class window { batch, sequence };

/// Coefficients of the losses that routers add in training. Each of the first four is its
/// coefficient at perfect balance, and has a gradient through scores alone, never through counts.
struct balance_losses {
  double expert = 0;         // alpha1 [DeepSeekMoE eq. 12-14]
  double device = 0;         // alpha2 [eq. 15-17]
  double communication = 0;  // alpha3 [DeepSeek-V2 2.2]
  double sequence = 0;       // V3's: each sequence's, counting choices without bias and groups
  double z = 0;              // times the mean of (log sum exp logits)^2 [ST-MoE]
  double importance = 0;     // times CV^2 of the experts' sums of weights [Shazeer 2017]
  double load = 0;  // noisy: times CV^2 of tokens an expert would get on average over its noise
  window over = window::batch;         // expert, device, communication, rule
  balance_rule const* rule = nullptr;  // added to them; not owned

  friend constexpr bool operator==(balance_losses const&, balance_losses const&) = default;
};

/// Which slots a full expert drops: those of least weight, or those of later choices and tokens.
enum class drop { least_weight, last };

/// Slots are a token's places for experts. This is in those that it does not use.
inline constexpr std::int32_t no_expert = INT32_MIN;

/// Requests to every router of a network, at run time. The default asks for what the config says,
/// and drops nothing.
struct routing_request {
  int top_k = 0;       // experts a token; 0 as configured, else 1 .. K + 1 (K when training)
  int mask_best = 0;   // first exclude each token's so many best experts [4.5, figure 4]
  bool shared = true;  // whether the shared experts take part
  balance_losses balance = {};
  int devices = 1;  // that the experts stand on in equal parts: of losses, budget and statistics

  double capacity = 0;  // an expert takes ceil(capacity T K / R) slots at most; 0: all
  finegrain::drop drop = finegrain::drop::least_weight;
  double device_capacity = 0;  // and a device ceil(capacity T K / devices), least weights dropped,
  double exempt = 0;           // but those of this share of sequences [DeepSeek-V2 2.2]

  double jitter = 0;       // training, config.jitter: factors are uniform in 1 - jitter, 1 + jitter
  std::uint64_t seed = 0;  // of jitter, noise, chance and exemption; a trainer's steps move it
  std::int64_t const* step = nullptr;  // cuda: steps done, on the device, which join the seed there
  bool quantiles = false;              // whether the report has them, for quantile balancing
  routing_log const* earlier = nullptr;  // counts of the step's earlier batches join the losses'
  routing_rule const* rule = nullptr;    // for selection::rule; not owned

  friend constexpr bool operator==(routing_request const&, routing_request const&) = default;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
