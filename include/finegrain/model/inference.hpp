// inference: what every network can do, whatever its weights are: run forward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "../plan/blend.hpp"
#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "check.hpp"
#include "input.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// An empty cache of `width` numbers a token, which may be none.
template <class X>
FINEGRAIN_ONE_COPY cache_of<X> empty_cache(std::int64_t width, std::int64_t tokens,
                                           std::int64_t sequences) {
  if (tokens < 0 || sequences < 1 ||
      tokens > INT64_MAX / std::max<std::int64_t>(width, 1) / sequences)
    throw invalid_argument("there can be no cache for %lld sequences of %lld tokens",
                           shown(sequences), shown(tokens));
  return cache_of<X>(width, tokens, sequences);
}

}  // namespace detail

/// What a network on X works with, whatever its expression: its executor and its workspace. Sizes are
/// run-time numbers, so that all networks share one body of code.
template <class X>
class workplace {
 public:
  using S = typename X::scalar;

  /// Where passes without memory of their own run: it moves when a call needs more.
  std::byte const* workspace() const { return workspace_.data(); }
  X& on() { return on_; }
  X const& on() const { return on_; }
  /// Throws invalid_argument while a pass is in that memory: a loss or a rule of the user's own may ask.
  FINEGRAIN_ONE_COPY void check_idle() const {
    if (running_)
      throw invalid_argument(
          "this network is in a pass: a loss or a rule of your own runs it in other memory alone, "
          "infer(batch, x, y, workspace)");
  }

 protected:
  template <class T>
  using buffer_of = typename place<X>::template buffer<T>;

  explicit workplace(X on) : on_(std::move(on)) {}
  workplace(workplace&&) = default;
  workplace& operator=(workplace&&) = default;
  FINEGRAIN_ONE_COPY ~workplace() = default;

  FINEGRAIN_ONE_COPY extent extent_of(std::int64_t tokens, bool training, format frozen) const {
    detail::check_tokens(tokens);
    extent e = extent_on(on_, tokens, training);
    e.frozen = frozen;
    return e;
  }
  FINEGRAIN_ONE_COPY static void check_workspace(std::span<std::byte> workspace, extent e,
                                                 std::int64_t needed) {
    if (static_cast<std::int64_t>(workspace.size()) < needed)
      throw invalid_argument("the workspace holds %lld bytes; %lld tokens need %lld%s",
                             detail::shown(workspace.size()), detail::shown(e.tokens),
                             detail::shown(needed), e.training ? " in training" : "");
    if (reinterpret_cast<std::uintptr_t>(workspace.data()) % alignment != 0)
      throw invalid_argument("the workspace must start on a border of %lld bytes",
                             detail::shown(alignment));
  }
  /// Every pass in the workspace begins with this.
  FINEGRAIN_ONE_COPY void reserve_workspace(std::int64_t bytes) {
    check_idle();
    if (bytes <= workspace_.size()) return;
    workspace_ = buffer_of<std::byte>(bytes);
    ++uses_;
  }
  /// A pass in the workspace, as long as this lasts: what an earlier one kept there is lost.
  class own_pass {
   public:
    explicit own_pass(workplace& at)
        : memory(span_of(at.workspace_.data(), at.workspace_.size())), running_(at.running_) {
      running_ = true;
      ++at.uses_;
    }
    own_pass(own_pass const&) = delete;
    own_pass& operator=(own_pass const&) = delete;
    ~own_pass() { running_ = false; }

    std::span<std::byte> const memory;

   private:
    bool& running_;
  };
  /// A batch as the executor reads it, with its lists in `memory`.
  FINEGRAIN_ONE_COPY batch staged(batch const& given, arena& memory, extent e,
                                  cache_of<X>* cache = nullptr) const {
    return place<X>::staged(on_, given, staging(memory, e), cache);
  }
  /// Takes the memory of a batch's lists.
  FINEGRAIN_ONE_COPY static arena staging(arena& memory, extent e) {
    std::int64_t const bytes = place<X>::staging_bytes(e.tokens);
    return {memory.take<std::byte>(bytes), bytes};
  }

  X on_;
  buffer_of<std::byte> workspace_;
  std::uint64_t uses_ = 0;  // of the workspace, so far
  bool running_ = false;    // a pass is in it
};

/// The base of a network of expression E on executor X: Self has weights(), which plan<X, E>'s
/// forward reads. An expression that begins with an embedding reads token ids from the batch and
/// takes an empty x. Memory for activations grows when a call brings more tokens than any before,
/// before anything is written; reserve() does it ahead of time, and no call after that allocates.
template <class Self, Expr E, class X>
class inference : public workplace<X> {
  using base = workplace<X>;

 public:
  using expression = E;
  using executor = X;
  using S = typename X::scalar;
  static constexpr int in = in_width<E>(), out = out_width<E>();
  using input = network_input<S, in == ids>;
  /// Whether infer makes wanted rows of y alone, or none.
  static constexpr bool picks_rows = PicksRows<plan<X, E>>;

  /// Makes room for batches of up to so many tokens.
  void reserve(std::int64_t tokens) { base::reserve_workspace(workspace_bytes(extent_of(tokens))); }

  /// Bytes of memory for one pass: saved activations, and scratch. Constexpr.
  FINEGRAIN_ONE_COPY static constexpr std::int64_t workspace_bytes(extent e) {
    return saved_bytes<X, E>(e) + scratch_bytes<X, E>(e) + place<X>::staging_bytes(e.tokens);
  }

  /// y (T, out) from x, as one batch. Throws invalid_argument when the shapes do not fit.
  void operator()(input x, matrix<S> y) { infer(x.batch(), x.numbers(), y); }
  /// The same for a batch of several sequences, with requests to the routers, or with a cache of
  /// each sequence's earlier tokens, which then grows by this batch. Of a batch that wants some rows
  /// alone, y has those; and none need be made, where y is (0, out) and this picks_rows.
  void infer(batch const& b, matrix<S const> x, matrix<S> y, cache_of<X>* cache = nullptr) {
    detail::check_call<X>(detail::form_of<E, X>, b, x, y, false, cache, picks_rows);
    reserve(b.tokens);
    typename base::own_pass const here(*this);
    run(b, x, y, here.memory, false, cache);
  }
  /// The same in the caller's memory, of at least workspace_bytes(extent_of(T)) on a 64-byte
  /// border. Several threads may call this at a time, each with memory of its own; not on cuda,
  /// where a network's passes share memory of their executor. A call that throws invalid_argument
  /// leaves the cache's lengths as they were.
  void infer(batch const& b, matrix<S const> x, matrix<S> y, std::span<std::byte> workspace,
             cache_of<X>* cache = nullptr) const {
    detail::check_call<X>(detail::form_of<E, X>, b, x, y, false, cache, picks_rows);
    check_workspace(workspace, extent_of(b.tokens));
    run(b, x, y, workspace, false, cache);
  }
  /// An empty cache for sequences of at most `tokens` each. A batch with it has as many sequences;
  /// one that has nothing to say is empty. Throws invalid_argument where there can be none, and of a
  /// network that keeps nothing from pass to pass.
  static cache_of<X> make_cache(std::int64_t tokens, std::int64_t sequences = 1) {
    constexpr std::int64_t width = cache_width(E{});
    if (width == 0)
      throw invalid_argument(
          "there is no cache for this network: no stage of it keeps anything of earlier tokens, as "
          "attention does");
    return detail::empty_cache<X>(width, tokens, sequences);
  }
  /// A log with room for what every router reports; and for each token's experts and weights, in
  /// batches of up to so many tokens.
  static routing_log make_log(std::int64_t tokens = 0) {
    detail::check_tokens(tokens);
    routing_log log;
    for (config const* c : detail::form_of<E, X>.routers) {
      routing_report& report = log.layers.emplace_back(c->routed);
      report.experts.resize(static_cast<std::size_t>(tokens * slots(*c, extent{tokens, 1})));
      report.weights.resize(report.experts.size());
    }
    return log;
  }

  /// Throws invalid_argument for less than no tokens, and for more than 32 bits can number.
  extent extent_of(std::int64_t tokens, bool training = false) const {
    format frozen = format::f32;
    if constexpr (requires { Self::stored; }) frozen = Self::stored.rest;
    return base::extent_of(tokens, training, frozen);
  }

 protected:
  using base::on_, base::workspace_;
  explicit inference(X on) : base(std::move(on)) {}
  inference(inference&&) = default;
  inference& operator=(inference&&) = default;
  ~inference() = default;

  static void check_workspace(std::span<std::byte> workspace, extent e) {
    base::check_workspace(workspace, e, workspace_bytes(e));
  }
  /// Returns the batch as the executor read it.
  batch run(batch const& given, matrix<S const> x, matrix<S> y, std::span<std::byte> workspace,
            bool training, cache_of<X>* cache) const {
    extent const e = extent_of(given.tokens, training);
    arena memory(workspace.data(), static_cast<std::int64_t>(workspace.size()));
    batch const b = base::staged(given, memory, e, cache);
    typename plan<X, E>::saved const saved(memory, e);
    if (b.log) b.log->next = 0;
    b.taken = 0;
    if (cache) cache->used = 0;
    plan<X, E>::forward(pass<X>{on_, b, memory, e, gradients::overwrite, cache, b.wanted},
                        static_cast<Self const&>(*this).weights(), saved, x, y);
    if (cache) cache->grow(given);
    if (b.log) place<X>::read_log(on_, *b.log, b.tokens);
    return b;
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
