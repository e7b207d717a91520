// Multi-head latent attention (DeepSeek-V2, V3): its weights and what it costs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/architecture.hpp"
#include "node.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Causal self-attention whose keys and values are made from one latent vector a token
/// [DeepSeek-V2 2.1]. Generation keeps that vector and one rotary key, whatever the heads. Rotary
/// positions turn neighbours (2i, 2i + 1), as weights are published.
template <int D, int Heads, latent N>
struct latent_attention : stage<D> {
  static_assert((checked(N), true));
  static_assert(D >= 1, "latent_attention: the width must be at least 1");
  static_assert(Heads >= 1, "latent_attention: there must be at least one head");
  static constexpr char const* name = "attention";
  static constexpr double theta = double(N.theta);
  static constexpr double epsilon = 1e-6;            // of its norms
  static constexpr int query_dim = N.nope + N.rope;  // numbers of a query and key head
  static constexpr bool straight = N.q_rank == 0;    // queries come straight from x

  template <class T>
  struct weights {
    matrix<T> q_proj;     // (Heads * query_dim, D), or empty: then the next three
    matrix<T> q_a;        // (q_rank, D)
    matrix<T> q_a_norm;   // (1, q_rank)
    matrix<T> q_b;        // (Heads * query_dim, q_rank)
    matrix<T> kv_a;       // (kv_rank + rope, D): the latent vector, then the rotary key
    matrix<T> kv_a_norm;  // (1, kv_rank)
    matrix<T> kv_b;       // (Heads * (nope + value), kv_rank): a head's key, then its value
    matrix<T> output;     // (D, Heads * value)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : q_proj(bind.matrix("q_proj", straight ? Heads * query_dim : 0, D, role::projection)),
          q_a(bind.matrix("q_a", N.q_rank, D, role::projection)),
          q_a_norm(bind.matrix("q_a_norm", straight ? 0 : 1, N.q_rank, role::gain)),
          q_b(bind.matrix("q_b", Heads * query_dim, N.q_rank, role::projection)),
          kv_a(bind.matrix("kv_a", N.kv_rank + N.rope, D, role::projection)),
          kv_a_norm(bind.matrix("kv_a_norm", 1, N.kv_rank, role::gain)),
          kv_b(bind.matrix("kv_b", Heads * (N.nope + N.value), N.kv_rank, role::projection)),
          output(bind.matrix("output", D, Heads * N.value, role::projection)) {}
  };
  /// Scores and their use, the lower triangle only.
  static constexpr std::int64_t extra_flops(std::int64_t tokens) {
    return 2LL * Heads * (query_dim + N.value) * (tokens * (tokens + 1) / 2);
  }
  static constexpr std::int64_t cache = N.kv_rank + N.rope;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
