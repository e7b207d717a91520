// The library's stages: what each computes, and the weights it needs. Weights are [out][in].
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/architecture.hpp"
#include "algebra.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A double as an argument of a template; a class, since clang 14 takes no double there.
struct real_number {
  double value;
  constexpr real_number(double value) : value(value) {}  // NOLINT(*-explicit*)
  friend constexpr bool operator==(real_number const&, real_number const&) = default;
};

/// y = x / sqrt(mean(x^2) + epsilon) * gain. In f32 a row whose squares add up to more than 3.4e38
/// becomes 0.
template <int D, real_number Epsilon = 1e-6>
struct rmsnorm : stage<D> {
  static_assert(D >= 1, "rmsnorm: the width must be at least 1");
  static_assert(Epsilon.value >= 1e-37 && Epsilon.value < 1,
                "rmsnorm: epsilon must lie between 1e-37 and 1");
  static constexpr char const* name = "rmsnorm";
  static constexpr double epsilon = Epsilon.value;
  template <class T>
  struct weights {
    matrix<T> gain;  // (1, D)
    template <class Bind>
    constexpr explicit weights(Bind& bind) : gain(bind.matrix("gain", 1, D, role::gain)) {}
  };
};

/// y = Factor x: a constant multiplier, as muP and Granite have them behind an embedding, on what a
/// block adds, and before a head. Its magnitude lies between 1e-6 and 1e6.
template <int D, real_number Factor>
struct times : stage<D> {
  static_assert(D >= 1, "times: the width must be at least 1");
  static_assert(detail::is_multiplier(Factor.value) || detail::is_multiplier(-Factor.value),
                "times: the factor's magnitude must lie between 1e-6 and 1e6");
  static constexpr char const* name = "times";
};

/// y = x W^T, no bias.
template <int In, int Out>
struct linear : stage<In, Out> {
  static_assert(In >= 1 && Out >= 1, "linear: both widths must be at least 1");
  static constexpr char const* name = "linear";
  template <class T>
  struct weights {
    matrix<T> weight;  // (Out, In)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : weight(bind.matrix("weight", Out, In, role::projection)) {}
  };
};

/// Causal self-attention with rotary positions (half-split, unless Form says adjacent): Heads query
/// heads of HeadDim numbers (an equal part of D, unless it is given) share KvHeads key and value heads.
/// Biases, norms of queries and keys, and by how much positions turn are as Form says.
template <int D, int Heads, int KvHeads = Heads,
          int HeadDim = Heads == 0 || D % Heads != 0 ? 0 : D / Heads,
          attention_form Form = attention_form{}>
struct attention : stage<D> {
  static_assert((checked(Form), true));
  static_assert(D >= 1, "attention: the width must be at least 1");
  static_assert(Heads >= 1, "attention: there must be at least one head");
  static_assert(KvHeads >= 1 && Heads % KvHeads == 0,
                "attention: the query heads must divide evenly among the key and value heads");
  static_assert(
      Heads < 1 || HeadDim != 0,
      "attention: the width must divide evenly among the query heads, or HeadDim be given");
  static_assert(HeadDim >= 0 && HeadDim % 2 == 0,
                "attention: rotary positions turn pairs, so HeadDim must be even");
  static_assert(Form.rotary <= HeadDim, "attention: Form.rotary must be at most HeadDim");
  static constexpr char const* name = "attention";
  static constexpr int biases = Form.bias ? 1 : 0;
  static constexpr bool normed = Form.norm != head_norm::none;
  /// Numbers that a norm of so many heads is of.
  static constexpr int norm_width(int heads) {
    return Form.norm == head_norm::all ? heads * HeadDim : HeadDim;
  }
  template <class T>
  struct weights {
    matrix<T> query;                             // (Heads * HeadDim, D)
    matrix<T> key;                               // (KvHeads * HeadDim, D)
    matrix<T> value;                             // (KvHeads * HeadDim, D)
    matrix<T> output;                            // (D, Heads * HeadDim)
    matrix<T> query_bias, key_bias, value_bias;  // (1, heads * HeadDim), or empty
    matrix<T> query_norm, key_norm;              // (1, norm_width(heads)), or empty
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : query(bind.matrix("query", Heads * HeadDim, D, role::projection)),
          key(bind.matrix("key", KvHeads * HeadDim, D, role::projection)),
          value(bind.matrix("value", KvHeads * HeadDim, D, role::projection)),
          output(bind.matrix("output", D, Heads * HeadDim, role::projection)),
          query_bias(bind.matrix("query_bias", biases, Heads * HeadDim, role::bias)),
          key_bias(bind.matrix("key_bias", biases, KvHeads * HeadDim, role::bias)),
          value_bias(bind.matrix("value_bias", biases, KvHeads * HeadDim, role::bias)),
          query_norm(bind.matrix("query_norm", normed ? 1 : 0, norm_width(Heads), role::gain)),
          key_norm(bind.matrix("key_norm", normed ? 1 : 0, norm_width(KvHeads), role::gain)) {}
  };
  /// Scores and their use, the lower triangle only: 2 * 2 * HeadDim a pair and head. And the gains of
  /// a head's norm, which every head multiplies.
  static constexpr std::int64_t extra_flops(std::int64_t tokens) {
    std::int64_t const again =
        Form.norm == head_norm::each ? std::int64_t{Heads + KvHeads - 2} * HeadDim : 0;
    return 4LL * Heads * HeadDim * (tokens * (tokens + 1) / 2) + 2 * again * tokens;
  }
  static constexpr std::int64_t cache = 2LL * KvHeads * HeadDim;
};

/// A feed-forward block of width F: down(act(gate(x)) * up(x)); Act as a config's, an activation or one
/// with a limit.
template <int D, int F, glu Act = activation::swiglu>
struct mlp : stage<D> {
  static_assert(D >= 1 && F >= 1, "mlp: both widths must be at least 1");
  static_assert(Act.limit >= 0, "mlp: a limit must be positive, or 0 for none");
  static constexpr char const* name = "mlp";
  template <class T>
  struct weights {
    matrix<T> gate, up;  // (F, D)
    matrix<T> down;      // (D, F)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : gate(bind.matrix("gate", F, D, role::projection)),
          up(bind.matrix("up", F, D, role::projection)),
          down(bind.matrix("down", D, F, role::projection)) {}
  };
};

/// The weights of shared experts. Shapes are run-time numbers: one body of code binds every config's.
template <class T>
struct shared_weights {
  matrix<T> gate, up;     // (S F, D)
  matrix<T> down;         // (D, S F)
  matrix<T> shared_gate;  // (1, D), or empty
  template <class Bind>
  FINEGRAIN_ONE_COPY constexpr shared_weights(Bind& bind, config const& c)
      : gate(bind.matrix("shared.gate", c.shared * c.width, c.hidden, role::projection)),
        up(bind.matrix("shared.up", c.shared * c.width, c.hidden, role::projection)),
        down(bind.matrix("shared.down", c.hidden, c.shared * c.width, role::projection)),
        shared_gate(bind.matrix("shared_gate", c.shared_gate ? 1 : 0, c.hidden, role::projection)) {
  }
};

/// The experts that every token runs through: one feed-forward block of width S * F, which is the
/// sum of S blocks of width F; times shared_scale and, with a shared gate, sigmoid(x . shared_gate).
template <config C>
struct shared_experts : stage<C.hidden> {
  static_assert(valid<C>);
  static_assert(C.shared >= 1, "shared_experts: the config has none");
  static constexpr char const* name = "shared_experts";
  static constexpr int width = C.shared * C.width;
  template <class T>
  struct weights : shared_weights<T> {
    template <class Bind>
    constexpr explicit weights(Bind& bind) : shared_weights<T>(bind, C) {}
  };
};

/// The weights of a router and its experts. A router's that the config has no use for are empty: all
/// but `router` as a rule, and `router` too where there is none.
template <class T>
struct routed_weights {
  matrix<T> router;       // (R, D), or (R, P) of a cosine router
  matrix<T> bias;         // (1, R)
  matrix<T> table;        // (V, K) of hash: whole numbers, taken modulo R
  matrix<T> project;      // (P, D) of a cosine router,
  matrix<T> temperature;  // (1, 1) whose cosines are times e^temperature, 100 at most
  matrix<T> noise;        // (R, D) of a noisy router
  stack<T> gate, up;      // R x (F, D)
  stack<T> down;          // R x (D, F)
  template <class Bind>
  FINEGRAIN_ONE_COPY constexpr routed_weights(Bind& bind, config const& c)
      : router(bind.matrix("router", c.has_router() && !c.given_logits ? c.routed : 0,
                           c.cosine > 0 ? c.cosine : c.hidden, role::projection)),
        bias(bind.matrix("bias", c.bias ? 1 : 0, c.routed, role::selection_bias)),
        table(bind.matrix("table", c.vocabulary, c.top_k, role::table)),
        project(bind.matrix("project", c.cosine, c.hidden, role::projection)),
        temperature(bind.matrix("temperature", c.cosine > 0 ? 1 : 0, 1, role::gain)),
        noise(bind.matrix("noise", c.noisy ? c.routed : 0, c.hidden, role::projection)),
        gate(bind.stack("experts.*.gate", c.routed, c.width, c.hidden, role::projection,
                        c.active() - c.shared)),
        up(bind.stack("experts.*.up", c.routed, c.width, c.hidden, role::projection,
                      c.active() - c.shared)),
        down(bind.stack("experts.*.down", c.routed, c.hidden, c.width, role::projection,
                        c.active() - c.shared)) {}
};

/// A router and R experts, K of which each token runs through; their outputs are added, each times
/// its weight. Scores, choice and weights are as C says, and logits too, unless a Router of your own
/// makes them: see own_router.hpp.
template <config C, class Router = void>
struct routed_experts;

template <config C>
struct routed_experts<C, void> : stage<C.hidden> {
  static_assert(valid<C>);
  static constexpr char const* name = "routed_experts";
  static constexpr config layer = C;  // what makes it a router: it has a report in every log
  template <class T>
  struct weights : routed_weights<T> {
    template <class Bind>
    constexpr explicit weights(Bind& bind) : routed_weights<T>(bind, C) {}
  };
};

namespace detail {

template <config C, class Router>
constexpr auto mixture_expression() {
  if constexpr (C.shared > 0)
    return shared_experts<C>{} + routed_experts<C, Router>{};
  else
    return routed_experts<C, Router>{};
}

/// The parts' weights without the parts' names: mixture.router, mixture.shared.gate, ...
template <config C, class Router, bool Shared>
struct mixture_weights {
  template <class T>
  struct type {
    finegrain::weights<shared_experts<C>, T> a;
    finegrain::weights<routed_experts<C, Router>, T> b;
    template <class Bind>
    constexpr explicit type(Bind& bind) : a(bind), b(bind) {}
  };
};
template <config C, class Router>
struct mixture_weights<C, Router, false> {
  template <class T>
  using type = finegrain::weights<routed_experts<C, Router>, T>;
};

}  // namespace detail

/// Of the weights of a mixture, or of the one part that there is, those of a part.
template <class W>
constexpr auto const& shared_part(W const& w) {
  if constexpr (requires { w.a; })
    return w.a;
  else
    return w;
}
template <class W>
constexpr auto const& routed_part(W const& w) {
  if constexpr (requires { w.b; })
    return w.b;
  else
    return w;
}

/// The DeepSeekMoE layer [DeepSeekMoE eq. 9-11, the residual apart]: shared experts plus routed
/// experts; routed experts alone when S = 0. Router is an expression of your own that makes the
/// logits, or void: the config's.
template <config C, class Router = void>
struct mixture : named {
  static_assert(valid<C>);
  static_assert(std::is_void_v<Router> || (Expr<Router> && !std::is_const_v<Router>),
                "mixture<C, Router>: the router must be an expression's type, and not const");
  static constexpr char const* name = "mixture";
  static constexpr auto expr = detail::mixture_expression<C, Router>();
  template <class T>
  using weights = typename detail::mixture_weights<C, Router, (C.shared > 0)>::template type<T>;
};

/// Row `id` of a table: token ids in, D numbers out.
template <int V, int D>
struct embedding : stage<ids, D> {
  static_assert(V >= 1 && D >= 1, "embedding: rows and width must be at least 1");
  static constexpr char const* name = "embedding";
  static constexpr bool multiplies = false;
  static constexpr std::int64_t vocabulary = V;
  template <class T>
  struct weights {
    matrix<T> table;  // (V, D)
    template <class Bind>
    constexpr explicit weights(Bind& bind) : table(bind.matrix("table", V, D, role::projection)) {}
  };
};

/// Logits over V tokens: x W^T.
template <int D, int V>
struct head : stage<D, V> {
  static_assert(D >= 1 && V >= 1, "head: width and tokens must be at least 1");
  static constexpr char const* name = "head";
  template <class T>
  struct weights {
    matrix<T> weight;  // (V, D)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : weight(bind.matrix("weight", V, D, role::projection)) {}
  };
};

}  // namespace finegrain::inline FINEGRAIN_ABI
