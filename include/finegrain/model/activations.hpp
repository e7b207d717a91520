// activations: what the nodes of a watched network made in its last pass, by their names.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/names.hpp"
#include "../plan/watched.hpp"
#include "../plan/weights.hpp"
#include "check.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// What makes a node's output.
struct made_by {
  int row = 0;             // of the watched expression, or 0: a fused plan that has the node in it
  std::size_t run = 0;     // of that row's, in the order of the forward pass
  std::size_t inside = 0;  // the entry that has that fused plan
};
struct node_entry {
  std::string name;       // "layers.0.mixture"
  std::string_view part;  // "mixture"
  int width;
  bool named_by_weights;
  made_by by = {};
};

/// Lists the nodes of an expression, as `explain` does, under the names that their weights begin with.
/// What has no name among weights (residual, sum, a user's block) takes one that is left, since a user's
/// block may be called as a stage in it is.
FINEGRAIN_LAZY class node_lister {
 public:
  std::vector<node_entry> nodes;
  std::vector<std::size_t> runs;  // of each row

  template <Expr E, Expr Runs>
  void add_all(observed<any_activations, 0, E, Runs>) {
    runs.resize(1);
    add(Runs{});
    name_others();
  }

 private:
  template <Expr A, Expr B>
  made_by add(then<A, B>) {
    add(A{});
    return add(B{});
  }
  template <int Row, Expr E, Expr Runs>
  made_by add(observed<any_activations, Row, E, Runs>) {
    if (runs.size() <= Row) runs.resize(Row + 1);
    return node<E, Runs>({Row, runs[Row]++, 0});
  }
  template <Expr E>
  made_by add(E) {
    return node<E, E>({0, 0, inside_});
  }

  template <Expr E, Expr Runs>
  made_by node(made_by at) {
    std::size_t const mine = nodes.size(), outside = inside_;
    constexpr bool is_scope = requires { E::name; };
    std::string path = names_.path();
    bool named_by_weights = false;  // those of a stage without a name are called "stage"
    if constexpr (is_scope) {
      names_.enter(E::name);
      named_by_weights = node_name(E{}) == E::name;
      if (named_by_weights) path = names_.path();
    }
    nodes.push_back({std::move(path), node_name(E{}), out_width<E>(), named_by_weights});
    bool const one_plan = at.row > 0 && std::is_same_v<E, Runs>;
    if (one_plan) inside_ = mine;
    made_by parts = {};
    if constexpr (Named<E> && !std::is_same_v<E, Runs>)
      parts = add(Runs{});
    else
      parts = add_parts(Runs{}, at);
    inside_ = outside;
    if constexpr (is_scope) names_.leave();
    if (!one_plan) at = parts;
    nodes[mine].by = at;
    return at;
  }

  /// A node that is made `at`; what makes its output, which may be its last part.
  template <Expr E>
  made_by add_parts(E, made_by at) {
    each_part(parts<E>, [&]<Expr A>(A) { add(A{}); });
    return at;
  }
  template <int N, Expr A>
  made_by add_parts(repeated<N, A>, made_by) {
    made_by last = {};
    for (int i = 0; i < N; ++i) {
      names_.enter_next("layers");
      std::size_t const layer = nodes.size();
      nodes.push_back({names_.path(), "layers", out_width<A>(), true});
      last = add(A{});
      nodes[layer].by = last;
      names_.leave();
    }
    return last;
  }

  /// Of nodes that weights do not name there is so far what they are in.
  void name_others() {
    std::set<std::string> taken;
    for (node_entry const& one : nodes)
      if (one.named_by_weights) taken.insert(one.name);
    for (node_entry& one : nodes) {
      if (one.named_by_weights) continue;
      std::string const first = (one.name.empty() ? "" : one.name + ".") + std::string(one.part);
      one.name = first;
      for (int n = 2; !taken.insert(one.name).second; ++n)
        one.name = first + "_" + std::to_string(n);
    }
  }

  weight_lister<> names_;
  std::size_t inside_ = 0;  // the entry whose plan has what is added in it
};

}  // namespace detail

/// What nodes of a watched network (plan/watched.hpp) made in the last pass whose batch had this as
/// `seen`: rows of their outputs, and of the gradients of these, in the network's numbers and where
/// those are. On cuda that is memory of the device, which is written when the pass is done.
///
///   activations seen{net, {"layers.*.mixture", "rmsnorm"}};
///   net.forward({.tokens = T, .seen = &seen}, x, y);
///   net.backward(dy);
///   matrix<float const> made = seen["layers.1.mixture"], slope = seen.gradient("rmsnorm");
///
/// The network may be moved, or another of the same type, or frozen. Activations may be moved too, but
/// not between forward and its backward; those that were moved from keep nothing, and a pass refuses
/// them. Passes of several threads take one each.
template <class X>
class activations : public activation_memory<X> {
  using base = activation_memory<X>;
  using base::kept_, base::runs_, base::rows_;

 public:
  using S = typename X::scalar;

  /// Of nodes with these names, in which a star stands for any characters, or none; of all that have a
  /// plan, as a rule. Throws invalid_argument for a name that no node has, and for one that a fused plan
  /// has in it, but for those that a star at the end stands for.
  template <class Network>
  requires(std::is_same_v<typename Network::executor, X>) explicit activations(
      Network const&, std::vector<std::string> const& names = {"*"}) {
    using E = typename Network::expression;
    static_assert(is_observed<E, any_activations>,
                  "activations: this network's passes keep none: make it one of watched<E, X>");
    if constexpr (is_observed<E, any_activations>) {  // else that sentence is enough
      this->network = &detail::form_of<E, X>;
      detail::node_lister<> list;
      list.add_all(E{});
      keep(list.nodes, list.runs, names);
    }
  }
  /// Of one name or pattern.
  template <class Network, std::convertible_to<std::string_view> Name>
  requires(std::is_same_v<typename Network::executor, X>)
      activations(Network const& net, Name const& name)
      : activations(net, std::vector{std::string(name)}) {}

  /// The names that are kept, in the order of `explain`. Some have the same rows: a layer, a block in it,
  /// and the last part of that.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (entry const& e : entries_) all.push_back(e.name);
    return all;
  }
  /// (T, out) of a node in the last pass; of wanted rows alone (batch::wanted), what it made of them.
  /// Throws invalid_argument for a name that is not kept, and where no pass came by.
  matrix<S const> operator[](std::string_view name) const {
    return rows_of(name, &base::kept::y, "pass");
  }
  /// (T, out), the gradient of that, of the loss as it was handed to backward: larger by a trainer's
  /// loss_scale.
  matrix<S const> gradient(std::string_view name) const {
    return rows_of(name, &base::kept::dy, "backward pass");
  }

 private:
  struct entry {
    std::string name;
    std::size_t kept;
  };

  void keep(std::vector<detail::node_entry> const& nodes, std::vector<std::size_t> const& runs,
            std::vector<std::string> const& names) {
    std::vector<char> wanted(nodes.size());
    for (std::string const& name : names) mark(nodes, name, wanted);
    for (std::size_t const count : runs) {
      std::size_t const first = runs_.size();
      rows_.push_back({first, first + count, first});
      runs_.resize(first + count, -1);
    }
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (!wanted[i]) continue;
      auto& run = runs_[rows_[static_cast<std::size_t>(nodes[i].by.row)].first + nodes[i].by.run];
      if (run < 0) {
        run = std::ssize(kept_);
        kept_.push_back({nodes[i].width});
      }
      entries_.push_back({nodes[i].name, static_cast<std::size_t>(run)});
    }
  }
  static void mark(std::vector<detail::node_entry> const& nodes, std::string const& name,
                   std::vector<char>& wanted) {
    detail::node_entry const* hidden = nullptr;
    bool found = false;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (!matches(nodes[i].name, name)) continue;
      if (nodes[i].by.row > 0)
        wanted[i] = found = true;
      else if (!hidden)
        hidden = &nodes[i];
    }
    if (hidden && !(found && name.ends_with('*')))
      throw invalid_argument(
          "\"%s\" is made inside \"%s\", by one plan: a network of watched<E, X, \"%.*s\"> makes "
          "it by itself",
          hidden->name.c_str(), nodes[hidden->by.inside].name.c_str(),
          static_cast<int>(hidden->part.size()), hidden->part.data());
    if (found) return;
    throw invalid_argument("the network has no node named \"%s\"; the nearest name is \"%s\"",
                           name.substr(0, 200).c_str(), detail::nearest_name(nodes, name).c_str());
  }

  matrix<S const> rows_of(std::string_view name, typename base::rows base::kept::*which,
                          char const* what) const {
    for (entry const& e : entries_) {
      if (e.name != name) continue;
      auto const& rows = kept_[e.kept].*which;
      if (rows.tokens < 0)
        throw invalid_argument("no %s has come by \"%s\" yet", what, e.name.c_str());
      return rows.all.middle_rows(0, rows.tokens);
    }
    name = name.substr(0, 200);
    if (entries_.empty())
      throw invalid_argument("these activations have no \"%.*s\": they keep nothing",
                             static_cast<int>(name.size()), name.data());
    throw invalid_argument("these activations have no \"%.*s\"; the nearest name is \"%s\"",
                           static_cast<int>(name.size()), name.data(),
                           detail::nearest_name(entries_, name).c_str());
  }

  std::vector<entry> entries_;
};
template <class Network>
activations(Network const&, std::vector<std::string> const&)
    -> activations<typename Network::executor>;
template <class Network, std::convertible_to<std::string_view> Name>
activations(Network const&, Name const&) -> activations<typename Network::executor>;
template <class Network>
activations(Network const&) -> activations<typename Network::executor>;

}  // namespace finegrain::inline FINEGRAIN_ABI
