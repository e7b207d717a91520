// The layers that are measured, and inputs that send tokens where a case wants them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <finegrain/config/presets.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/init.hpp>
#include <finegrain/plan/routing.hpp>
#include <set>
#include <string>

#include "peers.hpp"

namespace bench {

inline constexpr fg::config moe_16b = fg::presets::deepseek_moe_16b.moe;
inline constexpr fg::config moe_2b = fg::presets::deepseek_moe_2b.moe;  // 1280, 853
inline constexpr fg::config moe_odd{
    .hidden = 1000, .width = 853, .routed = 63, .top_k = 7, .shared = 1};
/// Segmented by m it has the parameters and the arithmetic of m = 1; m = 4 has the 16B's width.
inline constexpr fg::config coarse = fg::conventional<16, 2>({.hidden = 2048, .width = 5632});

/// How tokens are spread over the routed experts.
enum class spread {
  uniform,  // every expert is as likely as any other
  zipf,     // the n-th is chosen in proportion to 1 / n
  quarter,  // a quarter of the tokens go to the first, beside others
  one,      // all tokens go to the first, beside others
  same,     // all tokens go to the same top_k
};
inline char const* name_of(spread how) {
  constexpr char const* names[] = {"", " zipf", " quarter", " one", " same"};
  return names[static_cast<int>(how)];
}

/// A layer of run-time shape: what all contenders share.
struct layer {
  std::string name;
  fg::config c;
  fg::layer_weights<float const> w;
  fg::layer_weights<float> dw = {};

  /// Numbers in the weights of one routed expert.
  double expert_size() const { return 3.0 * c.hidden * c.width; }
  double flops(std::int64_t tokens) const {
    return 2 * expert_size() * c.active() * double(tokens);
  }
  /// Expert weights that T tokens need on average, when routing is uniform.
  double numbers(double tokens) const {
    double const untouched = std::pow(1 - double(c.top_k) / c.routed, tokens);
    return expert_size() * (c.routed * (1 - untouched) + c.shared);
  }
  /// The routed experts, then the shared ones as one.
  std::vector<expert> experts() const {
    std::vector<expert> all;
    auto const at = [](auto const& s, std::int64_t i) { return s.data ? s[i] : decltype(s[i])(); };
    for (std::int64_t i = 0; i < w.gate.count; ++i)
      all.push_back({w.gate[i], w.up[i], w.down[i], at(dw.gate, i), at(dw.up, i), at(dw.down, i)});
    if (c.shared > 0)
      all.push_back({w.shared_gate[0], w.shared_up[0], w.shared_down[0], at(dw.shared_gate, 0),
                     at(dw.shared_up, 0), at(dw.shared_down, 0)});
    return all;
  }
};

/// A router that reads a token's first R numbers as its logits: the input says who goes where.
inline void make_router(fg::matrix<float> router) {
  for (std::int64_t e = 0; e < router.rows; ++e)
    for (std::int64_t d = 0; d < router.cols; ++d) router(e, d) = e == d ? 1.0f : 0.0f;
}

/// Several batches of T tokens, normal numbers but for the logits of their experts.
class inputs {
 public:
  inputs(fg::cpu const& on, layer const& l, std::int64_t tokens, std::int64_t sets, spread how)
      : tokens_(tokens), sets_(sets), hidden_(l.c.hidden), x_(sets * tokens * l.c.hidden) {
    on.threads(sets * tokens, [&](std::int64_t t, int) {
      float* const row = x_.data() + t * hidden_;
      auto const first = static_cast<std::uint64_t>(t * hidden_);
      for (std::int64_t d = 0; d < hidden_; ++d)
        row[d] = static_cast<float>(fg::random_normal(1, first + std::uint64_t(d)));
      send(row, l.c, how, t);
    });
  }

  std::int64_t sets() const { return sets_; }
  const_view operator[](std::int64_t set) const {
    return {x_.data() + set % sets_ * tokens_ * hidden_, tokens_, hidden_};
  }

 private:
  /// Logits 3 and more for the chosen experts, at most 1 for the others.
  static void send(float* logits, fg::config const& c, spread how, std::int64_t token) {
    std::vector<std::pair<double, int>> keys;  // the least are chosen: drawn by weight, each once
    for (int e = 0; e < c.routed; ++e) {
      double const u =
          fg::random_uniform(2, std::uint64_t(token) * std::uint64_t(c.routed) + std::uint64_t(e));
      double key = -std::log(1 - u) * (how == spread::zipf ? e + 1 : 1);
      bool const first = e == 0, everyone = how == spread::one || how == spread::same;
      if (first && (everyone || (how == spread::quarter && token % 4 == 0))) key = -1;
      if (first && how == spread::quarter && token % 4 != 0) key = 1e9;
      if (how == spread::same && e < c.top_k) key = -1;
      keys.push_back({key, e});
    }
    std::sort(keys.begin(), keys.end());
    for (int i = 0; i < c.routed; ++i)
      logits[keys[std::size_t(i)].second] =
          i < c.top_k ? 3.0f + 0.05f * float(c.top_k - i) : 1.0f - 0.01f * float(i);
  }

  std::int64_t tokens_, sets_, hidden_;
  fg::buffer<float> x_;
};

/// Memory of a layer's router for T tokens, and the steps around the experts.
struct router_memory {
  fg::extent e;
  fg::buffer<> memory;
  fg::arena arena;
  fg::routing<float> routing;
  fg::route_scratch scratch;
  fg::dispatched places;

  router_memory(fg::cpu const& on, fg::config const& c, std::int64_t tokens)
      : e{tokens, on.threads.workers(), true},
        memory(count(e, c)),
        arena(memory.data(), memory.size()),
        routing(arena, e, c),
        scratch(arena, e, c),
        places(arena, tokens, c.routed, c.top_k, tokens * c.top_k) {}

  void route(fg::cpu const& on, layer const& l, const_view x) const {
    fg::route_forward(on, l.c, {}, x, nullptr, l.w.router, routing, scratch);
  }
  void dispatch(fg::cpu const& on, layer const& l) const {
    fg::dispatch(on, routing.experts, l.c.routed, places);
  }

 private:
  static std::int64_t count(fg::extent e, fg::config const& c) {
    fg::arena counting;
    static_cast<void>(fg::routing<float>(counting, e, c));
    static_cast<void>(fg::route_scratch(counting, e, c));
    static_cast<void>(fg::dispatched(counting, e.tokens, c.routed, c.top_k, e.tokens * c.top_k));
    return counting.used();
  }
};

/// Where the library's own router sends tokens: the same for every contender.
inline std::vector<assignment> assign(fg::cpu const& on, layer const& l, const_view x) {
  router_memory const r(on, l.c, x.rows);
  r.route(on, l, x);
  std::vector<assignment> all(std::size_t(l.c.routed) + (l.c.shared > 0));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (int k = 0; k < l.c.top_k; ++k) {
      auto& to = all[std::size_t(r.routing.experts(t, k))];
      to.tokens.push_back(t);
      to.weights.push_back(r.routing.weights(t, k));
    }
    if (l.c.shared == 0) continue;
    all.back().tokens.push_back(t);
    all.back().weights.push_back(1);
  }
  return all;
}

/// A case's routings, cut for experts on threads ("outer") or threads in products ("inner").
struct routings {
  std::vector<schedule> outer, inner;
  double numbers = 0;  // expert weights that a batch needs, on average

  routings(fg::cpu const& on, layer const& l, inputs const& x, bool training = false) {
    auto const experts = l.experts();
    for (std::int64_t i = 0; i < x.sets(); ++i) {
      auto const all = assign(on, l, x[i]);
      std::int64_t const parts = training ? 1 : on.threads.workers();
      outer.emplace_back(experts, all, x[i].rows, parts);
      inner.emplace_back(experts, all, x[i].rows, 1);
      for (std::size_t e = 0; e < all.size(); ++e)
        if (!all[e].tokens.empty()) numbers += 3.0 * double(experts[e].gate.size());
    }
    numbers /= double(x.sets());
  }
};

}  // namespace bench
