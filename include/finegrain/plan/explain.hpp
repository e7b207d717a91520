// explain: which plans an executor chose for an expression, and what they cost.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "../expr/describe.hpp"
#include "compose.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What one node of an expression costs under its plan, for one batch.
struct plan_cost {
  std::int64_t flops = 0;          // forward; backward does twice as many
  std::int64_t weight_bytes = 0;   // read forward: every weight, or K experts a token if fewer
  std::int64_t saved_bytes = 0;    // kept from forward to backward
  std::int64_t scratch_bytes = 0;  // needed while a pass runs
};

/// What a machine can do in a second: floating-point operations, and bytes read from memory.
struct machine_limits {
  double flops = 0, bytes = 0;

  /// The least seconds of a forward pass: of arithmetic or of reading weights, whichever is longer.
  constexpr double least_seconds(plan_cost const& cost) const {
    double const computing = static_cast<double>(cost.flops) / flops;
    double const reading = static_cast<double>(cost.weight_bytes) / bytes;
    return computing > reading ? computing : reading;
  }
};

template <Expr E, class X>
constexpr plan_cost cost_of(extent e) {
  std::int64_t numbers = 0;
  detail::leaves<E>::visit([&]<Expr L>(L leaf) {
    std::int64_t const used = L::multiplies ? active_parameters(leaf) : L::out;
    numbers += std::min(parameters(leaf), used * e.tokens);
  });
  return {flops(E{}, e.tokens), numbers * static_cast<std::int64_t>(sizeof(typename X::scalar)),
          saved_bytes<X, E>(e), scratch_bytes<X, E>(e)};
}

namespace detail {

template <class X>
class explanation {
 public:
  explanation(extent e, machine_limits limits) : extent_(e), limits_(limits) {}

  template <Expr A, Expr B>
  void add(then<A, B> e, int depth, bool inside) {
    bool const apart = !inside && !std::is_base_of_v<composed, plan<X, then<A, B>>>;
    if (apart) node(e, "sequence", depth, inside);  // one plan for both: a line of its own
    add(A{}, depth + apart, inside || apart);
    add(B{}, depth + apart, inside || apart);
  }
  template <Expr A, Expr B>
  void add(sum<A, B> e, int depth, bool inside) {
    if (node(e, "sum", depth, inside)) inside = true;
    add(A{}, depth + 1, inside);
    add(B{}, depth + 1, inside);
  }
  template <Expr A, Expr B>
  void add(blended<A, B> e, int depth, bool inside) {
    if (node(e, "blend", depth, inside)) inside = true;
    add(A{}, depth + 1, inside);
    add(B{}, depth + 1, inside);
  }
  template <Expr A>
  void add(residual_of<A> e, int depth, bool inside) {
    if (node(e, "residual", depth, inside)) inside = true;
    add(A{}, depth + 1, inside);
  }
  template <int N, Expr A>
  void add(repeated<N, A> e, int depth, bool inside) {
    if (node(e, "repeat " + std::to_string(N), depth, inside)) inside = true;
    add(A{}, depth + 1, inside);
  }
  template <Expr E>
  void add(E e, int depth, bool inside) {
    char const* const own = Named<E> ? "fused" : "its own";
    bool const fused = node(e, std::string(node_name<E>()), depth, inside, own);
    if constexpr (Named<E>) add(inner_t<E>{}, depth + 1, inside || fused);
  }

  template <Expr E>
  void total(E) {
    push("total", "", cost_of<E, X>(extent_));
  }

  std::string text() const {
    std::vector<std::string> head{"", "plan", "GFLOP", "weights MB", "saved MB", "scratch MB"};
    if (limited()) head.push_back("ms at least");
    std::vector<std::size_t> width;
    for (std::size_t c = 0; c < head.size(); ++c) {
      width.push_back(head[c].size());
      for (auto const& row : rows_) width[c] = std::max(width[c], row[c].size());
    }
    std::string all = line(head, width);
    for (auto const& row : rows_) all += line(row, width);
    return all;
  }

 private:
  /// Adds a line; whether the node has a plan that does its parts' work in one.
  template <Expr E>
  bool node(E, std::string const& name, int depth, bool inside, char const* own = "fused") {
    std::string const label = std::string(static_cast<std::size_t>(2 * depth), ' ') + name;
    if (inside) {
      rows_.push_back({label, "(in the above)"});
      rows_.back().resize(limited() ? 7 : 6);
      return false;
    }
    bool composes = std::is_base_of_v<composed, plan<X, E>>;
    if constexpr (Named<E>) composes = std::is_base_of_v<plan<X, inner_t<E>>, plan<X, E>>;
    push(label, composes ? "composed" : own, cost_of<E, X>(extent_));
    return !composes;
  }

  void push(std::string const& label, char const* kind, plan_cost const& cost) {
    rows_.push_back({label, kind, number(static_cast<double>(cost.flops) * 1e-9),
                     number(static_cast<double>(cost.weight_bytes) * 1e-6),
                     number(static_cast<double>(cost.saved_bytes) * 1e-6),
                     number(static_cast<double>(cost.scratch_bytes) * 1e-6)});
    if (limited()) rows_.back().push_back(number(limits_.least_seconds(cost) * 1e3));
  }
  bool limited() const { return limits_.flops > 0 && limits_.bytes > 0; }
  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, value < 10 ? "%.3f" : "%.1f", value);
    return text;
  }
  static std::string line(std::vector<std::string> const& cells,
                          std::vector<std::size_t> const& width) {
    std::string text;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      std::string const pad(width[c] - cells[c].size() + 2, ' ');
      text += c < 2 ? cells[c] + pad : pad + cells[c];
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + '\n';
  }

  extent extent_;
  machine_limits limits_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace detail

/// The plans that executor X has for expression E, as a tree: fused (one plan for a pattern or a
/// name), composed (of its parts' plans) or a stage's own, each with what a training pass over so
/// many tokens costs. A sequence's stages stand one below the other; the last line is the whole,
/// with what the stages hand to one another. Given a machine's limits, each line also says how long a
/// forward pass takes at least. `kept` is bf16 for a cpu that multiplies in bf16. Includes of a
/// backend decide what is there: include it first.
template <Expr E, class X>
std::string explain(std::int64_t tokens, int workers = 1, machine_limits limits = {},
                    format kept = format::f32) {
  detail::explanation<X> lines({tokens, workers, true, kept}, limits);
  lines.add(E{}, 0, false);
  lines.total(E{});
  return lines.text();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
