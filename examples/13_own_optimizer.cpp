// An optimiser of one's own: Muon for the matrices of experts, AdamW for the rest. Muon moves a
// matrix along its momentum with all singular values made nearly 1, by five steps of a
// Newton-Schulz iteration.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <string>
#include <utility>
#include <vector>

namespace fg = finegrain;

// [example]
template <class S>
using rows = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct muon : fg::update_rule {
  double momentum = 0.95;

  std::string settings() const override { return "muon " + std::to_string(momentum); }
  bool move(fg::weight_update<float> const& w) const override { return step(w); }
  bool move(fg::weight_update<double> const& w) const override { return step(w); }

  template <class S>
  bool step(fg::weight_update<S> const& w) const {
    if (!fg::matches(w.name, "*experts.*") && !fg::matches(w.name, "*shared.*"))
      return false;  // AdamW moves routers, gains, and all else
    auto const [r, c] = std::pair(w.weight.rows, w.weight.cols);
    Eigen::Map<rows<S>> weight(w.weight.data, r, c), average(w.first.data, r, c);
    Eigen::Map<rows<S> const> const gradient(w.gradient.data, r, c);

    average = S(momentum) * average + S(w.scale) * gradient;
    rows<S> x = S(w.scale) * gradient + S(momentum) * average;  // Nesterov's
    if (r > c) x.transposeInPlace();
    x /= x.norm() + S(1e-7);
    for (int i = 0; i < 5; ++i) {
      rows<S> const a = x * x.transpose();
      x = (S(3.4445) * x + (S(-4.7750) * a + S(2.0315) * a * a) * x).eval();
    }
    if (r > c) x.transposeInPlace();
    // As large as AdamW's steps are [Moonlight].
    S const size = S(0.2) * std::sqrt(S(std::max(r, c)));
    weight = S(1 - w.decay) * weight - S(w.rate) * size * x;
    return true;
  }
};
// [/example]

constexpr fg::config moe{.hidden = 32, .width = 16, .routed = 16, .top_k = 4, .shared = 1};

int main() {
  constexpr std::int64_t T = 256;
  fg::network<fg::mixture<moe>, fg::cpu> net({.deviation = 0.1});
  std::vector<float> x(T * moe.hidden), target(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(fg::random_normal(1, i));
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = x[i] * x[(i + 1) % x.size()];
  fg::matrix<float const> const in(x.data(), T, moe.hidden), out(target.data(), T, moe.hidden);

  muon const rule;
  fg::trainer train{net, {.lr = 1e-2}, {.update = &rule}};
  double const before = train.evaluate(in, out);
  for (int step = 0; step < 100; ++step) train.step(in, out);
  double const after = train.evaluate(in, out);
  std::printf("loss %.3f, after 100 steps %.3f\n", before, after);
  return after < before / 2 ? 0 : 1;
}
