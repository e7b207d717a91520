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

/// Attention, then a mixture: the architecture's other layers, or its hash layers.
template <architecture A, config C = A.moe>
struct moe_block : named {
  static constexpr auto expr = residual(rmsnorm<A.hidden>{} | detail::attention_of<A>()) |
                               residual(rmsnorm<A.hidden>{} | mixture<C>{});
};

namespace detail {

/// `before`, then n times a block.
template <int N, class Before, Expr Block>
constexpr auto then_repeat(Before before, Block block) {
  if constexpr (N == 0)
    return before;
  else
    return before | repeat<N>(block);
}

/// The embedding and all layers.
template <architecture A>
constexpr auto layers_of() {
  constexpr embedding<A.vocabulary, A.hidden> start;
  constexpr auto dense = then_repeat<A.dense_layers>(start, dense_block<A>{});
  if constexpr (is_dense(A)) {
    return dense;
  } else {
    constexpr auto hash = then_repeat<A.hash_layers>(dense, moe_block<A, hash_moe(A)>{});
    return then_repeat<A.layers - A.dense_layers - A.hash_layers>(hash, moe_block<A>{});
  }
}

}  // namespace detail

/// The whole model: token ids in, logits out. Its weights' names are those of the parts:
/// embedding.table, layers.0.attention.query, layers.1.mixture.router, rmsnorm.gain, head.weight.
template <architecture A>
struct decoder : named {
  static_assert((checked(A), true));
  static constexpr auto expr =
      detail::layers_of<A>() | rmsnorm<A.hidden>{} | head<A.hidden, A.vocabulary>{};
};

}  // namespace finegrain::inline FINEGRAIN_ABI
