// The 16B model's layer: tokens a second, as parts of what this machine can do and beside peers.
//
//   bench_layer [seconds]     about so long for each line, default 20; out/bench/layer.jsonl
//
// Every round measures each contender, and between them the peak of multiply-adds and the rate of
// reading memory, so that all figures of a line saw the same machine. Medians of rounds.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "peers.hpp"
#include "probe.hpp"

namespace {

namespace fg = finegrain;

constexpr fg::config moe_16b{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
using layer = fg::network<fg::mixture<moe_16b>, fg::cpu>;
constexpr int D = moe_16b.hidden;

struct contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> rates, of_peak, of_read;
};

std::vector<float> normals(std::int64_t count, std::uint64_t seed) {
  std::vector<float> made(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < made.size(); ++i)
    made[i] = static_cast<float>(fg::random_normal(seed, i));
  return made;
}

/// The peers' experts, routed as finegrain's own router does.
std::vector<bench::peer_job> jobs(layer& net, bench::const_view x) {
  auto const w = std::as_const(net).weights();
  auto const dw = net.gradient_views();
  std::vector<bench::peer_job> experts(moe_16b.routed + 1);
  for (int e = 0; e < moe_16b.routed; ++e)
    experts[std::size_t(e)] = {
        w.b.gate[e], w.b.up[e], w.b.down[e], dw.b.gate[e], dw.b.up[e], dw.b.down[e], {}, {}, 0};
  experts.back() = {w.a.gate, w.a.up, w.a.down, dw.a.gate, dw.a.up, dw.a.down, {}, {}, 0};

  fg::extent const e = net.extent_of(x.rows);
  fg::arena counting;
  static_cast<void>(fg::routing<float>(counting, e, moe_16b));
  static_cast<void>(fg::route_scratch(counting, e, moe_16b.routed));
  fg::buffer<> memory(counting.used());
  fg::arena arena(memory.data(), memory.size());
  fg::routing<float> const r(arena, e, moe_16b);
  fg::route_forward(net.on(), moe_16b, {}, x, nullptr, w.b.router, {}, r,
                    fg::route_scratch(arena, e, moe_16b.routed));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    experts.back().tokens.push_back(t);
    experts.back().weight.push_back(1);
    for (int k = 0; k < moe_16b.top_k; ++k) {
      auto& expert = experts[std::size_t(r.experts(t, k))];
      expert.tokens.push_back(t);
      expert.weight.push_back(r.weights(t, k));
    }
  }
  return experts;
}

struct report {
  std::FILE* json;
  double seconds;  // a line

  /// Measures contenders in turn, with probes between them, and prints a line.
  void line(char const* what, layer& net, std::int64_t tokens, double flops, double bytes,
            std::vector<contender> contenders) {
    auto const weights = std::as_const(net).parameters();
    std::int64_t const read = 256 << 20;
    for (auto& c : contenders) c.run();
    std::vector<double> peaks, reads;
    double spent = 0;
    for (int round = 0; round < 3 || (spent < seconds && round < 60); ++round)
      spent += bench::seconds_of([&] {
        for (auto& c : contenders) {
          double const peak = bench::peak_flops(net.on());
          std::int64_t const places = std::int64_t(weights.size_bytes()) / read;
          double const dram =
              bench::read_rate(net.on(), weights.data() + round % places * (read / 4), read);
          double const rate = 1 / bench::seconds_of(c.run);
          double const peak_after = bench::peak_flops(net.on());
          peaks.push_back(peak);
          reads.push_back(dram);
          c.rates.push_back(rate * double(tokens));
          c.of_peak.push_back(rate * flops / ((peak + peak_after) / 2));
          c.of_read.push_back(rate * bytes / dram);
        }
      });
    double const ours = bench::median(contenders[0].rates);
    std::printf("%-9s T=%-4lld peak %.0f GFLOP/s, read %.1f GB/s\n", what,
                static_cast<long long>(tokens), bench::median(peaks) * 1e-9,
                bench::median(reads) * 1e-9);
    for (auto const& c : contenders) {
      double const rate = bench::median(c.rates);
      std::printf(
          "  %-16s %9.1f tokens/s  %5.1f %% of peak  %5.1f %% of read  finegrain is %.2fx\n",
          c.name.c_str(), rate, 100 * bench::median(c.of_peak), 100 * bench::median(c.of_read),
          ours / rate);
      std::fprintf(json,
                   "{\"bench\":\"layer\",\"pass\":\"%s\",\"tokens\":%lld,\"by\":\"%s\","
                   "\"tokens_per_second\":%.2f,\"of_peak\":%.4f,\"of_read\":%.4f,\"times\":%.3f,"
                   "\"peak_gflops\":%.1f,\"read_gbs\":%.2f,\"rounds\":%zu}\n",
                   what, static_cast<long long>(tokens), c.name.c_str(), rate,
                   bench::median(c.of_peak), bench::median(c.of_read), ours / rate,
                   bench::median(peaks) * 1e-9, bench::median(reads) * 1e-9, c.rates.size());
    }
    std::fflush(stdout);
    std::fflush(json);
  }
};

template <class F>
void each_peer(F&& f) {
  for (bool const outer : {true, false}) {
    f.template operator()<bench::by_eigen>(outer);
#ifdef FINEGRAIN_OPENBLAS
    f.template operator()<bench::by_openblas>(outer);
#endif
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::create_directories("out/bench");
  report report{std::fopen("out/bench/layer.jsonl", "w"), argc > 1 ? std::atof(argv[1]) : 20.0};
  if (!report.json) return 1;

  layer net(fg::initialisation{});
  for (std::int64_t const tokens : {1, 16, 64, 512}) {
    bool const train = tokens == 512;
    net.reserve(tokens, train);
    // small batches take other experts every time, so that weights come from memory
    std::int64_t const sets = tokens <= 16 ? 16 : 1;
    auto x = normals(sets * tokens * D, 1), y = normals(tokens * D, 2), dy = normals(tokens * D, 3);
    bench::view const to(y.data(), tokens, D);
    auto input = [&](std::int64_t i) {
      return bench::const_view(x.data() + i % sets * tokens * D, tokens, D);
    };
    std::set<std::pair<std::int64_t, std::size_t>> touched;
    for (std::int64_t i = 0; i < sets; ++i) {
      auto const experts = jobs(net, input(i));
      for (std::size_t e = 0; e < moe_16b.routed; ++e)
        if (!experts[e].tokens.empty()) touched.insert({i, e});
    }
    double const expert = 3.0 * D * moe_16b.width;
    double const flops = 2 * expert * moe_16b.active() * double(tokens);
    double const bytes = 4 * expert * (double(touched.size()) / double(sets) + moe_16b.shared);

    std::vector<contender> forward, backward;
    forward.push_back(
        {"finegrain", [&, i = std::int64_t{0}]() mutable { net(input(i++), to); }, {}, {}, {}});
    net.reserve(1, true);  // the peers' jobs name gradients
    if (train)
      backward.push_back({"finegrain",
                          [&] { net.backward(bench::const_view(dy.data(), tokens, D), to); },
                          {},
                          {},
                          {}});
    each_peer([&]<class G>(bool outer) {
      auto peers = std::make_shared<std::vector<bench::peer<G>>>();
      for (std::int64_t i = 0; i < sets; ++i)
        peers->emplace_back(net.on(), outer, jobs(net, input(i)), tokens, D);
      std::string const name = std::string(G::name) + (outer ? " outer" : " inner");
      forward.push_back({name,
                         [&, peers, i = std::int64_t{0}]() mutable {
                           (*peers)[std::size_t(i % sets)].forward(input(i), to);
                           ++i;
                         },
                         {},
                         {},
                         {}});
      if (train && outer)
        backward.push_back({name,
                            [&, peers] {
                              (*peers)[0].backward(input(0),
                                                   bench::const_view(dy.data(), tokens, D), to);
                            },
                            {},
                            {},
                            {}});
    });
    report.line("forward", net, tokens, flops, bytes, std::move(forward));
    if (train) net.forward({.tokens = tokens}, input(0), to);
    if (train) report.line("backward", net, tokens, 2 * flops, bytes, std::move(backward));
  }
  std::fclose(report.json);
}
