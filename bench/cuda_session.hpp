// Measuring a layer's passes on the GPU beside its limits and peers; the lines that come of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <optional>

#include "device.hpp"
#include "session.hpp"

namespace bench {

/// Someone who computes a layer: run(i) enqueues one pass on the i-th batch and set of weights.
struct gpu_entrant {
  std::string name;
  std::function<void(std::int64_t)> run;
  std::int64_t turns = 1;    // batches and sets that are taken in turn
  std::string differs = {};  // what was wrong with the results, or ""

  bool ours() const { return name.rfind("finegrain", 0) == 0; }
};

class gpu_session {
 public:
  gpu_session(CUstream_st* on, std::string const& path, double seconds, std::string const& peers)
      : on_(on), products_(4), meter_(products_), seconds_(seconds), json_(path) {
    if (!json_) throw std::runtime_error("cannot write " + path);
    facts_ = gpu::describe();
    if (!peers.empty()) read_peers(peers);
    limits const l = measure();
    std::printf("%s, driver %s, CUDA %s: dense product %.0f TFLOP/s, copying %.0f GB/s\n",
                facts_.name.c_str(), facts_.driver.c_str(), facts_.runtime.c_str(), l.bf16 * 1e-12,
                l.read * 1e-9);
    write(fg::record()
              .set("bench", "cuda")
              .set("config", "limits")
              .set("phase", "limits")
              .set("dense_flops", l.bf16)
              .set("copy_bytes", l.read));
  }

  gpu::products& products() { return products_; }
  gpu::facts const& facts() const { return facts_; }
  std::vector<figure> const& figures() const { return figures_; }
  static char const* limit_of(figure const& f) { return f.reading ? "copying" : "dense product"; }

  /// Times everyone in turn, in several rounds, with the limits between: clocks change under load.
  /// Prints the lines.
  void line(task const& t, std::vector<gpu_entrant> const& all) {
    std::vector<runner> runners;
    for (gpu_entrant const& e : all) runners.push_back(prepare(e));
    for (int round = 0; round < rounds; ++round)
      for (runner& r : runners) sample(r, round == 0);
    std::size_t const begin = figures_.size();
    for (std::size_t i = 0; i < all.size(); ++i) {
      runner const& r = runners[i];
      figure f{.task = t,
               .by = all[i].name,
               .type = &bf16,
               .median = median(r.seconds),
               .best = *std::min_element(r.seconds.begin(), r.seconds.end()),
               .limits = {.bf16 = median(r.dense), .read = median(r.copy)},
               .samples = r.seconds.size()};
      f.ours = all[i].ours();
      f.clean = all[i].differs.empty() ? f.samples : 0;
      f.rate = double(t.tokens) / f.median;
      task bounded = t;
      if (f.by.rfind("dense", 0) == 0) bounded.numbers = 0;  // it reads one expert's weights
      auto const [least, reading] = least_time(bounded, bf16, f.limits);
      f.fraction = least / f.median;
      f.reading = reading;
      figures_.push_back(f);
    }
    print(begin, all);
    add_peers(begin);
  }

  void write(fg::record r) {
    r.set("gpu", facts_.name).set("driver", facts_.driver);
    json_ << r.line() << std::endl;
  }

  /// finegrain's figures, and how many times the peers' they are.
  std::string markdown() const {
    char const* const peers[] = {"torch", "torch.compile", "transformers", "cuBLAS loop", "dense"};
    std::string text = "| layer | pass | tokens | by | us | TFLOP/s | of the limit |";
    for (char const* peer : peers) text.append(" x ").append(peer).append(" |");
    text += "\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (figure const& f : figures_) {
      if (!f.ours) continue;
      text += "| " + f.task.config + " | " + f.task.phase + " | " + std::to_string(f.task.tokens) +
              " | " + f.by + " | " + fg::text::fixed(1e6 * f.median, f.median < 1e-3 ? 1 : 0) +
              (f.clean ? "" : "*") + " | " + fg::text::fixed(tflops(f), 0) + " | " +
              fg::text::fixed(100 * f.fraction, 0) + " % of " + limit_of(f) + " |";
      for (char const* peer : peers) {
        double const rate = best_rate(f.task, peer);
        if (rate > 0) text.append(" ").append(fg::text::fixed(f.rate / rate, 2));
        text += " |";
      }
      text += "\n";
    }
    return text;
  }

 private:
  static constexpr int rounds = 4;

  /// A graph of as many passes as fill about a millisecond, so that its launch is hidden.
  struct runner {
    std::unique_ptr<gpu::graph> recorded;
    std::int64_t passes = 1;
    double replay = 0;                                        // seconds, about
    std::vector<double> seconds = {}, dense = {}, copy = {};  // of a pass; limits meanwhile
  };

  limits measure() {
    auto const now = meter_.measure();
    return {.bf16 = now.flops, .read = now.bytes};
  }

  runner prepare(gpu_entrant const& e) const {
    for (std::int64_t i = 0; i < std::max<std::int64_t>(e.turns, 2); ++i) e.run(i);
    double const once = median(gpu::time_each(on_, 3, [&] { e.run(0); }));
    auto const times = std::int64_t(1e-3 / (double(e.turns) * once));
    runner r;
    r.passes = e.turns * std::clamp<std::int64_t>(times, 1, 200);
    r.recorded = std::make_unique<gpu::graph>(on_, [&] {
      for (std::int64_t i = 0; i < r.passes; ++i) e.run(i);
    });
    r.replay = median(gpu::time_each(on_, 3, [&] { r.recorded->replay(); }));
    return r;
  }
  /// A round: warm-ups, 20 in the first one, then its part of 100 replays, or of what there is time
  /// for. A replay is queued behind the one before.
  void sample(runner& r, bool first) {
    limits const now = measure();
    auto const replay = [&] { r.recorded->replay(); };
    auto const times = [&](double seconds, int most, int least) {
      return int(std::clamp(seconds / r.replay, double(least), double(most)));
    };
    gpu::time_each(on_, times(seconds_ / 8, first ? 20 : 5, 1), replay);
    for (double const s : gpu::time_each(on_, times(seconds_ / rounds, 100 / rounds, 2), replay)) {
      r.seconds.push_back(s / double(r.passes));
      r.dense.push_back(now.bf16);
      r.copy.push_back(now.read);
    }
  }

  static double tflops(figure const& f) { return f.task.flops / f.median * 1e-12; }

  double best_rate(task const& t, std::string const& peer) const {
    double best = 0;
    for (figure const& f : figures_) {
      bool const same =
          f.by == peer || f.by.rfind(peer + " ", 0) == 0 || f.by.rfind(peer + ",", 0) == 0;
      if (!f.ours && same && f.task.config == t.config && f.task.phase == t.phase &&
          f.task.tokens == t.tokens)
        best = std::max(best, f.rate);
    }
    return best;
  }

  void print(std::size_t begin, std::vector<gpu_entrant> const& all) {
    for (std::size_t i = begin; i < figures_.size(); ++i) {
      figure const& f = figures_[i];
      std::string const& differs = all[i - begin].differs;
      std::printf("%-15s %-16s T=%-6lld %-22s %10.1f us %6.1f TFLOP/s %5.1f %% of %s\n",
                  f.task.config.c_str(), f.task.phase.c_str(),
                  static_cast<long long>(f.task.tokens), f.by.c_str(), 1e6 * f.median, tflops(f),
                  100 * f.fraction, limit_of(f));
      if (!differs.empty()) std::printf("  *** %s\n", differs.c_str());
      write(fg::record()
                .set("bench", "cuda")
                .set("config", f.task.config)
                .set("dtype", "bf16")
                .set("phase", f.task.phase)
                .set("tokens", double(f.task.tokens))
                .set("by", f.by)
                .set("median", f.median)
                .set("min", f.best)
                .set("value", f.rate)
                .set("unit", "tokens/s")
                .set("tflops", tflops(f))
                .set("limit", limit_of(f))
                .set("fraction", f.fraction)
                .set("samples", double(f.samples))
                .set("differs", differs)
                .set("dense_flops", f.limits.bf16)
                .set("copy_bytes", f.limits.read));
    }
    std::fflush(stdout);
  }

  // ---- figures that other programs measured ----------------------------------------------------

  void read_peers(std::string const& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    int others = 0;
    for (std::string text; std::getline(file, text);) {
      auto const r = fg::record::parse(text);
      if (!r || !(r->number("median") > 0)) continue;
      if (r->text("gpu") == facts_.name)
        peers_.push_back(*r);
      else
        ++others;
    }
    if (others > 0)
      std::printf("%d peers of %s were measured on another GPU, and are left out\n", others,
                  path.c_str());
  }
  /// Peers of the line that begins there, of a file: they count as measured with it.
  void add_peers(std::size_t begin) {
    if (begin == figures_.size()) return;
    task const t = figures_[begin].task;
    for (fg::record const& r : peers_) {
      bool const here = std::any_of(figures_.begin() + std::ptrdiff_t(begin), figures_.end(),
                                    [&](figure const& f) { return f.by == r.text("by"); });
      if (here || r.text("config") != t.config || r.text("phase") != t.phase ||
          std::int64_t(r.number("tokens")) != t.tokens)
        continue;
      figure f{.task = t,
               .by = r.text("by"),
               .type = &bf16,
               .median = r.number("median"),
               .limits = figures_[begin].limits,
               .samples = 1,
               .clean = 1};
      f.rate = double(t.tokens) / f.median;
      f.fraction = r.number("fraction");
      figures_.push_back(f);
      std::printf("%-15s %-16s T=%-6lld %-22s %10.1f us %6.1f TFLOP/s\n", t.config.c_str(),
                  t.phase.c_str(), static_cast<long long>(t.tokens), f.by.c_str(), 1e6 * f.median,
                  tflops(f));
    }
  }

  CUstream_st* on_;
  gpu::products products_;
  gpu::limits_meter meter_;
  double seconds_;
  std::ofstream json_;
  gpu::facts facts_;
  std::vector<figure> figures_;
  std::vector<fg::record> peers_;
};

}  // namespace bench
