// A router of another form: two layers with tanh between, in place of one matrix. Any expression
// that makes a logit for each expert can be a layer's router.
#include <cmath>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <vector>

namespace fg = finegrain;

// [example]
template <int N>
struct tanh_of : fg::stage<N> {
  static constexpr char const* name = "tanh";
};
template <class X, int N>
struct fg::plan<X, tanh_of<N>> {
  using S = typename X::scalar;
  struct saved {
    matrix<S> y;  // (T, N)
    constexpr saved(arena& memory, extent e) : y(memory.matrix<S>(e.tokens, N)) {}
  };
  using scratch = nothing;
  template <class W>
  static void forward(pass<X>, W const&, saved const& s, matrix<S const> x, matrix<S> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int n = 0; n < N; ++n) s.y(t, n) = y(t, n) = std::tanh(x(t, n));
  }
  template <class W, class V>
  static void backward(pass<X>, W const&, saved const& s, matrix<S const>, matrix<S const> dy,
                       V const&, matrix<S> dx) {
    for (std::int64_t t = 0; t < dy.rows; ++t)
      for (int n = 0; n < N; ++n) dx(t, n) = dy(t, n) * (1 - s.y(t, n) * s.y(t, n));
  }
};

constexpr fg::config moe{.hidden = 32, .width = 16, .routed = 16, .top_k = 4, .shared = 1};
using two_layers = decltype(fg::linear<moe.hidden, 24>{} | tanh_of<24>{} |
                            fg::linear<24, moe.routed>{});
using layer = fg::mixture<moe, two_layers>;  // top-k, weights and losses as the config says
// [/example]

int main() {
  constexpr std::int64_t T = 256;
  fg::network<layer, fg::cpu> net({.deviation = 0.3});
  std::vector<float> x(T * moe.hidden), target(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(fg::random_normal(1, i));
  for (std::size_t i = 0; i < x.size(); ++i) target[i] = x[i] * x[(i + 1) % x.size()];
  fg::matrix<float const> const in(x.data(), T, moe.hidden), out(target.data(), T, moe.hidden);

  fg::trainer train{net, {.lr = 1e-2}, {.routing = {.balance = {.expert = 0.01}}}};
  double first = 0, last = 0;
  for (int step = 0; step < 100; ++step) {
    last = train.step(in, out).loss;
    if (step == 0) first = last;
  }
  fg::matrix<float> const dw = net.gradient("router.linear.weight");  // (24, 32)
  double size = 0;
  for (std::int64_t i = 0; i < dw.size(); ++i) size += double(dw.data[i]) * double(dw.data[i]);
  std::printf("%sloss %.3f, after 100 steps %.3f; |d router| %.2g\n", fg::describe(layer{}).c_str(),
              first, last, std::sqrt(size));
  return last < first && size > 0 ? 0 : 1;
}
