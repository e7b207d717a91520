// A whole training step on a GPU: its model FLOP utilisation, and where the time goes.
//
//   bench_cuda_step [--tokens 4096] [--length 2048] [--times 30] [--only quarter,eighth]
//
// A step is what trainer::record recorded: forward, loss, backward, clipping, AdamW, selection
// biases; the figure is the median of replays. Its FLOPs are those of the products and of
// attention's lower triangle, three times the forward pass's; the limit is the rate of a large dense
// product. Stages are measured by themselves, forward and backward, as often as the model has them.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab.hpp>

#include "cuda_layers.hpp"
#include "device.hpp"
#include "words.hpp"

namespace {

namespace fg = finegrain;
using number = bench::gpu::number;

template <fg::config C, int Heads>
inline constexpr auto attending = fg::residual(fg::rmsnorm<C.hidden>{} |
                                               fg::attention<C.hidden, Heads>{});
template <fg::config C>
inline constexpr auto experts = fg::residual(fg::rmsnorm<C.hidden>{} | fg::mixture<C>{});

struct shape {
  int layers, heads, vocabulary;
};
template <fg::config C, shape S>
struct model : fg::named {
  static constexpr auto expr = fg::embedding<S.vocabulary, C.hidden>{} |
                               fg::repeat<S.layers>(attending<C, S.heads> | experts<C>) |
                               fg::rmsnorm<C.hidden>{} | fg::head<C.hidden, S.vocabulary>{};
};

constexpr shape small{6, 8, 32768};

struct settings {
  std::int64_t tokens, length;
  int times;
  std::vector<std::string> only;
};

double median(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}
/// Seconds of a replay of what is enqueued.
double replayed(CUstream_st* on, int times, std::function<void()> const& enqueue) {
  enqueue();
  bench::gpu::graph const graph(on, enqueue);
  bench::gpu::time_each(on, 3, [&] { graph.replay(); });
  return median(bench::gpu::time_each(on, times, [&] { graph.replay(); }));
}

/// Mean cross-entropy.
struct mean_loss {
  std::span<std::int32_t const> targets;
  double operator()(fg::cuda const& on, std::int64_t first, fg::matrix<number const> y,
                    fg::matrix<number> dy) const {
    auto const mine =
        targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(y.rows));
    return fg::cross_entropy(on, y, mine, 1.0 / static_cast<double>(targets.size()), nullptr, dy);
  }
};

struct line {
  char const* what;
  double seconds, flops;
};

/// A residual block, forward and backward.
template <fg::Expr E>
line block(char const* what, int layers, settings const& s, fg::batch const& b, CUstream_st* on) {
  constexpr int D = fg::in_width<E>();
  fg::network<E, fg::cuda> net({.deviation = 0.02}, fg::cuda(on));
  fg::device_buffer<number> x(s.tokens * D), y(s.tokens * D), dx(s.tokens * D);
  bench::gpu::fill_normal(x.data(), x.size(), 1, 1, on);
  auto const rows = [&](auto const& m) { return fg::matrix<number>(m.data(), s.tokens, D); };
  double const one = replayed(on, s.times, [&] {
    net.forward(b, rows(x), rows(y));
    net.backward(rows(x), rows(dx));
  });
  return {what, layers * one,
          static_cast<double>(layers * s.tokens / s.length * fg::training_flops(E{}, s.length))};
}

template <fg::config C, shape S>
void measure(char const* name, settings const& s, CUstream_st* on, double dense, double copy) {
  using E = model<C, S>;
  if (!s.only.empty() && std::find(s.only.begin(), s.only.end(), name) == s.only.end()) return;
  auto const T = static_cast<std::size_t>(s.tokens);
  fg::device_buffer<std::int32_t> ids(s.tokens), targets(s.tokens);
  fg::device_buffer<std::int64_t> starts(s.tokens / s.length + 1);
  std::vector<std::int32_t> words(T + 1);
  std::vector<std::int64_t> borders;
  for (std::size_t t = 0; t < words.size(); ++t)
    words[t] = static_cast<std::int32_t>(fg::random_word(1, t) % S.vocabulary);
  for (std::int64_t t = 0; t <= s.tokens; t += s.length) borders.push_back(t);
  fg::device::runtime::copy(ids.data(), words.data(), ids.bytes(), on);
  fg::device::runtime::copy(targets.data(), words.data() + 1, targets.bytes(), on);
  fg::device::runtime::copy(starts.data(), borders.data(), starts.bytes(), on);
  fg::batch const b{.tokens = s.tokens, .ids = ids, .starts = starts};

  std::vector<line> lines;
  double whole = 0, enqueued = 0, waited = 0;
  double const flops = static_cast<double>(s.tokens / s.length * fg::training_flops(E{}, s.length));
  {
    fg::network<E, fg::cuda> net({.deviation = 0.02}, fg::cuda(on));
    fg::trainer train{net,
                      fg::adamw{.lr = 1e-4},
                      {.schedule = {.warmup = 100},
                       .routing = {.balance = {.expert = 0.001}},
                       .bias = {.speed = 0.001}}};
    auto step = train.record(b, targets);
    auto const timed = [&](auto const& enqueue) {
      bench::gpu::time_each(on, 3, enqueue);
      return median(bench::gpu::time_each(on, s.times, enqueue));
    };
    whole = timed([&] { step(); });
    enqueued = timed([&] { train.enqueue(b, targets); });
    waited = timed([&] { train.step(b, targets); });
    std::printf("%s: %.0f M parameters, loss %.3f, gradient %.3f\n", name,
                1e-6 * static_cast<double>(fg::parameters(E{})), train.report().loss,
                train.report().gradient_norm);
    double const learn =
        replayed(on, s.times, [&] { net.enqueue_learn(b, {}, mean_loss{targets}); });
    lines.push_back({"clipping, AdamW, biases, reports", whole - learn, 0});
  }
  using attention = std::remove_const_t<decltype(attending<C, S.heads>)>;
  using mixture = std::remove_const_t<decltype(experts<C>)>;
  lines.push_back(block<attention>("attention and its norm", S.layers, s, b, on));
  lines.push_back(block<mixture>("experts and their norm", S.layers, s, b, on));
  {
    using last =
        std::remove_const_t<decltype(fg::rmsnorm<C.hidden>{} | fg::head<C.hidden, S.vocabulary>{})>;
    fg::network<last, fg::cuda> net({.deviation = 0.02}, fg::cuda(on));
    fg::device_buffer<number> x(s.tokens * C.hidden), dx(s.tokens * C.hidden);
    bench::gpu::fill_normal(x.data(), x.size(), 1, 1, on);
    fg::matrix<number> const rows{x.data(), s.tokens, C.hidden};
    double const seconds = replayed(on, s.times, [&] {
      net.enqueue_learn({.tokens = s.tokens}, rows, mean_loss{targets},
                        {dx.data(), s.tokens, C.hidden});
    });
    lines.push_back(
        {"head and loss", seconds, static_cast<double>(fg::training_flops(last{}, s.tokens))});
  }
  double rest = whole;
  for (line const& l : lines) rest -= l.seconds;
  lines.push_back({"embedding, and what else", rest, 0});

  std::printf(
      "%-34s %8.3f ms  %5.0f TFLOP/s  %4.1f %% of a dense product (%.0f), copying %.2f TB/s\n",
      "step, replayed", 1e3 * whole, 1e-12 * flops / whole, 100 * flops / whole / dense,
      1e-12 * dense, 1e-12 * copy);
  std::printf("%-34s %8.3f ms\n%-34s %8.3f ms\n", "step, enqueued", 1e3 * enqueued,
              "step, waited for", 1e3 * waited);
  for (line const& l : lines) {
    std::printf("  %-32s %8.3f ms  %4.1f %%", l.what, 1e3 * l.seconds, 100 * l.seconds / whole);
    if (l.flops > 0) std::printf("  %5.0f TFLOP/s", 1e-12 * l.flops / l.seconds);
    std::printf("\n");
  }
}

}  // namespace

int main(int count, char** given) try {
  fg::options asked(count, given);
  settings s{};
  s.tokens = asked.number("--tokens", 4096);
  s.length = asked.number("--length", 2048);
  s.times = static_cast<int>(asked.number("--times", 30));
  s.only = bench::words_of(asked.text("--only", ""));
  asked.done();
  for (auto const& name : s.only)
    if (name != "quarter" && name != "eighth")
      throw fg::invalid_argument("there is no \"%s\" to measure", name.c_str());
  if (s.length < 1 || s.tokens < s.length || s.tokens % s.length != 0 || s.times < 1)
    throw fg::invalid_argument("--tokens is some times --length");
  if (fg::device::runtime::devices() == 0) throw fg::cuda_error("there is no GPU");
  bench::gpu::stream const on;
  double dense = 0, copy = 0;
  {
    bench::gpu::products products(1);
    auto const limits = bench::gpu::limits_meter(products).measure(10);
    dense = limits.flops, copy = limits.bytes;
  }
  measure<bench::quarter, small>("quarter", s, on.get(), dense, copy);
  measure<bench::eighth, small>("eighth", s, on.get(), dense, copy);
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench cuda_step: %s\n", e.what());
  return 1;
}
