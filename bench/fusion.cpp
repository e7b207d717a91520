// What each fused plan of the cpu executor gains over the plans that it is put together from.
//
//   bench_fusion [seconds]     about so long for each row, default 1.5
//
// Both plans run on the same weights and memory in turn; a sample in which others used the cores is
// taken again. Times are medians, and the gain is the median over pairs of samples. A star marks a
// row without three clean pairs.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/init.hpp>
#include <finegrain/plan/weights.hpp>
#include <stdexcept>
#include <string>

#include "../examples/byte_model.hpp"
#include "probe.hpp"
#include "quiet.hpp"

namespace {

namespace fg = finegrain;
using gradient = fg::gradients;

/// A norm under a name, which hides the patterns that begin with it.
template <int D>
struct hidden_norm : fg::named {
  static constexpr auto expr = fg::rmsnorm<D>{};
};

/// An expression's plan on memory that others use too.
struct memory {
  fg::buffer<float> weights, gradients, x, y, dy, dx;
  fg::buffer<> workspace;

  void fit(std::int64_t numbers, std::int64_t activations, std::int64_t bytes) {
    for (auto* b : {&weights, &gradients}) grow(*b, numbers);
    for (auto* b : {&x, &y, &dy, &dx}) grow(*b, activations);
    if (bytes > workspace.size()) workspace = fg::buffer<>(bytes);
  }

 private:
  static void grow(fg::buffer<float>& b, std::int64_t size) {
    if (size <= b.size()) return;
    b = fg::buffer<float>(size);
    std::fill(b.begin(), b.end(), 0.0f);
  }
};

template <fg::Expr E>
struct runner {
  static constexpr int D = fg::in_width<E>();
  using plan = fg::plan<fg::cpu, E>;

  fg::cpu const& on;
  memory& in;
  fg::batch const& batch;

  void prepare() const {
    std::int64_t bytes = 0;
    for (bool const training : {false, true}) {
      fg::extent const e = extent(training);
      bytes = std::max(bytes, fg::saved_bytes<fg::cpu, E>(e) + fg::scratch_bytes<fg::cpu, E>(e));
    }
    in.fit(fg::weights_size<E>(), batch.tokens * D, bytes);
  }
  void run(bool training) const {
    fg::extent const e = extent(training);
    fg::arena memory(in.workspace.data(), in.workspace.size());
    typename plan::saved const saved(memory, e);
    fg::arena const scratch(in.workspace.data() + memory.used(),
                            in.workspace.size() - memory.used());
    fg::pass<fg::cpu> const pass{on, batch, scratch, e, gradient::overwrite, nullptr};
    auto const w = fg::bind_weights<E, float const>(in.weights.data());
    plan::forward(pass, w, saved, rows(in.x), rows(in.y));
    if (!training) return;
    plan::backward(pass, w, saved, rows(in.x), rows(in.dy),
                   fg::bind_weights<E, float>(in.gradients.data()), rows(in.dx));
  }

 private:
  fg::extent extent(bool training) const { return {batch.tokens, on.threads.workers(), training}; }
  fg::matrix<float> rows(fg::buffer<float> const& b) const { return {b.data(), batch.tokens, D}; }
};

struct table {
  double seconds;  // a row
  fg::cpu on = {};
  memory in = {};

  /// Two rows: forward, and forward with backward.
  template <fg::Expr Fused, fg::Expr Composed>
  void rows(char const* what, std::string const& shape, fg::batch const& b) {
    static_assert(fg::weights_size<Fused>() == fg::weights_size<Composed>());
    runner<Fused> const fused{on, in, b};
    runner<Composed> const composed{on, in, b};
    fused.prepare();
    composed.prepare();
    fill(fg::weights_size<Fused>(), b.tokens * fg::in_width<Fused>());
    for (bool const training : {false, true}) {
      check(composed, fused, training);
      row(what, shape, training, composed, fused);
    }
  }

 private:
  void fill(std::int64_t weights, std::int64_t activations) {
    auto normals = [&](fg::buffer<float>& to, std::int64_t count, std::uint64_t seed,
                       double scale) {
      constexpr std::int64_t piece = 1 << 14;
      on.threads((count + piece - 1) / piece, [&](std::int64_t task, int) {
        for (std::int64_t i = task * piece; i < std::min(count, (task + 1) * piece); ++i)
          to[i] =
              static_cast<float>(scale * fg::random_normal(seed, static_cast<std::uint64_t>(i)));
      });
    };
    normals(in.weights, weights, 1, 0.05);
    normals(in.x, activations, 2, 1);
    normals(in.dy, activations, 3, 1);
  }

  /// Both compute the same, but for rounding.
  void check(auto const& composed, auto const& fused, bool training) {
    composed.run(training);
    std::int64_t const size = composed.batch.tokens * composed.D;
    std::vector<float> expected(in.y.begin(), in.y.begin() + size);
    expected.insert(expected.end(), in.dx.begin(), in.dx.begin() + (training ? size : 0));
    fused.run(training);
    double error = 0, sum = 0;
    for (std::int64_t i = 0; i < std::int64_t(expected.size()); ++i) {
      double const exact = expected[std::size_t(i)], got = i < size ? in.y[i] : in.dx[i - size];
      error += (got - exact) * (got - exact);
      sum += exact * exact;
    }
    if (!(std::sqrt(error / sum) < 1e-5))
      throw std::runtime_error("a fused plan computes something else");
  }

  void row(char const* what, std::string const& shape, bool training, auto const& composed,
           auto const& fused) const {
    std::vector<double> before, after, gain, any[3];
    double spent = 0;
    for (int i = 0; i < 3 || (spent < seconds && gain.size() < 300); ++i) {
      bench::quiet_watch const watch;
      double pair[2] = {};
      for (int j : {i % 2, 1 - i % 2})
        pair[j] = bench::seconds_of([&] { j == 0 ? composed.run(training) : fused.run(training); });
      spent += pair[0] + pair[1];
      bool const clean = watch.clean();
      auto keep = [&](std::vector<double>& b, std::vector<double>& a, std::vector<double>& g) {
        b.push_back(pair[0]);
        a.push_back(pair[1]);
        g.push_back(pair[0] / pair[1]);
      };
      keep(any[0], any[1], any[2]);
      if (clean) keep(before, after, gain);
    }
    bool const enough = gain.size() >= 3;
    std::printf("%-30s  %-26s %-18s %9.3f  %9.3f  %6.3fx%s\n", what, shape.c_str(),
                training ? "forward, backward" : "forward",
                1e3 * bench::median(enough ? before : any[0]),
                1e3 * bench::median(enough ? after : any[1]), bench::median(enough ? gain : any[2]),
                enough ? "" : " *");
    std::fflush(stdout);
  }
};

template <fg::config C, class Attention>
void all(table& t, std::string const& name, fg::batch const& b) {
  constexpr auto norm = fg::rmsnorm<C.hidden>{};
  constexpr auto hidden = hidden_norm<C.hidden>{};
  constexpr auto mixture = fg::mixture<C>{};
  using parts = decltype(fg::shared_experts<C>{} + fg::routed_experts<C>{});
  using attention = decltype(fg::residual(norm | Attention{}));
  std::string const shape = name + ", T = " + std::to_string(b.tokens);
  t.rows<fg::mixture<C>, parts>("mixture", shape, b);
  t.rows<decltype(fg::residual(norm | mixture)), decltype(fg::residual(hidden | mixture))>(
      "residual(rmsnorm | mixture)", shape, b);
  t.rows<attention, decltype(fg::residual(hidden | Attention{}))>("residual(rmsnorm | attention)",
                                                                  shape, b);
}

}  // namespace

int main(int argc, char** argv) {
  table t{argc > 1 ? std::atof(argv[1]) : 1.5};
  std::printf("%d threads; milliseconds\n%-30s  %-26s %-18s %9s  %9s  %7s\n",
              t.on.threads.workers(), "", "", "", "composed", "fused", "gain");

  constexpr auto a = small_reader;
  std::vector<std::int64_t> starts;  // sequences of 128 bytes, as the demo trains
  for (std::int64_t s = 0; s <= 2048; s += 128) starts.push_back(s);
  all<a.moe, fg::attention<a.hidden, a.heads, a.kv_heads, a.head_dim>>(
      t, "byte model, 16 x 128", {.tokens = 2048, .starts = starts});

  constexpr fg::config big{.hidden = 2048, .width = 1408, .routed = 8, .top_k = 3, .shared = 1};
  for (std::int64_t const tokens : {1, 64, 512})
    all<big, fg::attention<big.hidden, 16>>(t, "16B's widths", {.tokens = tokens});
}
