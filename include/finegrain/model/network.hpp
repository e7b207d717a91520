// network: an expression bound to an executor. It holds the weights and the memory, and runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "../plan/scored.hpp"
#include "../plan/weights.hpp"
#include "inference.hpp"
#include "learned.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// An expression E on an executor X, with its weights.
///
///   network<mixture<c>, cpu> layer;
///   layer(x, y);                        // (T, D) -> (T, D)
///
/// and for training: forward(batch, x, y); backward(dy, dx); then parameters() and gradient(). Or
/// learn(batch, x, loss), which is both and the loss between them. It can be moved, not copied; a call
/// of what was moved from throws invalid_argument.
template <Expr E, Executor X>
class network : public inference<network<E, X>, E, X> {
  using base = inference<network<E, X>, E, X>;
  using base::on_, base::workspace_, base::uses_;

 public:
  using S = typename X::scalar;
  using base::in, base::out, base::workspace_bytes, base::extent_of;

  /// Random weights. Throws std::bad_alloc, and invalid_argument when they cannot be had.
  explicit network(initialisation start = {}, X on = {})
      : base(std::move(on)), learned_(on_, list_weights<E>(), count, start) {}
  template <std::same_as<X> Executor>  // clang 14 would take {.deviation = 1} for an X
  explicit network(Executor on, initialisation start = {}) : network(start, std::move(on)) {}
  /// Over weights of the caller's, weights_size<E>() numbers laid out as list_weights<E>() says: they are read
  /// and written where they are, and outlive the network; for cuda on a 64-byte border. Throws
  /// invalid_argument.
  template <std::convertible_to<std::span<S>> Weights>
  explicit network(Weights&& weights, X on = {})
      : base(std::move(on)), learned_(list_weights<E>(), count, std::span<S>(weights)) {}

  /// Makes room for batches of up to so many tokens; with training, for inference on them too.
  void reserve(std::int64_t tokens, bool training = false) {
    base::reserve_workspace(std::max(workspace_bytes(extent_of(tokens)),
                                     training ? workspace_bytes(extent_of(tokens, true)) : 0));
    if (training) reserve_gradients(tokens);
  }
  /// The same for learn and score.
  void reserve_learning(std::int64_t tokens) {
    base::reserve_workspace(
        std::max(learning_bytes(extent_of(tokens)), learning_bytes(extent_of(tokens, true))));
    place<X>::reserve(on_, tokens);
    reserve_gradients(tokens);
  }

  /// Bytes of memory for one pass under a loss, which makes its outputs itself. Constexpr.
  static constexpr std::int64_t learning_bytes(extent e) {
    return memory_bytes<typename scored<X, E>::saved>(e) +
           memory_bytes<typename scored<X, E>::scratch>(e) + place<X>::staging_bytes(e.tokens);
  }

  // ---- training --------------------------------------------------------------------------------

  /// As infer, and keeps what backward needs, but for x and what the batch points to: backward reads them
  /// again, and they must stay as they are.
  void forward(batch const& b, matrix<S const> x, matrix<S> y) {
    detail::check_call<X>(detail::form_of<E, X>, b, x, y, true);
    reserve(b.tokens, true);
    typename base::own_pass const here(*this);
    batch const staged = base::run(b, x, y, here.memory, true, nullptr);
    learned_.keep(staged, x, extent_of(b.tokens, true), uses_);
  }
  template <detail::EigenTemporary M>
  void forward(batch const&, M&&, matrix<S>) {
    static_assert(detail::never<M>,
                  "forward: backward reads x again, and this x is gone by then: give it a name");
  }
  /// Gradients of the weights, and dx (T, in), from dy (T, out) of the last forward. Overwrites
  /// gradient(), or adds to it. dx may be left out. A forward may have any number of these: they
  /// leave what it kept, balance losses are in each, and weights must stay until the last.
  void backward(matrix<S const> dy, matrix<S> dx = {}, gradients mode = gradients::overwrite) {
    dx = learned_.input_gradient(on_, uses_, dy, dx, in, out);
    auto const& last = learned_.last();
    if constexpr (is_observed<E, any_activations>)  // they may have been moved since forward
      detail::check_seen(detail::form_of<E, X>, last.batch);
    run_backward(last.batch, last.extent, span_of(workspace_.data(), workspace_.size()), last.x, dy,
                 learned_.gradients().data(), dx, mode);
  }

  /// The same in the caller's memory: workspace_bytes(extent_of(T, true)) on a 64-byte border, which
  /// keep what backward needs. So several batches may be under way, on several threads too but on
  /// cuda, where a network's passes share memory of their executor.
  void forward(batch const& b, matrix<S const> x, matrix<S> y,
               std::span<std::byte> workspace) const {
    detail::check_call<X>(detail::form_of<E, X>, b, x, y, true);
    base::check_workspace(workspace, extent_of(b.tokens, true));
    base::run(b, x, y, workspace, true, nullptr);
  }
  /// Backward of such a forward, of the same batch, x and workspace. `gradient` is laid out like
  /// parameters(); what lies between weights is left alone, so clear it once. On a 64-byte border it is
  /// written faster, and cuda demands it. dx is empty where x is token ids.
  void backward(batch const& b, matrix<S const> x, matrix<S const> dy, matrix<S> dx,
                std::span<S> gradient, std::span<std::byte> workspace,
                gradients mode = gradients::overwrite) const {
    extent const e = extent_of(b.tokens, true);
    detail::check_input<X>(detail::form_of<E, X>, b, x, true);
    base::check_workspace(workspace, e);
    detail::check_shape("dy", dy, e.tokens, out);
    if constexpr (in != ids) {
      detail::check_dx<S>(dx, x, e.tokens, in);
      detail::check_apart<S>("dy", dy, "dx", dx);
    }
    learned<X>::check_like_weights("gradients", gradient, count);
    arena memory(workspace.data(), static_cast<std::int64_t>(workspace.size()));
    batch const staged = base::staged(b, memory, e);
    run_backward(staged, e, workspace, x, dy, gradient.data(), dx, mode);
  }

  /// Forward, a loss (plan/scored.hpp), and backward from its gradient: the sum of the loss over the
  /// batch. Where the expression ends in a head or a linear map, the outputs are made some tokens at
  /// a time and never stored. Gradients and dx are as in backward; x and batch need not stay.
  template <Loss<X> L>
  double learn(batch const& b, matrix<S const> x, L const& loss, matrix<S> dx = {},
               gradients mode = gradients::overwrite) {
    return total(b, enqueue_learn(b, x, loss, dx, mode));
  }
  /// Where learn has its memory: it moves when a batch needs more.
  struct learning_places {
    void const *workspace, *unwanted;
    friend bool operator==(learning_places const&, learning_places const&) = default;
  };
  learning_places learning_memory() const { return {base::workspace(), learned_.unwanted()}; }
  /// The same without waiting for an executor of other memory; `total` of the batch and of what
  /// this returns then waits for the sum and the batch's log. Lists of the batch are the host's
  /// no longer than this call, but for pinned memory, which is read later.
  template <Loss<X> L>
  double enqueue_learn(batch const& b, matrix<S const> x, L const& loss, matrix<S> dx = {},
                       gradients mode = gradients::overwrite) {
    detail::check_input<X>(detail::form_of<E, X>, b, x, true);
    if (dx.data) detail::check_dx<S>(dx, x, b.tokens, in);
    reserve_learning(b.tokens);
    if (!dx.data) dx = {learned_.unwanted(), b.tokens, in};
    return run_scored(b, x, loss, true, gradient_views(), dx, mode);
  }
  double total(batch const& b, double made) {
    if (b.log) place<X>::read_log(on_, *b.log, b.tokens);
    return place<X>::total(on_, made);
  }
  /// The sum of a loss alone, as the network stands.
  template <Loss<X> L>
  double score(batch const& b, matrix<S const> x, L const& loss) {
    detail::check_input<X>(detail::form_of<E, X>, b, x, false);
    base::reserve_workspace(learning_bytes(extent_of(b.tokens)));
    place<X>::reserve(on_, b.tokens);
    return total(
        b, run_scored(b, x, loss, false, bind_weights<E, S>(nullptr), {}, gradients::overwrite));
  }

  // ---- weights ---------------------------------------------------------------------------------

  /// The weights as a struct of views, as the expression declares them.
  finegrain::weights<E, S const> weights() const {
    return bind_weights<E, S const>(learned_.weights(count));
  }
  finegrain::weights<E, S> weights() { return bind_weights<E, S>(learned_.weights(count)); }
  finegrain::weights<E, S> gradient_views() {
    return bind_weights<E, S>(learned_.gradients().data());
  }
  /// All weights, or gradients, as one array; entries() says what is where.
  std::span<S> parameters() { return span_of(learned_.weights(count), count); }
  std::span<S const> parameters() const { return span_of(learned_.weights(count), count); }
  std::span<S> gradient() {
    return span_of(learned_.gradients().data(), learned_.gradients().size());
  }
  /// One weight by its name, "layers.0.mixture.experts.3.gate".
  matrix<S> weight(std::string_view name) { return learned_.weight(name, count); }
  matrix<S const> weight(std::string_view name) const { return learned_.weight(name, count); }
  matrix<S> gradient(std::string_view name) { return learned_.gradient(name); }
  /// Another number each time that weights were handed out in a way that they can be written, and in
  /// each network: of one that another was moved into, that one's.
  std::uint64_t writer() const { return learned_.writer(); }
  /// Name, shape, role and place of every weight.
  std::vector<weight_entry> const& entries() const {
    static_cast<void>(learned_.weights(count));
    return learned_.entries();
  }

 private:
  static constexpr std::int64_t count = weights_size<E>();

  void reserve_gradients(std::int64_t tokens) {
    learned_.reserve_gradients(on_, count, tokens * in);
  }

  /// From what a forward left in the workspace.
  void run_backward(batch const& b, extent e, std::span<std::byte> workspace, matrix<S const> x,
                    matrix<S const> dy, S* gradient, matrix<S> dx, gradients mode) const {
    arena memory(workspace.data(), static_cast<std::int64_t>(workspace.size()));
    static_cast<void>(base::staging(memory, e));
    typename plan<X, E>::saved const saved(memory, e);
    plan<X, E>::backward(pass<X>{on_, b, memory, e, mode}, weights(), saved, x, dy,
                         bind_weights<E, S>(gradient), dx);
  }

  template <class L>
  double run_scored(batch const& given, matrix<S const> x, L const& loss, bool training,
                    finegrain::weights<E, S> const& dw, matrix<S> dx, gradients mode) {
    typename base::own_pass const here(*this);
    extent const e = extent_of(given.tokens, training);
    arena memory(here.memory.data(), std::ssize(here.memory));
    batch const b = base::staged(given, memory, e);
    typename scored<X, E>::saved const saved(memory, e);
    if (b.log) b.log->next = 0;
    b.taken = 0;
    place<X>::begin_total(on_);
    return scored<X, E>::run(pass<X>{on_, b, memory, e, mode}, std::as_const(*this).weights(),
                             saved, x, loss, dw, dx);
  }

  learned<X> learned_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
