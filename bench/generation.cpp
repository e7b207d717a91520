// What several sequences at a time are worth in generation: one layer of the 16B's sizes, frozen, makes a
// token of each of 1 to 64 sequences a pass.
//
//   bench_generation
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <numeric>
#include <vector>

namespace {

namespace fg = finegrain;

constexpr fg::architecture sizes = [] {
  fg::architecture a = fg::presets::deepseek_moe_16b;
  a.layers = 1;
  a.dense_layers = a.dense_width = 0;
  a.vocabulary = 1024;
  return a;
}();
using model = fg::decoder<sizes>;

/// Tokens a second, of all sequences: the median of some passes, behind prompts of so many tokens.
template <class Net>
double rate(Net& net, std::int64_t sequences, std::int64_t prompt) {
  constexpr int passes = 15;
  auto cache = net.make_cache(prompt + passes, sequences);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(sequences * prompt));
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>(fg::random_word(1, i) % sizes.vocabulary);
  std::vector<float> logits(ids.size() * sizes.vocabulary);
  std::vector<std::int64_t> starts(static_cast<std::size_t>(sequences) + 1);
  auto const run = [&](std::int64_t of_each) {
    for (std::size_t s = 0; s < starts.size(); ++s)
      starts[s] = static_cast<std::int64_t>(s) * of_each;
    std::int64_t const tokens = starts.back();
    auto const begin = std::chrono::steady_clock::now();
    net.infer({.tokens = tokens,
               .ids = std::span(ids).first(static_cast<std::size_t>(tokens)),
               .starts = starts},
              {}, {logits.data(), tokens, sizes.vocabulary}, &cache);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  run(prompt);
  std::vector<double> seconds;
  for (int i = 0; i < passes; ++i) {
    seconds.push_back(run(1));
    std::rotate(ids.begin(), ids.begin() + sequences, ids.end());
  }
  std::nth_element(seconds.begin(), seconds.begin() + passes / 2, seconds.end());
  return static_cast<double>(sequences) / seconds[passes / 2];
}

template <class Net>
void show(char const* name, Net net) {
  for (std::int64_t sequences : {1, 8, 32, 64})
    std::printf("%s, %lld sequences: %.0f tokens/s\n", name, static_cast<long long>(sequences),
                rate(net, sequences, 32));
}

}  // namespace

int main() {
  fg::network<model, fg::cpu> const net({.deviation = 0.02});
  show("bf16", fg::quantize<fg::format::bf16>(net));
  show("int8", fg::quantize<fg::format::int8>(net));
}
