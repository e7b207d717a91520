// A stage of your own, with its own plan, between the library's: a short causal convolution that
// mixes a token with the few before it, in a block with attention and a mixture.
#include <algorithm>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <numeric>
#include <vector>

namespace fg = finegrain;

// [example]
// What: a stage says how wide it is, which weights it has, what generation must keep for it.
template <int D, int Width>
struct short_convolution : fg::stage<D> {
  static constexpr char const* name = "short_convolution";
  static constexpr std::int64_t cache = D;  // its input, of earlier tokens
  template <class T>
  struct weights {
    fg::matrix<T> kernel;  // (Width, D): for the token itself, the one before, ...
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : kernel(bind.matrix("kernel", Width, D, fg::role::projection)) {}
  };
};

// How: y[t] = sum over i of kernel[i] * x[t - i], channel by channel, inside a sequence.
template <class X, int D, int Width>
struct fg::plan<X, short_convolution<D, Width>> {
  using S = typename X::scalar;
  using saved = fg::nothing;  // forward leaves nothing for backward, and neither needs scratch
  using scratch = fg::nothing;

  template <class W>
  static void forward(fg::pass<X> p, W const& w, saved const&, fg::matrix<S const> x,
                      fg::matrix<S> y) {
    auto const past = p.past();  // in generation, earlier tokens stand before these
    auto const rows = fg::with_earlier(p, x);
    p.on.threads(p.batch.sequences(), [&](std::int64_t s, int) {
      std::int64_t const first = past.first_row(p.batch, s);
      for (std::int64_t t = p.batch.begin(s), at = first + past.length(s); t < p.batch.end(s);
           ++t, ++at) {
        std::fill_n(y.row(t), D, S(0));
        for (std::int64_t i = 0; i < Width && at - i >= first; ++i)
          for (int c = 0; c < D; ++c) y(t, c) += w.kernel(i, c) * rows(at - i, c);
      }
    });
  }
  template <class W, class V>
  static void backward(fg::pass<X> p, W const& w, saved const&, fg::matrix<S const> x,
                       fg::matrix<S const> dy, V const& dw, fg::matrix<S> dx) {
    constexpr int part = 16;  // channels a task: sums run in one order, whatever the threads
    p.on.threads((D + part - 1) / part, [&](std::int64_t task, int) {
      int const first = int(task) * part, last = std::min(D, first + part);
      for (int c = first; c < last; ++c) {
        for (int i = 0; p.gradients == fg::gradients::overwrite && i < Width; ++i)
          dw.kernel(i, c) = 0;
        for (std::int64_t t = 0; t < x.rows; ++t) dx(t, c) = 0;
        for (std::int64_t s = 0; s < p.batch.sequences(); ++s)
          for (std::int64_t t = p.batch.begin(s); t < p.batch.end(s); ++t)
            for (std::int64_t i = 0; i < Width && t - i >= p.batch.begin(s); ++i) {
              dw.kernel(i, c) += x(t - i, c) * dy(t, c);
              dx(t - i, c) += w.kernel(i, c) * dy(t, c);
            }
      }
    });
  }
};

// It composes like the library's own stages.
template <fg::config C>
struct block : fg::named {
  static constexpr int D = C.hidden;
  static constexpr auto expr =
      fg::residual(fg::rmsnorm<D>{} | short_convolution<D, 4>{} | fg::attention<D, 2>{}) |
      fg::residual(fg::rmsnorm<D>{} | fg::mixture<C>{});
};
// [/example]

constexpr fg::config moe{.hidden = 32, .width = 16, .routed = 8, .top_k = 2, .shared = 1};
struct reader : fg::named {
  static constexpr auto expr = fg::embedding<256, moe.hidden>{} | fg::repeat<2>(block<moe>{}) |
                               fg::rmsnorm<moe.hidden>{} | fg::head<moe.hidden, 256>{};
};

int main() {
  std::printf("%s\n", fg::describe(reader{}).c_str());

  // Its gradient, and all others of the block, against differences, in double; two sequences.
  fg::network<block<moe>, fg::reference> exact({.deviation = 0.2});
  std::vector<double> numbers(12 * 32);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = fg::random_normal(1, i);
  std::vector<std::int64_t> const starts{0, 5, 12};
  auto const check = fg::check_gradients(exact, {.tokens = 12, .starts = starts},
                                         fg::matrix<double const>(numbers.data(), 12, 32));
  std::printf("%lld partial derivatives checked, worst relative error %.1e\n",
              static_cast<long long>(check.partials), check.worst);

  // It learns: the numbers of a loop, one after the other.
  fg::network<reader, fg::cpu> net({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2}};
  std::vector<std::int32_t> x(64), y(64);
  for (std::size_t i = 0; i < 64; ++i) x[i] = std::int32_t(i % 7), y[i] = std::int32_t((i + 1) % 7);
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) (step ? last : first) = train.step(x, y).loss;
  std::printf("loss %.3f, after 30 steps %.3f\n", first, last);

  // And generates, token by token: 0 1 2, then ...
  std::vector<std::int32_t> const prompt{0, 1, 2};
  std::vector<std::int32_t> written;
  fg::generate(net, prompt, 8, {}, [&](std::int32_t id) { written.push_back(id); });
  for (std::int32_t id : written) std::printf("%d ", id);
  std::printf("\n");
  bool const right = written == std::vector<std::int32_t>{3, 4, 5, 6, 0, 1, 2, 3};
  return check.worst < 1e-6 && last < 0.5 * first && right ? 0 : 1;
}
