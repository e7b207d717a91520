// Random layers: weights, tokens and requests drawn from a seed, cpu against the specification.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/cpu/mixture.hpp>
#include <finegrain/reference/mixture.hpp>

#include "catch.hpp"
#include "cpu/layer.hpp"

namespace under_test {

struct random_count {
  int compared = 0, skipped = 0;
};

/// Whether an f32 router may rank otherwise than a double one: two keys that decide (or two groups)
/// are nearer than f32 can tell.
template <fg::config C, class W>
bool too_close(W const& w, numbers const& x, fg::routing_request const& request) {
  std::int64_t const T = static_cast<std::int64_t>(x.size()) / C.hidden;
  std::vector<double> const wide(x.begin(), x.end());
  std::vector<double> scores(static_cast<std::size_t>(T * C.routed));
  fg::basic_reference<double> const on;
  linear_forward(on, view(wide, T, C.hidden), w.router, view(scores, T, C.routed));
  for (std::int64_t t = 0; t < T; ++t) {
    double* const keys = &scores[static_cast<std::size_t>(t * C.routed)];
    fg::spec::score_forward(C, keys);
    double largest = 0;
    for (int i = 0; i < C.routed; ++i) {
      if (C.bias) keys[i] += w.bias(0, i);
      largest = std::max(largest, std::abs(keys[i]));
    }
    double const least = 1e-5 * largest;
    std::vector<double> worth, ranked(keys, keys + C.routed);
    for (int g = 0; g < C.groups; ++g) worth.push_back(fg::spec::group_worth(C, keys, g));
    std::sort(worth.rbegin(), worth.rend());
    std::sort(ranked.rbegin(), ranked.rend());
    if (C.group_limit < C.groups &&
        worth[C.group_limit - 1] - worth[static_cast<std::size_t>(C.group_limit)] < least)
      return true;
    // with groups the ranked keys may lie anywhere: all of them count
    int const decide = C.group_limit < C.groups ? C.routed : request.mask_best + chosen(C, request);
    for (int i = 0; i + 1 < C.routed && i < decide; ++i)
      if (ranked[static_cast<std::size_t>(i)] - ranked[static_cast<std::size_t>(i + 1)] < least)
        return true;
  }
  return false;
}

/// `count` layers of config C, with up to `tokens` tokens each: y, dx and every gradient.
template <fg::config C>
random_count compare_random_layers(int count, std::int64_t tokens, std::uint64_t seed = 1) {
  using E = fg::mixture<C>;
  constexpr auto rw = [](auto const& w) -> auto const& {
    if constexpr (C.shared > 0)
      return w.b;
    else
      return w;
  };
  random_count made;
  layer<E> fast;
  exact_layer<E> exact;
  auto const entries = fg::list_weights<E>();
  for (int n = 0; n < count; ++n) {
    std::uint64_t draw = fg::random_word(seed, static_cast<std::uint64_t>(n));
    auto below = [&](std::int64_t limit) {
      draw = fg::random_word(draw, 7);
      return static_cast<std::int64_t>(draw % static_cast<std::uint64_t>(limit));
    };
    std::int64_t const T = n == 0 ? 0 : n == 1 ? 1 : below(tokens + 1);
    numbers const x = random_numbers(T * C.hidden, draw),
                  dy = random_numbers(T * C.hidden, draw + 1);
    fg::batch b;
    // (one expert with its weight divided by itself teaches the router nothing: 0 / 0 to compare)
    int const least = C.renormalise ? 2 : 1;
    if (below(3) == 0) b.routing.top_k = static_cast<int>(least + below(C.top_k - least + 1));
    if (C.routed / C.groups * C.group_limit > C.top_k && below(4) == 0) b.routing.mask_best = 1;
    if (below(5) == 0) b.routing.shared = false;
    if (below(3) == 0) b.routing.balance.expert = 0.1;
    bool const add = below(4) == 0;
    fast.mode = exact.mode = add ? fg::gradients::accumulate : fg::gradients::overwrite;
    fast.before = add ? 0.25f : poison;
    exact.before = add ? 0.25 : poison;
    // new weights now and then: drawing them costs more than a small layer
    if (n % 8 == 0) {
      numbers w(fast.w.size());
      for (auto const& entry : entries) {
        double const deviation = entry.role == fg::role::selection_bias
                                     ? 0.1
                                     : 1.0 / std::sqrt(static_cast<double>(entry.cols));
        numbers const fresh = random_numbers(entry.rows * entry.cols, draw + 2, deviation);
        std::copy(fresh.begin(), fresh.end(), w.begin() + entry.offset);
        draw = fg::random_word(draw, 11);
      }
      fast.set_weights(w);
      exact.set_weights(w);
    }
    if (too_close<C>(rw(exact.weights()), x, b.routing)) {
      ++made.skipped;
      continue;
    }
    fast.train(x, dy, b);
    exact.train(x, dy, b);
    double const depth = static_cast<double>(C.hidden + C.width * C.active() + T);
    double const allowed = 2e-6 * std::sqrt(depth);
    double const y_off = difference(exact.y, fast.y), dx_off = difference(exact.dx, fast.dx);
    INFO("layer " << n << ", " << T << " tokens, k " << b.routing.top_k << ", masked "
                  << b.routing.mask_best << ", shared " << b.routing.shared << ", balance "
                  << b.routing.balance.expert << ", adding " << add);
    if (!(y_off < allowed)) CHECK(y_off < allowed);
    if (!(dx_off < allowed)) CHECK(dx_off < allowed);
    for (auto const& entry : entries) {
      auto const cut = [&](auto const& all) {
        return std::decay_t<decltype(all)>(all.begin() + entry.offset,
                                           all.begin() + entry.offset + entry.rows * entry.cols);
      };
      // the router's gradient is a difference of nearly equal numbers
      double const most = allowed * (entry.name.ends_with("router") ? 8 : 1);
      double const off = difference(cut(exact.dw), cut(fast.dw));
      if (!(off < most)) {
        INFO(entry.name);
        CHECK(off < most);
      }
    }
    ++made.compared;
  }
  CHECK(made.compared > 0);
  return made;
}

}  // namespace under_test
