// decoder: an architecture's numbers as an expression.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/architecture.hpp"
#include "latent_attention.hpp"
#include "layers.hpp"
#include "tied.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

template <architecture A>
constexpr auto attention_of() {
  if constexpr (has_latent_attention(A))
    return latent_attention<A.hidden, A.heads, A.latent>{};
  else
    return attention<A.hidden, A.heads, A.kv_heads, A.head_dim, A.attention>{};
}

/// a's output, times a constant where that is not 1.
template <real_number By, Expr A>
constexpr auto multiplied(A a) {
  if constexpr (By.value == 1)
    return a;
  else
    return a | times<out_width<A>(), By>{};
}
/// x + what a norm and a stage behind it make of x, times the architecture's constant.
template <architecture A, Expr Stage>
constexpr auto block_of(Stage stage) {
  return residual(multiplied<A.multipliers.residual>(rmsnorm<A.hidden, A.epsilon>{} | stage));
}

}  // namespace detail

/// Attention, then a feed-forward block: the architecture's first layers.
template <architecture A>
struct dense_block : named {
  static constexpr auto expr = detail::block_of<A>(detail::attention_of<A>()) |
                               detail::block_of<A>(mlp<A.hidden, A.dense_width>{});
};

/// Attention, then a mixture: the architecture's other layers, or its hash layers.
template <architecture A, config C = A.moe>
struct moe_block : named {
  static constexpr auto expr =
      detail::block_of<A>(detail::attention_of<A>()) | detail::block_of<A>(mixture<C>{});
};

namespace detail {

/// The layers that have a mixture: hash layers first.
template <architecture A>
constexpr auto mixtures_of() {
  constexpr int rest = A.layers - A.dense_layers - A.hash_layers;
  if constexpr (A.hash_layers == 0)
    return repeat<rest>(moe_block<A>{});
  else if constexpr (rest == 0)
    return repeat<A.hash_layers>(moe_block<A, A.moe.by_id(A.vocabulary)>{});
  else
    return repeat<A.hash_layers>(moe_block<A, A.moe.by_id(A.vocabulary)>{}) |
           repeat<rest>(moe_block<A>{});
}
template <architecture A>
constexpr auto layers_of() {
  if constexpr (is_dense(A))
    return repeat<A.layers>(dense_block<A>{});
  else if constexpr (A.dense_layers == 0)
    return mixtures_of<A>();
  else
    return repeat<A.dense_layers>(dense_block<A>{}) | mixtures_of<A>();
}

template <architecture A>
constexpr auto decoder_of() {
  constexpr multipliers by = A.multipliers;
  constexpr embedding<A.vocabulary, A.hidden> first;
  constexpr auto layers = layers_of<A>();
  // The logits' constant is that of what the head reads: it is linear, and its rows are shorter.
  constexpr auto last = multiplied<by.logits>(rmsnorm<A.hidden, A.epsilon>{});
  if constexpr (!A.tied)
    return multiplied<by.embedding>(first) | layers | last | head<A.hidden, A.vocabulary>{};
  else if constexpr (by.embedding == 1)
    return tied(first, layers | last);
  else
    return tied(first, times<A.hidden, by.embedding>{} | layers | last);
}

}  // namespace detail

/// The whole model: token ids in, logits out. Its weights' names are those of the parts:
/// embedding.table, layers.0.attention.query, layers.1.mixture.router, rmsnorm.gain, and, unless it is
/// the table, head.weight.
template <architecture A>
struct decoder : named {
  static_assert((checked(A), true));
  static constexpr auto expr = detail::decoder_of<A>();
};

}  // namespace finegrain::inline FINEGRAIN_ABI
