// ReLU routing, as in ReMoE: an expert's weight is relu(z) of its own number z, and a token is sent to
// all experts whose weight is not 0. Nothing is chosen, so every weight is continuous in x.
#include <cmath>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <limits>
#include <vector>

namespace fg = finegrain;

// [example]
// The logits whose score sqrt(softplus(logit)) is relu(z): log(exp(z^2) - 1), or -inf.
template <int R>
struct relu_logits : fg::stage<R> {
  static constexpr char const* name = "relu_logits";
};
template <class X, int R>
struct fg::plan<X, relu_logits<R>> {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;
  static S square(S z) { return z > 0 ? z * z : S(0); }
  template <class W>
  static void forward(pass<X>, W const&, saved const&, matrix<S const> z, matrix<S> logits) {
    for (std::int64_t t = 0; t < z.rows; ++t)
      for (int r = 0; r < R; ++r) {
        S const q = square(z(t, r));
        logits(t, r) = q > 0 ? q + std::log(-std::expm1(-q)) : -std::numeric_limits<S>::infinity();
      }
  }
  template <class W, class V>
  static void backward(pass<X>, W const&, saved const&, matrix<S const> z, matrix<S const> dlogits,
                       V const&, matrix<S> dz) {
    for (std::int64_t t = 0; t < z.rows; ++t)
      for (int r = 0; r < R; ++r) {
        S const q = square(z(t, r));
        dz(t, r) = q > 0 ? dlogits(t, r) * 2 * z(t, r) / -std::expm1(-q) : S(0);
      }
  }
};
struct all_open : fg::routing_rule {
  void choose(fg::batch const&, fg::matrix<double const> scores,
              fg::matrix<std::int32_t> experts) const override {
    for (std::int64_t t = 0; t < scores.rows; ++t)
      for (std::int32_t slot = 0, e = 0; e < scores.cols && slot < experts.cols; ++e)
        if (scores(t, e) > 0) experts(t, slot++) = e;
  }
};
constexpr fg::config moe{.hidden = 16,
                         .width = 8,
                         .routed = 16,
                         .top_k = 16,  // at most
                         .shared = 1,
                         .score = fg::score::sqrt_softplus,
                         .selection = fg::selection::rule};
using router = decltype(fg::linear<moe.hidden, moe.routed>{} | relu_logits<moe.routed>{});
using layer = fg::mixture<moe, router>;
// [/example]

int main() {
  constexpr std::int64_t T = 256;
  all_open const rule;
  std::vector<float> x(T * moe.hidden), target(x.size());
  std::vector<double> few(8 * moe.hidden);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(fg::random_normal(1, i));
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = x[i] * x[(i + 1) % x.size()];
  for (std::size_t i = 0; i < few.size(); ++i) few[i] = double(x[i]);

  fg::network<layer, fg::reference> exact({.deviation = 0.3});
  auto const check = fg::check_gradients(
      exact, {.tokens = 8, .routing = {.balance = {.expert = 0.01}, .rule = &rule}},
      fg::matrix<double const>(few.data(), 8, moe.hidden));
  std::printf("the gradient differs from differences by %.1g at most\n", check.worst);

  fg::network<layer, fg::cpu> net({.deviation = 0.3});
  fg::matrix<float const> const in(x.data(), T, moe.hidden), out(target.data(), T, moe.hidden);
  fg::trainer train{net, {.lr = 1e-2}, {.routing = {.balance = {.expert = 0.01}, .rule = &rule}}};
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    last = train.step(in, out).loss;
    if (step == 0) first = last;
  }
  double slots = 0;
  for (std::int64_t n : train.log().layers[0].load) slots += double(n);
  std::printf("loss %.3f, after 100 steps %.3f; %.2f experts a token of %d\n", first, last,
              slots / T, moe.routed);
  return check.worst < 1e-6 && last < first && slots > 0 && slots < T * moe.routed ? 0 : 1;
}
