// A frozen model that two files run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/finegrain.hpp>

#include <vector>

namespace fg = finegrain;

inline constexpr fg::config moe{.hidden = 32, .width = 16, .routed = 4, .top_k = 2, .shared = 1};
struct model : fg::named {
  static constexpr auto expr =
      fg::residual(fg::rmsnorm<32>{} | fg::attention<32, 2>{}) |
      fg::residual(
          fg::rmsnorm<32>{} |
          fg::latent_attention<32, 2,
                               fg::latent{.kv_rank = 16, .nope = 8, .rope = 4, .value = 8}>{}) |
      fg::residual(fg::rmsnorm<32>{} | fg::mixture<moe>{}) | fg::mlp<32, 48>{} |
      fg::linear<32, 32>{};
};
using frozen_model = fg::frozen<model, fg::cpu, fg::formats(fg::format::int4, fg::format::int8)>;

frozen_model made(float const* weights);
std::vector<float> run_elsewhere(frozen_model& net, std::vector<float> const& x);
