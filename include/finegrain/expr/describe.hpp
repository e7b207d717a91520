// describe: an expression as indented text, with shapes and parameter counts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "cost.hpp"
#include "latent_attention.hpp"
#include "observed.hpp"
#include "own_router.hpp"
#include "tied.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What is worth saying of a stage beside its shapes, in a few words. Overload it, in your stage's
/// namespace, for a stage of your own.
template <Expr E>
std::string details(E) {
  return {};
}

namespace detail {
/// `words` and a number, where it is not the usual one: in six digits, or as many more as tell it from
/// others, of f32 if it is one of these. The same in every locale, since files are told apart by it.
inline std::string unless(double usual, char const* words, double x) {
  if (x == usual) return {};
  char text[32];
  char* end = text;
  for (int digits = 6; digits <= 17; ++digits) {
    end = std::to_chars(text, text + sizeof text, x, std::chars_format::general, digits).ptr;
    double y = 0;
    std::from_chars(text, end, y);
    if (y == x || static_cast<double>(static_cast<float>(y)) == x) break;
  }
  return std::string(words) + " " + std::string(text, end);
}
/// Positions that turn slower, where they do.
inline std::string slowed(yarn const& y) {
  if (y.factor == 1) return {};
  constexpr yarn usual = {};
  return unless(1, ", yarn", double(y.factor)) + unless(usual.original, ", original", y.original) +
         unless(double(usual.fast), ", fast", double(y.fast)) +
         unless(double(usual.slow), ", slow", double(y.slow)) +
         unless(double(usual.mscale), ", mscale", double(y.mscale)) +
         unless(double(usual.mscale_all), ", mscale_all", double(y.mscale_all));
}
}  // namespace detail

template <int D, real_number Epsilon>
std::string details(rmsnorm<D, Epsilon>) {
  return detail::unless(1e-6, "epsilon", Epsilon.value);
}

template <int D, real_number Factor>
std::string details(times<D, Factor>) {
  return detail::unless(0, "by", Factor.value);
}

template <int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
std::string details(attention<D, Heads, KvHeads, HeadDim, Form>) {
  std::string text = std::to_string(Heads) + " heads of " + std::to_string(HeadDim);
  if (KvHeads < Heads) text += ", " + std::to_string(KvHeads) + " for keys and values";
  if (Form.bias) text += ", biased";
  if (Form.norm == head_norm::each) text += ", norms of each head";
  if (Form.norm == head_norm::all) text += ", norms of all heads";
  if (Form.rotary > 0) text += ", " + std::to_string(Form.rotary) + " rotary";
  if (Form.adjacent) text += ", neighbours turned";
  return text + detail::unless(0, ", scores times", Form.scale) +
         detail::unless(1e-6, ", epsilon", Form.epsilon) +
         detail::unless(10000, ", theta", Form.theta) + detail::slowed(Form.yarn);
}

template <int D, int Heads, latent N>
std::string details(latent_attention<D, Heads, N>) {
  std::string text = "latent, " + std::to_string(Heads) + " heads of " + std::to_string(N.nope) +
                     " + " + std::to_string(N.rope) + " rotary, values of " +
                     std::to_string(N.value);
  return text + detail::unless(10000, ", theta", double(N.theta)) + detail::slowed(N.yarn);
}

inline std::string name_of(glu g) {
  constexpr char const* names[] = {"swiglu", "geglu", "reglu"};
  return names[static_cast<int>(g.kind)] + detail::unless(0, " within", double(g.limit));
}
constexpr char const* name_of(score s) {
  switch (s) {
    case score::softmax: return "softmax";
    case score::sigmoid: return "sigmoid";
    case score::sqrt_softplus: break;
  }
  return "sqrt_softplus";
}

namespace detail {
/// Words for a choice that is not by tokens, and for an arithmetic that is not f32.
constexpr char const* words_of(selection s) {
  switch (s) {
    case selection::top_k: break;
    case selection::hash: return ", by token id";
    case selection::expert_choice: return ", experts choose";
    case selection::sinkhorn: return ", by Sinkhorn in training";
    case selection::rule: return ", by a rule";
    case selection::given: return ", given with the batch";
  }
  return "";
}
constexpr char const* words_of(precision p) {
  switch (p) {
    case precision::f32: break;
    case precision::f64: return ", f64";
    case precision::bf16_logits: return ", bf16 logits";
    case precision::bf16: return ", bf16";
  }
  return "";
}
}  // namespace detail

template <int D, int F, glu Act>
std::string details(mlp<D, F, Act>) {
  return name_of(Act) + " of " + std::to_string(F);
}

template <config C>
std::string details(shared_experts<C>) {
  return std::to_string(C.shared) + (C.shared == 1 ? " expert, " : " experts, ") + name_of(C.act) +
         " of " + std::to_string(C.width) + (C.shared_gate ? ", gated" : "") +
         detail::unless(1, ", times", double(C.shared_scale));
}

template <config C, class Router>
std::string details(routed_experts<C, Router>) {
  std::string text = std::to_string(C.top_k) + " of " + std::to_string(C.routed) + " experts, " +
                     name_of(C.act) + " of " + std::to_string(C.width) +
                     (C.selection == selection::given ? "" : std::string(", ") + name_of(C.score)) +
                     detail::words_of(C.selection) + detail::words_of(C.precision);
  if (C.by_logits) text += ", by logits";
  if (C.cosine > 0) text += ", cosines in " + std::to_string(C.cosine);
  if (C.noisy) text += ", noisy";
  if (C.jitter) text += ", jittered";
  if (C.chance_second) text += ", the second by chance";
  if (C.uniform) text += ", equal weights";
  if (C.group_limit < C.groups)
    text += ", from " + std::to_string(C.group_limit) + " of " + std::to_string(C.groups) +
            " groups" +
            (C.group_score == group_score::max        ? " by their best"
             : C.group_score == group_score::top2_sum ? " by their best two"
                                                      : " by their best few");
  if (C.renormalise)
    text += ", renormalised" +
            detail::unless(double(config{}.epsilon), ", epsilon", double(C.epsilon)) +
            detail::unless(0, ", floor", double(C.floor));
  return text + detail::unless(1, ", times", double(C.scale));
}

namespace detail {

/// The name of a type without namespaces and template arguments.
template <class E>
constexpr std::string_view type_name() {
  std::string_view text = __PRETTY_FUNCTION__;  // "... [with E = fg::block<...>; ...]"
  text.remove_prefix(text.find("E = ") + 4);
  text = text.substr(0, text.find_first_of("<;]"));
  std::size_t const scope = text.rfind(':');
  return scope == text.npos ? text : text.substr(scope + 1);
}

/// What a node is called: a stage by its own name, or its type's if it has none, as a type that is a
/// name is.
template <Expr E>
constexpr std::string_view node_name(E) {
  if constexpr (requires { E::name; }) {
    if (E::name != std::string_view(stage<1>::name)) return E::name;
  }
  return type_name<E>();
}
template <Expr A, Expr B>
constexpr std::string_view node_name(then<A, B>) {
  return "sequence";
}
template <Expr A, Expr B>
constexpr std::string_view node_name(sum<A, B>) {
  return "sum";
}
template <Expr A, Expr B>
constexpr std::string_view node_name(blended<A, B>) {
  return "blend";
}
template <Expr A>
constexpr std::string_view node_name(residual_of<A>) {
  return "residual";
}
template <int N, Expr A>
constexpr std::string_view node_name(repeated<N, A>) {
  return "repeat";
}
template <int V, int D, Expr A>
constexpr std::string_view node_name(tied_stages<V, D, A>) {
  return "tied";
}

/// The same for a reader, who is told how often a node is repeated.
template <Expr E>
std::string node_title(E e) {
  return std::string(node_name(e));
}
template <int N, Expr A>
std::string node_title(repeated<N, A> e) {
  return std::string(node_name(e)) + " " + std::to_string(N);
}

/// 1234567 as 1,234,567.
FINEGRAIN_LAZY inline std::string with_commas(std::int64_t n) {
  std::string text = std::to_string(n);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, 1, ',');
  return text;
}

inline std::string width_text(int width) {
  return width == ids ? std::string("ids") : std::to_string(width);
}

/// Lines of a description, and a `Bind` that adds a line for each weight.
FINEGRAIN_LAZY class description {
 public:
  /// Adds the lines of an expression.
  template <Expr A, Expr B>
  void add(then<A, B>, int depth) {
    add(A{}, depth);
    add(B{}, depth);
  }
  template <Expr A, Expr B>
  void add(sum<A, B> e, int depth) {
    head(e, depth);
    add_operands(e, depth + 1);
  }
  template <Expr A, Expr B>
  void add(blended<A, B> e, int depth) {
    head(e, depth);
    depth_ = depth;
    matrix("mix", 2, in_width<A>(), role::projection);
    add_operands(A{}, depth + 1);
    add_operands(B{}, depth + 1);
  }
  template <int V, int D, Expr A>
  void add(tied_stages<V, D, A> e, int depth) {
    head(e, depth);
    add(tied_embedding<V, D>{}, depth + 1);
    add(A{}, depth + 1);
    line_of(depth + 1, "head", D, V);
    lines_.back().note = "the embedding's table";
  }
  template <config C, Expr Router>
  void add(routed_experts<C, Router> e, int depth) {
    head(e, depth);
    lines_.back().note = details(e);
    depth_ = depth;
    static_cast<void>(routed_weights<char>(*this, with_given_logits(C)));
    lines_.push_back({indented(depth + 1, "router"), "", "", "", ""});
    add(Router{}, depth + 2);
  }
  template <class Observer, int Row, Expr E, Expr Runs>
  void add(observed<Observer, Row, E, Runs>, int depth) {
    add(E{}, depth);
  }
  template <Expr E>
  void add(E e, int depth) {
    head(e, depth);
    each_part(parts<E>, [&](auto part) { add(part, depth + 1); });
    if constexpr (is_stage<E>) {
      lines_.back().note = details(e);
      depth_ = depth;
      static_cast<void>(weights<E, char>(*this));
    }
  }

  finegrain::matrix<char> matrix(char const* name, std::int64_t rows, std::int64_t cols, role r) {
    if (rows * cols > 0)
      weight(name, std::to_string(rows) + " x " + std::to_string(cols),
             r == role::selection_bias ? "moved by balance, not a parameter"
             : r == role::table        ? "experts of token ids, not a parameter"
                                       : "");
    return {};
  }
  finegrain::stack<char> stack(char const* name, std::int64_t count, std::int64_t rows,
                               std::int64_t cols, role, std::int64_t) {
    weight(name,
           std::to_string(count) + " x " + std::to_string(rows) + " x " + std::to_string(cols), "");
    return {};
  }

  /// All lines, in columns.
  std::string text() const {
    std::size_t label = 0, shape = 0, total = 0, active = 0;
    for (line const& l : lines_) {
      label = std::max(label, l.label.size());
      shape = std::max(shape, l.shape.size());
      total = std::max(total, l.total.size());
      active = std::max(active, l.active.size());
    }
    std::string all;
    for (line const& l : lines_) {
      std::string row = left(l.label, label + 2) + left(l.shape, shape + 2) + right(l.total, total);
      if (active > 0) row += right(l.active, active + 2);
      row += "  " + l.note;
      row.erase(row.find_last_not_of(' ') + 1);
      all += row + '\n';
    }
    return all;
  }

 private:
  struct line {
    std::string label, shape, total, active, note;
  };

  static std::string left(std::string text, std::size_t width) {
    text.resize(std::max(width, text.size()), ' ');
    return text;
  }
  static std::string right(std::string const& text, std::size_t width) {
    return std::string(width - text.size(), ' ') + text;
  }
  static std::string indented(int depth, std::string const& text) {
    return std::string(static_cast<std::size_t>(2 * depth), ' ') + text;
  }

  template <Expr E>
  void head(E e, int depth) {
    std::int64_t const total = parameters(e), active = active_parameters(e);
    line_of(depth, node_title(e), in_width<E>(), out_width<E>());
    if (total > 0) lines_.back().total = with_commas(total);
    if (active != total) lines_.back().active = with_commas(active) + " active";
  }
  void line_of(int depth, std::string const& name, int in, int out) {
    lines_.push_back(
        {indented(depth, name), width_text(in) + " -> " + width_text(out), "", "", ""});
  }
  void weight(std::string const& name, std::string const& shape, std::string const& note) {
    lines_.push_back({indented(depth_ + 1, "- " + name), shape, "", "", note});
  }
  /// The operands of a + b + c: one level, with a sequence kept together.
  template <Expr A, Expr B>
  void add_operands(sum<A, B>, int depth) {
    add_operands(A{}, depth);
    add_operands(B{}, depth);
  }
  template <Expr A, Expr B>
  void add_operands(then<A, B> e, int depth) {
    head(e, depth);
    add(e, depth + 1);
  }
  template <Expr E>
  void add_operands(E e, int depth) {
    add(e, depth);
  }

  std::vector<line> lines_;
  int depth_ = 0;  // of the stage whose weights are being listed
};

}  // namespace detail

/// The architecture as text: a line for each node, in the order that data flows, with its widths,
/// its parameters (and how many of them a token runs through), and below a stage its weights.
template <Expr E>
std::string describe(E e) {
  detail::description<> lines;
  lines.add(e, 0);
  return lines.text();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
