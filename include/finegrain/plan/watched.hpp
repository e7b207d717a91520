// watched: an expression whose passes keep what its nodes made, and the gradients of that.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "../expr/describe.hpp"
#include "observed.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The name of a stage, of a type of the user's own that is a name, or residual, sum, blend, repeat, tied.
struct part_name {
  char text[64] = {};
  template <std::size_t N>
  consteval part_name(char const (&name)[N]) {  // NOLINT(*explicit*)
    static_assert(N <= sizeof text, "a part's name has at most 63 characters");
    for (std::size_t i = 0; i < N; ++i) text[i] = name[i];
  }
};

namespace detail {

/// Which names of nodes (expr/describe.hpp) an expression has.
struct part_names {
  /// Whether E, or a node below, is called so; whether a node below is.
  template <Expr E>
  static constexpr bool have(E e, std::string_view name) {
    return node_name(e) == name || below(e, name);
  }
  template <Expr E>
  static constexpr bool below(E, std::string_view name) {
    bool any = false;
    each_part(parts<E>, [&](auto part) { any |= have(part, name); });
    return any;
  }
};

template <Expr E, class X, part_name... Apart>
struct watch {
  static_assert(
      (part_names::have(E{}, Apart.text) && ...),
      "watched<E, X, parts...>: no node of the expression has one of these names; they are "
      "those of stages, as mixture (in all layers, not layers.0.mixture), of your own types, "
      "residual, sum, blend, repeat");
  struct how {
    template <Expr Node>
    static constexpr bool opens = composes<X, Node> ||
                                  (part_names::below(Node{}, Apart.text) || ...);
  };
  using type = observed_nodes<any_activations, how, E>;
};

}  // namespace detail

/// Expression E whose passes keep what nodes made in a batch's activations (model/activations.hpp);
/// the same weights under the same names, memory and bits. Nodes are those that X has plans for: a
/// fused plan is one. Parts that are named run by plans of their own, and so does what is around them,
/// which a fused plan would do; the bits of a pass may then be others.
///
///   network<watched<model, cpu, "mixture">, cpu> net;
///   activations seen{net, {"layers.*.mixture"}};
///   net.infer({.tokens = T, .ids = ids, .seen = &seen}, {}, y);
///   matrix<float const> made = seen["layers.1.mixture"];  // (T, width)
template <Expr E, class X, part_name... Apart>
using watched = typename detail::watch<E, X, Apart...>::type;

/// Where the passes of a watched network on X keep what nodes made. A node inside a `repeat` is run
/// several times a pass, and each run has rows of its own, or none: they are told apart by counting,
/// from the first in forward, from the last in backward.
template <class X>
class activation_memory : public any_activations {
 public:
  using S = typename X::scalar;

  activation_memory(activation_memory&&) = default;
  activation_memory& operator=(activation_memory&&) = default;

  /// Makes room for passes of up to so many tokens, and for gradients: none after that allocates.
  void reserve(std::int64_t tokens, bool training = false) {
    detail::check_tokens(tokens);
    if (outputs_.reserve(kept_, tokens, &kept::y)) forget(&kept::y);
    if (training && gradients_.reserve(kept_, tokens, &kept::dy)) forget(&kept::dy);
  }

  // ---- for plans -------------------------------------------------------------------------------

  void begin_forward(X const& on, extent e) {
    if (place<X>::records(on))
      throw invalid_argument("a pass that is recorded keeps no activations: nothing runs yet");
    reserve(e.tokens, e.training);
    for (row& r : rows_) r.next = r.first;
    forget(&kept::y), forget(&kept::dy);
  }
  void begin_backward(extent e) {
    reserve(e.tokens, true);
    for (row& r : rows_) r.next = r.last;
    forget(&kept::dy);
  }
  /// Where the next output of a row's node goes, and the gradient of the last before: so many tokens,
  /// or no memory if nobody wants them.
  matrix<S> next_output(std::size_t row, std::int64_t tokens) {
    return rows_of(rows_[row].next++, &kept::y, tokens);
  }
  matrix<S> last_gradient(std::size_t row, std::int64_t tokens) {
    return rows_of(--rows_[row].next, &kept::dy, tokens);
  }

 protected:
  /// Rows of one run of a node: of its output, and of that one's gradient.
  struct rows {
    matrix<S> all;             // what there is room for
    std::int64_t tokens = -1;  // of the last pass; -1: none came by
  };
  struct kept {
    int width;
    rows y = {}, dy = {};
  };
  /// A row's runs in runs_.
  struct row {
    std::size_t first = 0, last = 0, next = 0;
  };

  activation_memory() = default;
  ~activation_memory() = default;

  std::vector<kept> kept_;
  std::vector<std::ptrdiff_t> runs_;  // the one of kept_ that is a run's, or -1
  std::vector<row> rows_;

 private:
  struct block {
    typename place<X>::template buffer<std::byte> memory;
    std::int64_t capacity = -1;  // tokens

    bool reserve(std::vector<kept>& all, std::int64_t tokens, rows kept::*which) {
      if (tokens <= capacity) return false;
      arena counting;
      for (kept const& k : all) counting.matrix<S>(tokens, k.width);
      memory = decltype(memory)(counting.used());
      arena cut(memory.data(), memory.size());
      for (kept& k : all) (k.*which).all = cut.template matrix<S>(tokens, k.width);
      capacity = tokens;
      return true;
    }
  };
  void forget(rows kept::*which) {
    for (kept& k : kept_) (k.*which).tokens = -1;
  }
  matrix<S> rows_of(std::size_t run, rows kept::*which, std::int64_t tokens) {
    if (runs_[run] < 0) return {};
    rows& mine = kept_[static_cast<std::size_t>(runs_[run])].*which;
    mine.tokens = tokens;
    return mine.all.middle_rows(0, tokens);
  }

  block outputs_, gradients_;
};

namespace detail {

template <class X, class S = typename X::scalar>
void copy_rows(X const& on, matrix<S const> from, matrix<S> to) {
  if (!to.data || from.rows == 0) return;
  if (from.stride == from.cols) return place<X>::copy(on, from.data, from.size(), to.data);
  for (std::int64_t t = 0; t < from.rows; ++t)
    place<X>::copy(on, from.row(t), from.cols, to.row(t));
}

/// A loss whose outputs, and their gradient, are kept as they come by.
template <class X, class L>
struct watched_loss {
  using S = typename X::scalar;
  L const& loss;
  matrix<S> y, dy;  // of all tokens, or empty

  double operator()(X const& on, std::int64_t first, matrix<S const> part, matrix<S> dpart) const {
    if (y.data) copy_rows(on, part, y.middle_rows(first, part.rows));
    double const made = loss(on, first, part, dpart);
    if (dy.data && dpart.data)
      copy_rows(on, matrix<S const>(dpart), dy.middle_rows(first, dpart.rows));
    return made;
  }
};

}  // namespace detail

template <class X>
struct observer<any_activations, X> {
  using S = typename X::scalar;

  template <class Run>
  static void forward(pass<X> const& p, std::size_t row, matrix<S const> y, Run const& run) {
    activation_memory<X>* const seen = memory(p);
    if (seen && row == 0) seen->begin_forward(p.on, p.extent);
    run();
    if (seen && row > 0) detail::copy_rows(p.on, y, seen->next_output(row, y.rows));
  }
  template <class Run>
  static void backward(pass<X> const& p, std::size_t row, matrix<S const> dy, Run const& run) {
    activation_memory<X>* const seen = memory(p);
    if (seen && row == 0) seen->begin_backward(p.extent);
    if (seen && row > 0) detail::copy_rows(p.on, dy, seen->last_gradient(row, dy.rows));
    run();
  }
  template <Loss<X> L, class Run>
  static double scored(pass<X> const& p, std::size_t row, L const& loss, Run const& run) {
    activation_memory<X>* const seen = memory(p);
    detail::watched_loss<X, L> watching{loss, {}, {}};
    if (seen && row == 0) seen->begin_forward(p.on, p.extent);
    if (seen && row > 0) {
      watching.y = seen->next_output(row, p.extent.tokens);
      if (p.extent.training) watching.dy = seen->last_gradient(row, p.extent.tokens);
    }
    return run(watching);
  }

 private:
  static activation_memory<X>* memory(pass<X> const& p) {
    return static_cast<activation_memory<X>*>(p.batch.seen);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
