// The training step of the demo's models: tokens a second, how much of the machine's peak that is, where
// the time goes, and PyTorch beside it.
//
//   bench_train [--rounds 7] [--seconds 0.5] [--only dense,wide] [--text FILE] [--python python3]
//
// A round measures, one after the other: the peak of multiply-adds, steps of finegrain, steps of finegrain
// with clocks (plan/timed.hpp), from which the shares come, and steps of PyTorch (bench/train_torch.py;
// left out where Python has no torch). Figures are medians over rounds; the fastest rounds are compared
// too, since threads that wait for one another suffer most where others use the cores. PyTorch starts
// from the same weights and reads the same text: its losses must agree. out/bench/train.jsonl has a line
// a model.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <finegrain/lab.hpp>
#include <functional>
#include <map>
#include <memory>

#include "child.hpp"
#include "probe.hpp"
#include "quiet.hpp"
#include "words.hpp"

namespace {

namespace fg = finegrain;

// As in examples/04_ablation.cpp: two layers, a ladder, and a dense model as active as its rungs.
template <int D, int Heads, fg::Expr FeedForward>
struct decoder : fg::named {
  static constexpr auto block = fg::residual(fg::rmsnorm<D>{} | fg::attention<D, Heads>{}) |
                                fg::residual(fg::rmsnorm<D>{} | FeedForward{});
  static constexpr auto expr =
      fg::embedding<256, D>{} | fg::repeat<2>(block) | fg::rmsnorm<D>{} | fg::head<D, 256>{};
};
constexpr fg::config base = fg::conventional<16, 2>({.hidden = 64, .width = 128});
using ladder = fg::ladder<base, base.isolated(1), base.segmented(2).isolated(1),
                          base.segmented(4).isolated(1)>;
constexpr fg::config wide =
    fg::conventional<16, 2>({.hidden = 512, .width = 1024}).segmented(4).isolated(1);

struct settings {
  int rounds;
  double seconds;  // of a sample
  std::vector<std::string> only;
  std::string text, python, folder;
};
constexpr double rate = 2e-3, balance = 0.01;

/// The parts that a step's time is shared out to, in milliseconds.
using shares = std::map<std::string, double>;
constexpr char const* parts[] = {"experts forward",
                                 "experts backward",
                                 "attention forward",
                                 "attention backward",
                                 "norms",
                                 "embedding",
                                 "head and loss",
                                 "optimizer",
                                 "rest"};

/// What one line of explain is: a fused residual is called by its last stage.
std::string part_of(std::vector<fg::explained> const& lines, std::size_t at) {
  std::string name = lines[at].name;
  for (std::size_t i = at + 1; i < lines.size() && lines[i].plan.empty(); ++i)
    if (lines[i].depth == lines[at].depth + 1 && lines[at].name == "residual") name = lines[i].name;
  if (name == "mixture" || name == "mlp") return "experts";
  if (name == "rmsnorm") return "norms";
  return name == "head" ? "head and loss" : name;
}
/// Milliseconds of a step; `learning` is what forward, loss and backward took, with what the trainer
/// does about it.
shares shares_of(std::vector<fg::explained> const& lines, double steps, double learning,
                 double optimizing) {
  shares all;
  double known = 0;
  for (std::size_t i = 0; i + 1 < lines.size(); ++i) {
    if (lines[i].plan.empty() || lines[i].plan == "composed") continue;
    std::string const part = part_of(lines, i);
    bool const split = part == "experts" || part == "attention";
    auto const& t = lines[i].times;
    if (split) {
      all[part + " forward"] += 1e3 * t.forward.seconds / steps;
      all[part + " backward"] += 1e3 * t.backward.seconds / steps;
    } else {
      all[part] += 1e3 * t.seconds() / steps;
    }
    known += t.seconds();
  }
  all["optimizer"] = 1e3 * optimizing / steps;
  all["rest"] = 1e3 * (learning - known) / steps;
  return all;
}

/// A model and its numbers, and what can be asked of it.
struct model {
  std::string name;
  fg::config moe;  // routed = 0: none
  int hidden, heads;
  std::int64_t sequences, length;
  double parameters, active, flops;  // flops of a step

  std::function<void(std::string const&)> save;                        // weights, to a file
  std::function<double(fg::windows const&)> step;                      // its loss
  std::function<shares(std::vector<fg::windows> const&)> timed_steps;  // a step's milliseconds

  double tokens() const { return double(sequences * length); }
};

template <fg::Expr E>
model make(std::string name, fg::config moe, int hidden, int heads, std::int64_t sequences,
           std::int64_t length) {
  struct state {
    fg::initialisation start{.deviation = 0.1};
    fg::adamw how{.lr = rate};
    fg::training training{.routing = {.balance = {.expert = balance}}};
    fg::network<E, fg::cpu> plain{start};
    fg::network<fg::timed<E, fg::cpu>, fg::cpu> timed{start};
    fg::trainer<fg::network<E, fg::cpu>> train{plain, how, training};
    fg::trainer<fg::network<fg::timed<E, fg::cpu>, fg::cpu>> watched{timed, how, training};
  };
  auto const s = std::make_shared<state>();
  auto const timed_steps = [s](std::vector<fg::windows> const& text) {
    fg::timings times;
    double learning = 0, optimizing = 0;
    for (auto const& w : text) {
      fg::batch b = w.batch();
      b.times = &times;
      learning += bench::seconds_of([&] { s->watched.gather(b, w.y); });
      optimizing += bench::seconds_of([&] { s->watched.finish(); });
    }
    return shares_of(fg::explain_nodes<E, fg::cpu>({}, times), double(text.size()), learning,
                     optimizing);
  };
  return {.name = std::move(name),
          .moe = moe,
          .hidden = hidden,
          .heads = heads,
          .sequences = sequences,
          .length = length,
          .parameters = double(fg::parameters(E{})),
          .active = double(fg::active_parameters(E{})),
          .flops = double(sequences * fg::training_flops(E{}, length)),
          .save = [s](std::string const& path) { s->train.save(path); },
          .step = [s](fg::windows const& w) { return s->train.step(w.batch(), w.y).loss; },
          .timed_steps = timed_steps};
}

/// The same model in PyTorch, in a process of its own.
class peer {
 public:
  struct sample {
    double seconds;
    std::vector<double> losses;
  };

  /// Starts it on the weights that are in the folder, or does not, where Python has no PyTorch.
  peer(settings const& s, model const& m, std::vector<fg::windows> const& text)
      : routed_(m.moe.routed > 0) {
    fg::record r;
    auto const set = [&](char const* what, auto value) { r.set(what, double(value)); };
    set("hidden", m.hidden), set("layers", 2), set("heads", m.heads);
    set("routed", m.moe.routed), set("top_k", m.moe.top_k), set("shared", m.moe.shared);
    set("sequences", m.sequences), set("length", m.length);
    set("lr", rate), set("balance", balance), set("weight_decay", fg::adamw{}.weight_decay);
    std::string const line = r.line();
    fg::atomic_file numbers(s.folder + "/model.json"), ids(s.folder + "/ids");
    numbers.write(line.data(), line.size());
    auto const length = static_cast<std::size_t>(m.length);
    for (auto const& w : text)
      for (std::size_t at = 0; at < w.x.size(); at += length) {
        ids.write(w.x.data() + at, length * sizeof w.x[0]);
        ids.write(w.y.data() + at + length - 1, sizeof w.y[0]);
      }
    numbers.commit();
    ids.commit();
    auto const script = std::filesystem::path(__FILE__).parent_path() / "train_torch.py";
    process_ = std::make_unique<bench::child>(std::vector<std::string>{
        s.python, script.string(), s.folder + "/model.json", s.folder + "/weights.safetensors",
        s.folder + "/ids", std::to_string(fg::default_threads().workers())});
    if (process_->line() != "ready") process_.reset();
  }
  explicit operator bool() const { return process_ != nullptr; }

  /// How experts are run.
  std::vector<std::string> ways() const {
    return routed_ ? std::vector<std::string>{"loop", "padded"} : std::vector<std::string>{"dense"};
  }
  sample steps(std::int64_t count, std::string const& way) const {
    auto const answer = process_->ask(way + " " + std::to_string(count));
    auto const r = answer ? fg::record::parse(*answer) : std::nullopt;
    if (!r) throw std::runtime_error("bench/train_torch.py has failed");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // its threads look out for work
    return {r->number("seconds"), r->numbers("losses")};
  }

 private:
  bool routed_;
  std::unique_ptr<bench::child> process_;
};

void report(settings const& s, model const& m, fg::corpus const& text, std::FILE* json) {
  constexpr std::size_t batches = 32, compared = 10;
  std::vector<fg::windows> windows(batches);
  for (std::size_t i = 0; i < batches; ++i)
    text.draw(1, std::int64_t(i), m.sequences, m.length, windows[i]);
  m.save(s.folder + "/weights.safetensors");
  peer torch(s, m, windows);

  double difference = 0;
  if (torch) {
    auto const losses = torch.steps(compared, torch.ways().front()).losses;
    for (std::size_t i = 0; i < compared; ++i)
      difference = std::max(difference, std::abs(m.step(windows[i]) - losses.at(i)));
    if (!(difference < 0.02)) throw std::runtime_error(m.name + ": PyTorch's losses are others");
  }
  m.timed_steps({windows[0]});  // and its memory is there
  auto const count = std::max<std::int64_t>(
      1, std::llround(s.seconds / bench::seconds_of([&] { m.step(windows[0]); })));
  std::int64_t const fewer = (count + 3) / 4;
  std::vector<fg::windows> some;
  for (std::int64_t i = 0; i < count; ++i) some.push_back(windows[std::size_t(i) % batches]);

  fg::cpu const on;
  std::vector<double> peak, ours, ratio;
  std::map<std::string, std::vector<double>> theirs, part;
  int clean = 0;
  for (int round = 0; round < s.rounds; ++round) {
    bench::wait_until_quiet(1);
    peak.push_back(bench::peak_flops(on));
    bench::quiet_watch const watch;
    ours.push_back(bench::seconds_of([&] {
                     for (auto const& w : some) m.step(w);
                   }) /
                   double(count));
    clean += watch.clean();
    for (auto const& [what, ms] : m.timed_steps(some)) part[what].push_back(ms);
    double best = INFINITY;
    if (torch)
      for (auto const& way : torch.ways()) {
        theirs[way].push_back(torch.steps(fewer, way).seconds / double(fewer));
        best = std::min(best, theirs[way].back());
      }
    ratio.push_back(best / ours.back());
  }

  double const seconds = bench::median(ours), of_peak = m.flops / seconds / bench::median(peak);
  std::printf(
      "\n%s: %lld x %lld tokens, %.1f M parameters, %.2f M active\n"
      "  finegrain         %9.0f tokens/s%s, %.1f %% of %.0f GFLOP/s\n",
      m.name.c_str(), static_cast<long long>(m.sequences), static_cast<long long>(m.length),
      m.parameters * 1e-6, m.active * 1e-6, m.tokens() / seconds, 2 * clean < s.rounds ? "*" : "",
      100 * of_peak, bench::median(peak) * 1e-9);
  fg::record r;
  r.set("bench", "train").set("model", m.name).set("tokens", m.tokens()).set("seconds", seconds);
  r.set("tokens_per_second", m.tokens() / seconds).set("flops", m.flops);
  r.set("peak", bench::median(peak)).set("of_peak", of_peak);
  r.set("threads", double(on.threads.workers()));
  r.set("rounds", double(s.rounds)).set("clean", double(clean));
  auto const fastest = [](std::vector<double> const& all) {
    return *std::min_element(all.begin(), all.end());
  };
  double least = INFINITY;  // of all rounds and ways
  r.set("fastest", m.tokens() / fastest(ours));
  for (auto const& [way, all] : theirs) {
    least = std::min(least, fastest(all));
    std::printf("  PyTorch, %-8s %9.0f tokens/s\n", way.c_str(), m.tokens() / bench::median(all));
    r.set("torch_" + way, m.tokens() / bench::median(all));
  }
  if (torch) {
    std::printf(
        "  finegrain is %.2f times the faster, %.2f by the fastest rounds; losses of %zu steps "
        "differ by %.0e at most\n",
        bench::median(ratio), least / fastest(ours), compared, difference);
    r.set("fastest_torch", m.tokens() / least);
    r.set("times_torch", bench::median(ratio)).set("loss_difference", difference);
  }
  double total = 0;
  for (char const* what : parts) total += bench::median(part[what]);
  for (char const* what : parts) {
    double const ms = bench::median(part[what]);
    std::printf("    %-19s %8.3f ms %5.1f %%\n", what, ms, 100 * ms / total);
    r.set(what, ms);
  }
  std::fprintf(json, "%s\n", r.line().c_str());
  std::fflush(json);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  fg::options given(argc, argv);
  settings s{.rounds = static_cast<int>(given.number("--rounds", 7)),
             .seconds = std::atof(given.text("--seconds", "0.5").c_str()),
             .only = bench::words_of(given.text("--only", "")),
             .text = given.text("--text", ""),
             .python = given.text("--python", "python3"),
             .folder = "out/bench/train"};
  given.done();
  std::filesystem::create_directories(s.folder);
  auto const text =
      s.text.empty()
          ? fg::corpus::first_of({{"out/corpus/jargon.txt"}, {"/usr/share/common-licenses/GPL-3"}})
          : fg::corpus::read({s.text});
  std::FILE* const json = std::fopen("out/bench/train.jsonl", "w");
  if (!json) throw std::runtime_error("cannot write out/bench/train.jsonl");

  auto const run = [&](std::string const& name, auto&& make) {
    if (s.only.empty() || std::find(s.only.begin(), s.only.end(), name) != s.only.end())
      report(s, make(name), text, json);
  };
  fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) {
    run(fg::rung_name(C),
        [](auto name) { return make<decoder<64, 4, fg::mixture<C>>>(name, C, 64, 4, 4, 128); });
  });
  run("dense", [](auto name) {
    using feed_forward = fg::mlp<64, base.active() * base.width>;
    return make<decoder<64, 4, feed_forward>>(name, {}, 64, 4, 4, 128);
  });
  run("wide", [](auto name) {
    return make<decoder<512, 8, fg::mixture<wide>>>(name, wide, 512, 8, 4, 512);
  });
  std::fclose(json);
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
