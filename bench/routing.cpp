// What routing costs: the choice of experts beside a sort, and routing, dispatch and combine as a
// part of the layer, for every router of the DeepSeek family.
//
//   bench_routing [tokens...]
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <finegrain/finegrain.hpp>
#include <numeric>

namespace {

namespace fg = finegrain;
namespace profiles = fg::profiles;
using clock_type = std::chrono::steady_clock;

constexpr fg::config moe_16b = fg::presets::deepseek_moe_16b.moe;
constexpr fg::config v3 = profiles::deepseek_v3_hf({.hidden = 2048,
                                                    .width = 1408,
                                                    .routed = 256,
                                                    .top_k = 8,
                                                    .shared = 1,
                                                    .scale = 2.5f,
                                                    .groups = 8,
                                                    .group_limit = 4});

/// Medians of seconds of two tasks, run in turn.
template <class A, class B>
std::pair<double, double> medians(int rounds, A&& a, B&& b) {
  std::vector<double> first, second;
  auto const time = [](auto&& run) {
    auto const start = clock_type::now();
    run();
    return std::chrono::duration<double>(clock_type::now() - start).count();
  };
  for (int i = 0; i < rounds; ++i) {
    first.push_back(time(a));
    second.push_back(time(b));
  }
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  return {first[first.size() / 2], second[second.size() / 2]};
}

/// The choice as one would write it with the standard library: sort groups, then the keys.
void choose_by_sorting(fg::config const& c, float const* scores, float const* bias, float* keys,
                       int* order, std::int32_t* experts) {
  int const size = c.routed / c.groups;
  for (int i = 0; i < c.routed; ++i) keys[i] = scores[i] + (bias ? bias[i] : 0);
  auto const higher = [keys](int i, int j) {
    return keys[i] > keys[j] || (keys[i] == keys[j] && i < j);
  };
  int count = c.routed;
  std::iota(order, order + c.routed, 0);
  if (c.group_limit < c.groups) {
    float worth[64];
    int groups[64];
    std::iota(groups, groups + c.groups, 0);
    for (int g = 0; g < c.groups; ++g) {
      int* const mine = order + g * size;
      std::partial_sort(mine, mine + 2, mine + size, higher);
      worth[g] = keys[mine[0]] + keys[mine[1]];
    }
    std::partial_sort(groups, groups + c.group_limit, groups + c.groups,
                      [&](int a, int b) { return worth[a] > worth[b]; });
    count = 0;
    std::sort(groups, groups + c.group_limit);
    for (int n = 0; n < c.group_limit; ++n)
      for (int i = 0; i < size; ++i) order[count++] = groups[n] * size + i;
  }
  std::partial_sort(order, order + c.top_k, order + count, higher);
  std::copy_n(order, c.top_k, experts);
}

void choice(char const* name, fg::config const& c) {
  constexpr std::int64_t tokens = 4096;
  auto const R = static_cast<std::size_t>(c.routed), K = static_cast<std::size_t>(c.top_k);
  std::vector<float> scores(tokens * R), bias(R), keys(R);
  for (std::size_t i = 0; i < scores.size(); ++i)
    scores[i] = static_cast<float>(fg::random_uniform(1, i));
  for (std::size_t i = 0; i < R; ++i) bias[i] = static_cast<float>(0.01 * fg::random_normal(2, i));
  std::vector<std::int64_t> ranks(2 * R);
  std::vector<int> order(R);
  std::vector<std::int32_t> ours(tokens * K), theirs(tokens * K);
  float const* const b = c.bias ? bias.data() : nullptr;
  auto const [fused, sorted] = medians(
      31,
      [&] {
        for (std::size_t t = 0; t < tokens; ++t)
          fg::simd::choose(c, {}, &scores[t * R], b, keys.data(), ranks.data(), &ours[t * K]);
      },
      [&] {
        for (std::size_t t = 0; t < tokens; ++t)
          choose_by_sorting(c, &scores[t * R], b, keys.data(), order.data(), &theirs[t * K]);
      });
  std::printf("| %s | %.0f | %.0f | %.1f |%s\n", name, fused / tokens * 1e9, sorted / tokens * 1e9,
              sorted / fused, ours == theirs ? "" : " they differ");
}

/// Part of a layer's time that its routing, dispatch and combine take.
template <fg::config C>
void share(char const* name, std::int64_t T) {
  fg::cpu const on;
  fg::network<fg::mixture<C>, fg::cpu> net({.deviation = 0.02}, on);
  std::vector<float> numbers(static_cast<std::size_t>(T * C.hidden)), out(numbers.size());
  std::vector<std::int32_t> ids(static_cast<std::size_t>(T));
  for (std::size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(fg::random_normal(1, i));
  for (std::size_t t = 0; t < ids.size(); ++t)
    ids[t] =
        static_cast<std::int32_t>(t * 31 % static_cast<std::size_t>(std::max(1, C.vocabulary)));
  fg::matrix<float const> const x(numbers.data(), T, C.hidden);
  fg::matrix<float> const y(out.data(), T, C.hidden);
  fg::batch const b{.tokens = T, .ids = ids};

  fg::extent const e{T, on.threads.workers(), false};
  auto const parts = [&](fg::arena& memory) {
    struct {
      fg::routing<float> r;
      fg::route_scratch t;
      fg::dispatched d;
      fg::matrix<float> slots, shared;
    } made{{memory, e, C},
           {memory, e, C},
           {memory, T, C.routed, fg::slots(C, e), fg::pairs(C, e)},
           memory.matrix<float>(fg::pairs(C, e), C.hidden),
           memory.matrix<float>(T, C.hidden)};
    return made;
  };
  fg::arena counting;
  static_cast<void>(parts(counting));
  fg::buffer<> const memory(counting.used());
  std::fill(memory.begin(), memory.end(), std::byte(0));
  fg::arena arena(memory.data(), memory.size());
  auto const m = parts(arena);
  auto const weights = net.weights();
  auto const& routed = [&]() -> auto const& {
    if constexpr (C.shared > 0)
      return weights.b;
    else
      return weights;
  }
  ();
  auto const experts = m.r.experts.middle_cols(0, C.top_k);
  fg::dispatched places = m.d;
  places.slot = m.d.slot.middle_cols(0, C.top_k);
  auto const [all, around] = medians(
      T > 256 ? 9 : 21, [&] { net.infer(b, x, y); },
      [&] {
        fg::route_forward(on, C, b, x, nullptr, fg::router_weights<float const>(routed), m.r, m.t);
        fg::dispatch(on, experts, C.routed, places);
        fg::combine(
            on, {.shared = m.shared, .slots = m.slots, .slot = places.slot, .weights = m.r.weights},
            y);
      });
  std::printf("| %s | %lld | %.2f ms | %.2f ms | %.2f %% |\n", name, static_cast<long long>(T),
              all * 1e3, around * 1e3, 100 * around / all);
}

}  // namespace

int main(int count, char** words) {
  std::printf(
      "| choice of experts | ns a token | partial_sort | times faster |\n|---|---|---|---|\n");
  choice("16B: 6 of 64", moe_16b);
  choice("V3: 8 of 256, 4 of 8 groups", v3);
  choice("V4: 6 of 256",
         profiles::deepseek_v4({.hidden = 1, .width = 1, .routed = 256, .top_k = 6}));
  std::printf(
      "\n| 16B layer | tokens | layer | routing, dispatch, combine | part "
      "|\n|---|---|---|---|---|\n");
  std::vector<std::int64_t> sizes;
  for (int i = 1; i < count; ++i) sizes.push_back(std::atoll(words[i]));
  if (sizes.empty()) sizes = {64, 512};
  for (std::int64_t const T : sizes) {
    share<profiles::deepseek_v1_hf(moe_16b)>("deepseek_v1_hf, bf16 gate", T);
    share<profiles::deepseek_v2_hf(moe_16b)>("deepseek_v2_hf", T);
    share<profiles::deepseek_v3_hf(moe_16b)>("deepseek_v3_hf", T);
    share<profiles::deepseek_v3_official(moe_16b)>("deepseek_v3_official, bf16 gate", T);
    share<profiles::deepseek_v4(moe_16b)>("deepseek_v4", T);
    share<profiles::deepseek_v4_hash(moe_16b, 100)>("deepseek_v4_hash", T);
  }
}
