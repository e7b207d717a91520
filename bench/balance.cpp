// How much of the time many workers would be busy with a layer's tasks: nothing is timed.
//
//   bench_balance
//
// Random routings of the 16B's layer are cut into tasks as the cpu executor cuts them; each task goes
// to the worker that is free first. A task takes as long as it has arithmetic.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/init.hpp>
#include <queue>
#include <vector>

namespace {

namespace fg = finegrain;
constexpr int D = 2048, F = 1408, R = 64, K = 6, S = 2;

/// Where each expert's slots begin; with zipf, expert n is chosen in proportion to 1 / n.
std::vector<std::int64_t> routing(std::int64_t tokens, bool zipf) {
  std::vector<std::int64_t> offsets(R + 1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<double, int>> keys;
    for (int e = 0; e < R; ++e)
      keys.push_back(
          {-std::log(1 - fg::random_uniform(1, std::uint64_t(t * R + e))) * (zipf ? e + 1 : 1), e});
    std::sort(keys.begin(), keys.end());
    for (int k = 0; k < K; ++k) ++offsets[std::size_t(keys[std::size_t(k)].second) + 1];
  }
  for (std::size_t e = 0; e < R; ++e) offsets[e + 1] += offsets[e];
  return offsets;
}

/// When the last worker is done.
template <class Cost>
double finish(std::vector<fg::expert_task> const& tasks, std::int64_t count, int workers,
              Cost&& cost) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free;
  for (int w = 0; w < workers; ++w) free.push(0);
  double last = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    double const end = free.top() + cost(tasks[std::size_t(i)]);
    free.pop();
    free.push(end);
    last = std::max(last, end);
  }
  return last;
}

double busy(std::int64_t tokens, bool zipf, int workers) {
  using namespace fg::simd;
  std::vector<std::int64_t> const offsets = routing(tokens, zipf);
  fg::expert_group const groups[] = {
      {.gate = {nullptr, 1, S * F, D}, .slots = tokens},
      {.gate = {nullptr, R, F, D}, .slots = tokens * K, .offsets = offsets.data()}};
  auto const inner = [](fg::expert_group const& g) { return ceil_div(g.width(), half_panel); };
  auto const outer = [](fg::expert_group const&) { return ceil_div(D, panel_width); };
  std::int64_t const most =
      std::min(left_rows<fg::format::f32>::most(D), left_rows<fg::format::f32>::most(S * F));
  std::vector<fg::expert_task> tasks(std::size_t(most_tasks(tokens * (K + 1), R + 1, workers)));
  std::int64_t cut = 0, all = 0;
  for (auto const& g : groups) all += g.slots * inner(g);
  std::int64_t const share = fair_share(all, workers);
  auto const group = [&](fg::expert_task const& t) { return groups[t.group]; };
  double time = 0, work = 0;
  auto const run = [&](auto&& panels, auto&& wanted, auto&& cost) {
    cut = list_tasks(groups, most, workers, 1, panels, wanted, tasks.data());
    for (std::int64_t i = 0; i < cut; ++i) work += cost(tasks[std::size_t(i)]);
    time += finish(tasks, cut, workers, cost);
  };
  auto const down = [&](fg::expert_task const& t) {
    return double(t.rows) * double(group(t).width()) * D;
  };
  run(inner, all_blocks, [&](fg::expert_task const& t) {
    std::int64_t const panels = inner(group(t));
    bool const whole = t.end - t.begin == panels;
    return 2 * down(t) * double(t.end - t.begin) / double(panels) + (whole ? down(t) : 0);
  });
  run(
      outer,
      [&](fg::expert_group const& g, std::int64_t rows) {
        return inner(g) > 1 && rows * inner(g) > share;
      },
      [&](fg::expert_task const& t) {
        return down(t) * double(t.end - t.begin) / double(outer(group(t)));
      });
  return work / workers / time;
}

}  // namespace

int main() {
  std::printf("| tokens, routing | 2 workers | 8 | 16 | 64 |\n|---|---|---|---|---|\n");
  for (bool const zipf : {false, true})
    for (std::int64_t const tokens : {64, 512, 2048}) {
      std::printf("| %lld, %s |", static_cast<long long>(tokens), zipf ? "Zipf" : "uniform");
      for (int const workers : {2, 8, 16, 64})
        std::printf(" %.0f %% |", 100 * busy(tokens, zipf, workers));
      std::printf("\n");
    }
}
