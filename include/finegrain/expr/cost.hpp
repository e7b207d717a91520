// What an expression costs, while compiling: parameters, floating-point operations, cache.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

#include "../config/budget.hpp"
#include "layers.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// A `Bind` that only counts.
struct weight_count {
  std::int64_t total = 0, active = 0;

  constexpr void enter(char const*) {}
  constexpr void enter_next(char const*) {}
  constexpr void leave() {}
  constexpr finegrain::matrix<char> matrix(char const*, std::int64_t rows, std::int64_t cols,
                                           role r) {
    if (is_trained(r)) total += rows * cols, active += rows * cols;
    return {};
  }
  constexpr finegrain::stack<char> stack(char const*, std::int64_t count, std::int64_t rows,
                                         std::int64_t cols, role, std::int64_t used) {
    total += count * rows * cols;
    active += used * rows * cols;
    return {};
  }
};

template <Expr E>
constexpr weight_count count_weights() {
  weight_count count;
  static_cast<void>(weights<E, char>(count));
  return count;
}

/// Calls f(leaf) for every leaf stage below E, in the order of the forward pass, and f.end_residual(),
/// if there is such a function, behind those of a residual.
template <Expr E>
struct leaves {
  template <class F>
  static constexpr void visit(F&& f) {
    if constexpr (is_stage<E>)
      f(E{});
    else
      each_part(parts<E>, [&]<Expr A>(A) { leaves<A>::visit(f); });
  }
};
/// What a blend is mixed by: a linear stage, but for what a frozen network makes of one.
template <int In>
struct mix : linear<In, 2> {};
template <Expr A, Expr B>
struct leaves<blended<A, B>> {
  template <class F>
  static constexpr void visit(F&& f) {
    f(mix<in_width<A>()>{});
    leaves<A>::visit(f);
    leaves<B>::visit(f);
  }
};
template <Expr A>
struct leaves<residual_of<A>> {
  template <class F>
  static constexpr void visit(F&& f) {
    leaves<A>::visit(f);
    if constexpr (requires { f.end_residual(); }) f.end_residual();
  }
};
template <int N, Expr A>
struct leaves<repeated<N, A>> {
  template <class F>
  static constexpr void visit(F&& f) {
    for (int i = 0; i < N; ++i) leaves<A>::visit(f);
  }
};

/// A stage that routes: it has a config, `layer`, and its plans write reports.
template <class L>
inline constexpr bool is_router = requires {
  { L::layer } -> std::convertible_to<config const&>;
};
/// Whether a stage below E routes.
template <Expr E>
constexpr bool has_router() {
  bool has = false;
  leaves<E>::visit([&]<Expr L>(L) { has |= is_router<L>; });
  return has;
}

}  // namespace detail

/// Trained numbers in an expression, everything included (routers, norms, embeddings).
template <Expr E>
constexpr std::int64_t parameters(E) {
  return detail::count_weights<E>().total;
}
/// Of these, the ones that one token runs through: K of the R routed experts.
template <Expr E>
constexpr std::int64_t active_parameters(E) {
  return detail::count_weights<E>().active;
}

namespace detail {

/// Numbers in experts, and of these, the ones that a token runs through.
struct expert_count {
  std::int64_t total = 0, active = 0;
  friend constexpr bool operator==(expert_count const&, expert_count const&) = default;
};

/// Of a leaf stage: none, unless it is one of these.
template <Expr L>
constexpr expert_count experts_in(L) {
  return {};
}
template <int D, int F, glu Act>
constexpr expert_count experts_in(mlp<D, F, Act> e) {
  return {parameters(e), parameters(e)};
}
template <config C>
constexpr expert_count experts_in(shared_experts<C>) {
  std::int64_t const all = C.shared * parameters_of_one_expert(C);
  return {all, all};
}
template <config C, class Router>
constexpr expert_count experts_in(routed_experts<C, Router>) {
  return {C.routed * parameters_of_one_expert(C),
          (C.active() - C.shared) * parameters_of_one_expert(C)};
}

template <Expr E>
constexpr expert_count count_experts() {
  expert_count count;
  leaves<E>::visit([&]<Expr L>(L leaf) {
    count.total += experts_in(leaf).total;
    count.active += experts_in(leaf).active;
  });
  return count;
}

}  // namespace detail

/// Numbers in all experts of an expression, routed and shared, routers and gates apart. An mlp counts
/// as an expert that every token takes.
template <Expr E>
constexpr std::int64_t expert_parameters(E) {
  return detail::count_experts<E>().total;
}
/// Of these, the ones that one token runs through: K of the R routed experts.
template <Expr E>
constexpr std::int64_t active_expert_parameters(E) {
  return detail::count_experts<E>().active;
}
/// Whether all expressions have equally many, in total and active, as rungs of a ladder have.
template <Expr First, Expr... Rest>
constexpr bool same_budget(First, Rest...) {
  return ((detail::count_experts<Rest>() == detail::count_experts<First>()) && ...);
}

/// Floating-point operations of a forward pass over one sequence of so many tokens: two for each
/// active weight that is multiplied, and what a stage adds (attention's scores).
template <Expr E>
constexpr std::int64_t flops(E, std::int64_t tokens) {
  std::int64_t total = 0;
  detail::leaves<E>::visit([&]<Expr L>(L leaf) {
    if (L::multiplies) total += 2 * active_parameters(leaf) * tokens;
    total += L::extra_flops(tokens);
  });
  return total;
}
/// Of forward and backward: the backward pass does twice the forward's products.
template <Expr E>
constexpr std::int64_t training_flops(E e, std::int64_t tokens) {
  return 3 * flops(e, tokens);
}

/// Numbers that generation keeps for each token of context.
template <Expr E>
constexpr std::int64_t cache_width(E) {
  std::int64_t total = 0;
  detail::leaves<E>::visit([&]<Expr L>(L) { total += L::cache; });
  return total;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
