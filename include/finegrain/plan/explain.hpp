// explain: which plans an executor chose for an expression, and what they cost.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "../base/math.hpp"
#include "../expr/describe.hpp"
#include "frozen.hpp"
#include "timed.hpp"

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

namespace detail {

/// Bytes of E's weights: as a network's, or as those of one that is frozen in F.
template <Expr E, class X, formats... F>
constexpr std::int64_t stored_bytes() {
  if constexpr (sizeof...(F) == 0) {
    return parameters(E{}) * static_cast<std::int64_t>(sizeof(typename X::scalar));
  } else {
    arena counting;
    (static_cast<void>(frozen_weights<X, F, E>(counting)), ...);
    return counting.used();
  }
}

}  // namespace detail

/// What E costs on X, for one batch of this extent: of a network, or of one that is frozen in F. Of
/// experts that are not all read, bytes are their share of a stage's numbers.
template <Expr E, class X, formats... F>
constexpr plan_cost cost_of(extent e) {
  static_assert(sizeof...(F) <= 1, "cost_of: a network is frozen in one set of formats");
  std::int64_t bytes = 0;
  detail::leaves<E>::visit([&]<Expr L>(L leaf) {
    std::int64_t const all = parameters(leaf), stored = detail::stored_bytes<L, X, F...>();
    std::int64_t const used = (L::multiplies ? active_parameters(leaf) : L::out) * e.tokens;
    if (used >= all)
      bytes += stored;
    else
      bytes += static_cast<std::int64_t>(static_cast<double>(stored) / static_cast<double>(all) *
                                         static_cast<double>(used));
  });
  return {flops(E{}, e.tokens), bytes, saved_bytes<X, E>(e), scratch_bytes<X, E>(e)};
}

/// A line of an explanation: a node, and the plan that computes it.
struct explained {
  std::string name;
  int depth = 0;
  std::string plan;  // "fused", "composed", "its own"; "" where a fused plan has done it
  plan_cost cost = {};
  timings::row times = {};  // if the node was timed
};

namespace detail {

template <class X, formats... F>
class explanation {
 public:
  explanation(extent e, timings const& times) : extent_(e), times_(times) {}

  template <Expr A, Expr B>
  void add(then<A, B> e, int depth, bool inside) {
    bool const apart = !inside && !composes<X, then<A, B>>;
    if (apart) node(e, depth, inside);  // one plan for both: a line of its own
    add(A{}, depth + apart, inside || apart);
    add(B{}, depth + apart, inside || apart);
  }
  template <Expr E>
  void add(E e, int depth, bool inside) {
    inside |= node(e, depth, inside);
    each_part(parts<E>, [&](auto part) { add(part, depth + 1, inside); });
  }

  /// The lines, and the total.
  template <Expr E>
  std::vector<explained> finish(E) {
    if (!times_.rows.empty() && times_.rows.size() != row_)
      throw invalid_argument("the timings have %lld rows and the expression has %lld",
                             detail::shown(times_.rows.size()), detail::shown(row_));
    lines_.push_back({"total", 0, "total", cost_of<E, X, F...>(extent_), times_of(0)});
    return std::move(lines_);
  }

 private:
  /// Adds a line; whether the node has a plan that does its parts' work in one.
  template <Expr E>
  bool node(E e, int depth, bool inside) {
    if (inside) {
      lines_.push_back({node_title(e), depth, "", {}, {}});
      return false;
    }
    char const* const plan = composes<X, E> ? "composed" : is_stage<E> ? "its own" : "fused";
    lines_.push_back({node_title(e), depth, plan, cost_of<E, X, F...>(extent_), times_of(row_++)});
    return !composes<X, E>;
  }
  timings::row times_of(std::size_t row) const {
    return row < times_.rows.size() ? times_.rows[row] : timings::row{};
  }

  extent extent_;
  timings const& times_;
  std::size_t row_ = 1;  // of the timings, for the next node with a plan
  std::vector<explained> lines_;
};

/// The lines of an explanation as rows of cells: what a node costs, how long it took where that was timed,
/// and how long it takes at least where the machine's limits are known.
FINEGRAIN_LAZY class cost_cells {
 public:
  using row = std::vector<std::string>;

  cost_cells(machine_limits limits, bool timed)
      : limits_(limits), limited_(limits.flops > 0 && limits.bytes > 0), timed_(timed) {}

  row header() const {
    row cells{"", "plan", "GFLOP", "weights MB", "saved MB", "scratch MB"};
    if (timed_) append(cells, {"calls", "forward ms", "backward ms", "ms"});
    if (limited_) append(cells, {"ms at least"});
    if (limited_ && timed_) append(cells, {"of it"});
    return cells;
  }
  row of(explained const& node) const {
    std::string label = std::string(static_cast<std::size_t>(2 * node.depth), ' ') + node.name;
    if (node.plan.empty()) return {std::move(label), "(in the above)"};
    row cells{std::move(label), node.plan == "total" ? "" : node.plan};
    append(cells,
           {number(static_cast<double>(node.cost.flops) * 1e-9), millions(node.cost.weight_bytes),
            millions(node.cost.saved_bytes), millions(node.cost.scratch_bytes)});
    if (timed_) add_times(cells, node.times);
    if (limited_) add_least(cells, node);
    return cells;
  }

 private:
  static void append(row& cells, row const& more) {
    cells.insert(cells.end(), more.begin(), more.end());
  }
  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, value < 10 ? "%.3f" : "%.1f", value);
    return text;
  }
  static std::string millions(std::int64_t n) { return number(static_cast<double>(n) * 1e-6); }
  /// Milliseconds of a call in the mean, or nothing where there was none.
  static std::string mean(double seconds, std::int64_t calls) {
    return calls > 0 ? number(1e3 * seconds / static_cast<double>(calls)) : "";
  }

  static void add_times(row& cells, timings::row const& times) {
    append(cells, {std::to_string(times.calls()), mean(times.forward.seconds, times.forward.calls),
                   mean(times.backward.seconds, times.backward.calls),
                   mean(times.seconds(), times.calls())});
  }
  /// The least milliseconds of a call, and what part of its time that is.
  void add_least(row& cells, explained const& node) const {
    auto const calls = static_cast<double>(node.times.calls());
    double const least =
        limits_.least_seconds(node.cost) * (calls > 0 ? node.times.passes() / calls : 1);
    cells.push_back(number(least * 1e3));
    if (node.times.seconds() > 0)
      cells.push_back(std::to_string(math::lround(100 * least * calls / node.times.seconds())) +
                      " %");
  }

  machine_limits limits_;
  bool limited_, timed_;
};

/// A table's cells in columns, the first two to the left.
FINEGRAIN_LAZY inline std::string in_columns(std::vector<std::vector<std::string>> const& rows) {
  std::vector<std::size_t> width;
  for (auto const& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (c == width.size()) width.push_back(0);
      width[c] = std::max(width[c], row[c].size());
    }
  std::string text;
  for (auto const& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      std::string const pad(width[c] - row[c].size() + 2, ' ');
      text += c < 2 ? row[c] + pad : pad + row[c];
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

}  // namespace detail

/// The lines of `explain`, for a program to read.
template <Expr E, class X, formats... F>
std::vector<explained> explain_nodes(extent e, timings const& times = {}) {
  if (e.tokens < 0 || e.workers < 1)
    throw invalid_argument("a pass takes 0 tokens or more and 1 thread or more, not %lld and %d",
                           detail::shown(e.tokens), e.workers);
  detail::explanation<X, F...> lines(e, times);
  lines.add(E{}, 0, false);
  return lines.finish(E{});
}

/// The plans that executor X has for expression E, as a tree: fused (one plan for a pattern or a name),
/// composed (of its parts' plans) or a stage's own, each with what a pass over one text of so many
/// tokens costs. A sequence's stages stand one below the other; the last line is the whole, with what
/// the stages hand to one another. Of a network that is frozen, say in which formats: explain<E, cpu,
/// format::int4>(frozen.extent_of(T)). Given a machine's limits, each line also says how long a forward
/// pass takes at least. Given the timings of timed<E, X> over batches of so many tokens, it says how
/// long the mean call took, and the least is that of what was run: a call's forward pass, and twice
/// that for its backward pass. The first line is of an executor that is compiled for one of several
/// instruction sets: for which, and for how many threads the costs are. Throws invalid_argument if the
/// timings are another expression's, and for fewer than 0 tokens or 1 thread. Includes of a backend
/// decide what is there: include it first.
template <Expr E, class X, formats... F>
std::string explain(extent e, machine_limits limits = {}, timings const& times = {}) {
  detail::cost_cells<> const cells(limits, !times.rows.empty());
  std::vector<std::vector<std::string>> rows{cells.header()};
  for (explained const& node : explain_nodes<E, X, F...>(e, times)) rows.push_back(cells.of(node));
  std::string const table = detail::in_columns(rows);
  if constexpr (requires { X::isa; })
    return "compiled for " + std::string(X::isa) + ", " + std::to_string(e.workers) +
           (e.workers == 1 ? " thread\n" : " threads\n") + table;
  else
    return table;
}
/// The same for a training pass; `kept` is bf16 for a cpu that multiplies in bf16.
template <Expr E, class X>
std::string explain(std::int64_t tokens, int workers = 1, machine_limits limits = {},
                    format kept = format::f32) {
  return explain<E, X>({tokens, workers, true, kept}, limits);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
