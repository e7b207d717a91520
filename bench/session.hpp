// Measuring contenders beside one another and the machine's limits; the lines that come of it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cmath>
#include <cstdio>
#include <finegrain/lab/jsonl.hpp>
#include <finegrain/lab/text.hpp>
#include <functional>
#include <string>
#include <vector>

#include "probe.hpp"
#include "quiet.hpp"

namespace bench {

/// How weights are stored, with their scales, and which products are the limit of computing with them.
struct dtype {
  char const* name;
  double bytes;  // a number
  double limits::*peak;
};
inline constexpr dtype f32{"f32", 4, &limits::f32}, bf16{"bf16", 2, &limits::bf16},
    mixed{"mixed", 4, &limits::bf16},  // f32 weights, products in bf16
    fp8{"fp8", 8.125 / 8, &limits::bf16}, int8{"int8", 1, &limits::int8},
    int8_block{"int8_block", 8.5 / 8, &limits::int8}, int4{"int4", 4.5 / 8, &limits::int8};

/// Someone who computes a layer. `run(i)` is one call, on the i-th of the line's routings.
struct contender {
  std::string name;
  dtype const* type;
  std::function<void(std::int64_t)> run;
  bool lingers = false;  // its threads look out for work for a while, and are in the others' way
  std::function<void()> before = {};  // makes what a call needs, and is not timed

  bool ours() const { return name.rfind("finegrain", 0) == 0; }
};

/// What a call does, whoever does it.
struct task {
  std::string config, phase;
  std::int64_t tokens;
  double flops;
  double numbers;  // weights read, and gradients written
};

/// One contender's figures in one line.
struct figure {
  bench::task task;
  std::string by;
  dtype const* type;
  double median = 0, best = 0;    // seconds
  double rate = 0, fraction = 0;  // tokens a second; part of the nearer limit's rate
  bool reading = false;           // that limit is memory, not arithmetic
  bench::limits limits = {};      // medians
  std::size_t samples = 0, clean = 0;
  bool ours = false;

  /// Whether the medians are of clean samples alone: one or two say less than all of them.
  bool undisturbed() const { return clean >= 3; }
};

/// The least time that a task can take, and whether that is for reading.
inline std::pair<double, bool> least_time(task const& t, dtype const& type, limits const& l) {
  double const peak = l.*type.peak > 0 ? l.*type.peak : l.f32;
  double const computing = t.flops / peak, reading = t.numbers * type.bytes / l.read;
  return {std::max(computing, reading), reading > computing};
}

class session {
 public:
  session(fg::cpu const& on, std::string const& path, double seconds, bool quick)
      : on_(on),
        machine_(on),
        seconds_(seconds),
        quick_(quick),
        json_(std::fopen(path.c_str(), "w")) {
    if (!json_) throw std::runtime_error("cannot write " + path);
  }
  session(session const&) = delete;
  ~session() { std::fclose(json_); }

  std::vector<figure> const& figures() const { return figures_; }
  static std::string limit_of(figure const& f) {
    if (f.reading) return "reading";
    double limits::*const peak = f.limits.*f.type->peak > 0 ? f.type->peak : &limits::f32;
    return peak == &limits::f32 ? "f32 peak" : peak == &limits::bf16 ? "bf16 peak" : "int8 peak";
  }

  /// Measures everyone in turn, with the limits between, until all have the clean samples that are
  /// wanted or the time is up; prints the lines. `result` reads what a call computed: all must
  /// agree with the first.
  void line(task const& t, std::vector<contender> const& contenders,
            std::function<std::vector<float>()> const& result) {
    if (contenders.empty()) return;
    std::vector<std::vector<sample>> samples(contenders.size());
    std::vector<float> first;
    for (auto const& c : contenders) {
      call(c, 0);
      if (first.empty())
        first = result();
      else
        check_agreement(t, c, first, result());
    }
    wait_until_quiet(quick_ ? 0.5 : 2);
    limits now = machine_.measure();
    double spent = 0;
    for (std::int64_t round = 0; round < (quick_ ? 2 : 3) || spent < seconds_; ++round) {
      bool enough = true;
      spent += seconds_of([&] {
        for (std::size_t i = 0; i < contenders.size(); ++i) {
          auto& mine = samples[i];
          if (clean(mine) >= wanted(t.tokens)) continue;
          enough = false;
          if (t.tokens >= 64 || round % 8 == 0) now = machine_.measure();
          mine.push_back(call(contenders[i], round));
          mine.back().limits = now;
        }
      });
      if (enough) break;
    }
    std::size_t const begin = figures_.size();
    for (std::size_t i = 0; i < contenders.size(); ++i)
      figures_.push_back(judge(t, contenders[i], samples[i]));
    print(begin);
  }

  /// A part of the layer's time, for the log alone.
  void note(task const& t, std::string const& by, std::vector<double> const& seconds,
            double share) {
    fg::record r = start_of(t, by, f32.name);
    r.set("median", median(seconds)).set("min", *std::min_element(seconds.begin(), seconds.end()));
    r.set("value", share).set("unit", "of layer").set("limit", "layer").set("fraction", share);
    write(r.line());
  }

 private:
  struct sample {
    double seconds;
    bool clean;
    bench::limits limits = {};
  };

  std::size_t wanted(std::int64_t tokens) const {
    if (tokens <= 16) return quick_ ? 12 : 64;
    if (tokens <= 64) return quick_ ? 7 : 15;
    return tokens <= 512 ? (quick_ ? 3 : 7) : 4;
  }
  static std::size_t clean(std::vector<sample> const& all) {
    return std::size_t(std::count_if(all.begin(), all.end(), [](sample s) { return s.clean; }));
  }
  sample call(contender const& c, std::int64_t round) {
    if (c.before) c.before();
    machine_.forget();
    quiet_watch const watch;
    double const seconds = seconds_of([&] { c.run(round); });
    bool const clean = watch.clean();
    if (c.lingers)  // cores that sleep meanwhile are slow
      for (double waited = 0; waited < 0.25;) waited += seconds_of([&] { machine_.measure(); });
    return {seconds, clean};
  }

  /// Contenders may round differently, not compute something else.
  static void check_agreement(task const& t, contender const& c, std::vector<float> const& expected,
                              std::vector<float> const& got) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      difference += std::pow(double(got[i]) - double(expected[i]), 2);
      size += std::pow(double(expected[i]), 2);
    }
    double const relative = std::sqrt(difference / size);
    double const most = c.type == &f32       ? 1e-4
                        : c.type == &mixed   ? 0.02
                        : c.type->bytes == 2 ? 0.02
                                             : 0.4;
    if (!(relative <= most))
      throw std::runtime_error(c.name + " in " + c.type->name + " differs by " +
                               fg::text::shortest(relative) + " in " + t.config + ", " + t.phase +
                               ", " + std::to_string(t.tokens) + " tokens");
  }

  static figure judge(task const& t, contender const& c, std::vector<sample> all) {
    figure f{.task = t, .by = c.name, .type = c.type, .samples = all.size(), .clean = clean(all)};
    f.ours = c.ours();
    if (f.undisturbed()) std::erase_if(all, [](sample s) { return !s.clean; });
    auto const median_of = [&](auto&& get) {
      std::vector<double> values;
      for (sample const& s : all) values.push_back(get(s));
      return median(values);
    };
    for (double limits::*l : {&limits::f32, &limits::bf16, &limits::int8, &limits::read})
      f.limits.*l = median_of([l](sample const& s) { return s.limits.*l; });
    f.median = median_of([](sample const& s) { return s.seconds; });
    f.best = std::min_element(all.begin(), all.end(), [](auto const& a, auto const& b) {
               return a.seconds < b.seconds;
             })->seconds;
    f.rate = double(t.tokens) / f.median;
    f.fraction = median_of(
        [&](sample const& s) { return least_time(t, *c.type, s.limits).first / s.seconds; });
    f.reading = least_time(t, *c.type, f.limits).second;
    return f;
  }

  void print(std::size_t begin) {
    limits const& l = figures_[begin].limits;
    task const& t = figures_[begin].task;
    std::printf("\n%s, %s, T = %lld: f32 %.0f, bf16 %.0f, int8 %.0f G/s, reading %.1f GB/s\n",
                t.config.c_str(), t.phase.c_str(), static_cast<long long>(t.tokens), l.f32 * 1e-9,
                l.bf16 * 1e-9, l.int8 * 1e-9, l.read * 1e-9);
    for (std::size_t i = begin; i < figures_.size(); ++i) {
      figure const& f = figures_[i];
      fg::record peers;
      std::string times;
      for (std::size_t j = begin; j < figures_.size(); ++j) {
        figure const& other = figures_[j];
        if (f.ours && !other.ours)
          peers.set(other.by + " " + other.type->name, f.rate / other.rate);
        if (!f.ours && other.ours && other.type == f.type)
          times += "  " + other.by + " is " + fg::text::fixed(other.rate / f.rate, 2) + "x";
      }
      std::printf("  %-10s  %-17s %9.1f tokens/s%c %6.1f %% of %-9s%s\n", f.type->name,
                  f.by.c_str(), f.rate, f.undisturbed() ? ' ' : '*', 100 * f.fraction,
                  limit_of(f).c_str(), times.c_str());
      fg::record r = start_of(t, f.by, f.type->name);
      r.set("median", f.median).set("min", f.best).set("value", f.rate).set("unit", "tokens/s");
      r.set("limit", limit_of(f)).set("fraction", f.fraction);
      r.set("samples", double(f.samples)).set("clean", double(f.clean));
      r.set("f32_flops", f.limits.f32).set("bf16_flops", f.limits.bf16);
      r.set("int8_ops", f.limits.int8).set("read_bytes", f.limits.read);
      std::string text = r.line();
      text.pop_back();
      write(text + ", \"peers\": " + peers.line() + "}");
    }
    std::fflush(stdout);
  }
  fg::record start_of(task const& t, std::string const& by, char const* type) const {
    fg::record r;
    r.set("bench", "cpu").set("config", t.config).set("dtype", type).set("phase", t.phase);
    r.set("tokens", double(t.tokens)).set("threads", double(on_.threads.workers())).set("by", by);
    return r;
  }
  void write(std::string const& text) {
    std::fprintf(json_, "%s\n", text.c_str());
    std::fflush(json_);
  }

  fg::cpu const& on_;
  machine machine_;
  double seconds_;
  bool quick_;
  std::FILE* json_;
  std::vector<figure> figures_;
};

}  // namespace bench
