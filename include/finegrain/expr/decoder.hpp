// decoder: an architecture's numbers as an expression.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/architecture.hpp"
#include "latent_attention.hpp"
#include "layers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

template <architecture A>
constexpr auto attention_of() {
  if constexpr (has_latent_attention(A))
    return latent_attention<A.hidden, A.heads, A.latent>{};
  else
    return attention<A.hidden, A.heads, A.kv_heads, A.head_dim>{};
}

}  // namespace detail

/// Attention, then a feed-forward block: the architecture's first layers.
template <architecture A>
struct dense_block : named {
  static constexpr auto expr = residual(rmsnorm<A.hidden>{} | detail::attention_of<A>()) |
                               residual(rmsnorm<A.hidden>{} | mlp<A.hidden, A.dense_width>{});
};

/// Attention, then a mixture: the architecture's other layers.
template <architecture A>
struct moe_block : named {
  static constexpr auto expr = residual(rmsnorm<A.hidden>{} | detail::attention_of<A>()) |
                               residual(rmsnorm<A.hidden>{} | mixture<A.moe>{});
};

namespace detail {

template <architecture A>
constexpr auto layers_of() {
  constexpr int mixtures = A.layers - A.dense_layers;
  if constexpr (is_dense(A))
    return repeat<A.layers>(dense_block<A>{});
  else if constexpr (A.dense_layers == 0)
    return repeat<A.layers>(moe_block<A>{});
  else
    return repeat<A.dense_layers>(dense_block<A>{}) | repeat<mixtures>(moe_block<A>{});
}

}  // namespace detail

/// The whole model: token ids in, logits out. Its weights' names are those of the parts:
/// embedding.table, layers.0.attention.query, layers.1.mixture.router, rmsnorm.gain, head.weight.
template <architecture A>
struct decoder : named {
  static_assert((checked(A), true));
  static constexpr auto expr = embedding<A.vocabulary, A.hidden>{} | detail::layers_of<A>() |
                               rmsnorm<A.hidden>{} | head<A.hidden, A.vocabulary>{};
};

}  // namespace finegrain::inline FINEGRAIN_ABI
