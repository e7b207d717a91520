// How much of the time many workers would be busy with a layer's tasks: nothing is timed.
//
//   bench_balance [--text FILE] [--steps N]
//
// Routings of a layer with the 16B's widths are cut into tasks as the cpu executor cuts them; each task
// goes to the worker that is free first. A task takes as long as it has arithmetic. Routings are random,
// of the 16B's 2 + 6 of 64 experts, and recorded: those of a model that was trained, 1 + 7 of 63, over
// validation text.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <functional>
#include <queue>
#include <vector>

#include "trained.hpp"

namespace {

namespace fg = finegrain;
constexpr int D = 2048, F = 1408;

/// How many slots each routed expert has, and what every token does.
struct routing {
  std::vector<std::int64_t> load;
  std::int64_t tokens;
  int top_k, shared;
};

/// Each token chooses 6 of 64; with zipf, expert n in proportion to 1 / n.
routing random(std::int64_t tokens, bool zipf) {
  constexpr int R = 64;
  routing made{std::vector<std::int64_t>(R), tokens, 6, 2};
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<std::pair<double, int>> keys;
    for (int e = 0; e < R; ++e)
      keys.push_back(
          {-std::log(1 - fg::random_uniform(1, std::uint64_t(t * R + e))) * (zipf ? e + 1 : 1), e});
    std::sort(keys.begin(), keys.end());
    for (int k = 0; k < made.top_k; ++k) ++made.load[std::size_t(keys[std::size_t(k)].second)];
  }
  return made;
}

/// What each layer of a model does with several batches of so many tokens.
std::vector<routing> recorded(trained::network& net, fg::corpus const& text, std::int64_t tokens) {
  constexpr int batches = 4;
  std::vector<routing> made;
  std::int64_t const length = std::min<std::int64_t>(tokens, 128), count = tokens / length;
  std::int64_t const all = text.validation_windows(length);
  fg::buffer<float> numbers(tokens * 256);
  for (int i = 0; i < batches; ++i) {
    fg::windows held;
    text.validate(i * count, count, all, length, held);
    fg::batch b = held.batch();
    fg::routing_log log = net.make_log();
    b.log = &log;
    net.infer(b, {}, fg::matrix<float>(numbers.data(), tokens, 256));
    for (auto const& layer : log.layers)
      made.push_back({layer.load, tokens, trained::finest.top_k, trained::finest.shared});
  }
  return made;
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

double busy(routing const& r, int workers) {
  using namespace fg::simd;
  std::int64_t const R = std::int64_t(r.load.size()), S = r.shared;
  std::vector<std::int64_t> offsets{0};
  for (std::int64_t n : r.load) offsets.push_back(offsets.back() + n);
  fg::expert_group const groups[] = {
      {.gate = {nullptr, 1, S * F, D}, .slots = r.tokens},
      {.gate = {nullptr, R, F, D}, .slots = offsets.back(), .offsets = offsets.data()}};
  auto const outer = [](fg::expert_group const&) -> std::int64_t {
    return fg::ceil_div(D, panel_width);
  };
  std::int64_t const most =
      std::min(left_rows<fg::format::f32>::most(D), left_rows<fg::format::f32>::most(S * F));
  std::vector<fg::expert_task> tasks(
      std::size_t(most_tasks(r.tokens + offsets.back(), R + 1, workers)));
  std::int64_t cut = 0, all = 0;
  for (auto const& g : groups) all += g.slots * inner_panels(g);
  std::int64_t const share = fair_share(all, workers);
  auto const group = [&](fg::expert_task const& t) { return groups[t.group]; };
  double time = 0, work = 0;
  auto const run = [&](auto panels, std::int64_t cut_by, auto&& cost) {
    cut = list_tasks(groups, most, workers, 1, panels, tasks.data(), cut_by);
    for (std::int64_t i = 0; i < cut; ++i) work += cost(tasks[std::size_t(i)]);
    time += finish(tasks, cut, workers, cost);
  };
  auto const down = [&](fg::expert_task const& t) {
    return double(t.rows) * double(group(t).width()) * D;
  };
  run(inner_panels, 0, [&](fg::expert_task const& t) {
    std::int64_t const panels = inner_panels(group(t));
    bool const whole = t.end - t.begin == panels;
    return 2 * down(t) * double(t.end - t.begin) / double(panels) + (whole ? down(t) : 0);
  });
  run(outer, share, [&](fg::expert_task const& t) {
    return down(t) * double(t.end - t.begin) / double(outer(group(t)));
  });
  return work / workers / time;
}

}  // namespace

int main(int count, char** words) try {
  fg::options given(count, words);
  std::string const file = given.text("--text", "out/corpus/jargon.txt");
  long long const steps = given.number("--steps", 1500);
  given.done();
  auto const row = [](std::int64_t tokens, char const* name, std::vector<routing> const& all) {
    std::printf("| %lld, %s |", static_cast<long long>(tokens), name);
    for (int const workers : {2, 8, 16, 64}) {
      double sum = 0;
      for (routing const& r : all) sum += busy(r, workers);
      std::printf(" %.0f %% |", 100 * sum / double(all.size()));
    }
    std::printf("\n");
  };
  fg::corpus const text = fg::corpus::read({file});
  trained::network net({.deviation = 0.1});
  trained::train(net, text, steps);
  std::printf("| tokens, routing | 2 workers | 8 | 16 | 64 |\n|---|---|---|---|---|\n");
  for (bool const zipf : {false, true})
    for (std::int64_t const tokens : {64, 512, 2048})
      row(tokens, zipf ? "Zipf" : "uniform", {random(tokens, zipf)});
  for (std::int64_t const tokens : {64, 512, 2048})
    row(tokens, "recorded", recorded(net, text, tokens));
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench balance: %s\n", e.what());
  return 1;
}
