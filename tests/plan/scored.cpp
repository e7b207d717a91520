// An expression under a loss computes what forward, the loss and backward compute one by one, without
// the room for all outputs.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/scored.hpp>

#include <cmath>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/plan/init.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/loss.hpp>

#include "../catch.hpp"
#include "../cpu/layer.hpp"
#include "../tiny.hpp"

namespace {

using namespace under_test;
template <class E>
using of = std::remove_cvref_t<E>;

/// Cross-entropy in whatever numbers, which also counts how often it was asked.
template <class X>
struct entropy {
  std::span<std::int32_t const> targets;
  double scale;
  int* asked = nullptr;
  template <class S>
  double operator()(X const& on, std::int64_t first, fg::matrix<S const> y,
                    fg::matrix<S> dy) const {
    if (asked) ++*asked;
    return cross_entropy(on, y, targets.subspan(std::size_t(first), std::size_t(y.rows)), scale,
                         dy);
  }
};

enum class left_out { none, some, all };

std::vector<std::int32_t> some_targets(std::int64_t tokens, int classes, left_out which) {
  std::vector<std::int32_t> made;
  for (std::uint64_t t = 0; t < std::uint64_t(tokens); ++t)
    made.push_back(which == left_out::all || (which == left_out::some && t % 5 != 1)
                       ? -1 - std::int32_t(t)
                       : std::int32_t(fg::random_word(7, t) % std::uint64_t(classes)));
  return made;
}

template <class S>
std::vector<S> widened(numbers const& from) {
  return {from.begin(), from.end()};
}

/// The largest difference in units of the largest number of `right`.
template <class S>
double off(std::vector<S> const& right, std::vector<S> const& got) {
  REQUIRE(right.size() == got.size());
  double largest = 0, magnitude = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const d = std::abs(double(right[i]) - double(got[i]));
    magnitude = std::max(magnitude, std::abs(double(right[i])));
    if (!(d <= largest)) largest = std::isnan(d) ? double{infinity} : d;
  }
  return magnitude > 0 ? largest / magnitude : largest;
}

/// A loss and its gradients.
template <class S>
struct outcome {
  double loss = 0;
  std::vector<S> dw, dx;
};

/// A product under cross-entropy: all at once, or by chunks of so many rows.
template <class X>
struct product {
  using S = typename X::scalar;
  std::int64_t T;
  int D, V;
  std::vector<std::int32_t> targets;
  X on{};
  fg::gradients mode = fg::gradients::overwrite;
  std::vector<S> x = widened<S>(random_numbers(T * D, 1)),
                 w = widened<S>(random_numbers(V * D, 2, 0.5));
  double scale = 0.25;

  outcome<S> begin() const {
    bool const add = mode == fg::gradients::accumulate;
    return {0, std::vector<S>(w.size(), add ? S(3) : S(poison)),
            std::vector<S>(x.size(), S(poison))};
  }
  outcome<S> composed() const {
    outcome<S> r = begin();
    std::vector<S> y(std::size_t(T * V), S(poison)), dy = y;
    linear_forward(on, view(x, T, D), view(w, V, D), view(y, T, V));
    r.loss = cross_entropy(on, view(std::as_const(y), T, V), targets, scale, view(dy, T, V));
    linear_backward(on, view(x, T, D), view(w, V, D), view(std::as_const(dy), T, V),
                    view(r.dw, V, D), mode, view(r.dx, T, D), fg::gradients::overwrite);
    return r;
  }
  outcome<S> chunked(std::int64_t rows, bool training = true) const {
    outcome<S> r = begin();
    std::vector<S> chunk(std::size_t(rows * V), S(poison));
    r.loss = score_product(on, view(x, T, D), view(w, V, D), entropy<X>{targets, scale},
                           training ? view(r.dw, V, D) : fg::matrix<S>{}, mode,
                           training ? view(r.dx, T, D) : fg::matrix<S>{}, view(chunk, rows, V));
    return r;
  }
};

/// E's forward, loss and backward, in memory that is NaN wherever nobody wrote: as one, or one by
/// one.
template <fg::Expr E, class X>
struct under_loss {
  using S = typename X::scalar;
  static constexpr int in = fg::in_width<E>(), out = fg::out_width<E>();
  fg::batch b;
  std::vector<std::int32_t> targets;
  X on{};
  fg::gradients mode = fg::gradients::overwrite;
  std::vector<S> w = widened<S>(random_numbers(fg::weights_size<E>(), 3, 0.3)),
                 x = widened<S>(random_numbers(b.tokens * in, 4));
  double scale = 1 / double(std::max<std::int64_t>(b.tokens, 1));

  fg::matrix<S const> input() const { return view(x, b.tokens, in); }
  fg::extent extent(bool training) const { return {b.tokens, on.threads.workers(), training}; }
  static fg::buffer<> block(std::int64_t bytes) {
    fg::buffer<> memory(bytes);
    std::fill(memory.begin(), memory.end(), std::byte(0xff));  // NaN in any format
    return memory;
  }
  fg::pass<X> pass(fg::buffer<> const& scratch, bool training) const {
    return {on, b, fg::arena(scratch.data(), scratch.size()), extent(training), mode};
  }
  outcome<S> begin() const {
    bool const add = mode == fg::gradients::accumulate;
    return {0, std::vector<S>(w.size(), add ? S(3) : S(0)), std::vector<S>(x.size(), S(poison))};
  }

  outcome<S> one_by_one() const {
    using plan = fg::plan<X, E>;
    outcome<S> r = begin();
    auto const kept = block(fg::saved_bytes<X, E>(extent(true)));
    auto const scratch = block(fg::scratch_bytes<X, E>(extent(true)));
    fg::arena memory(kept.data(), kept.size());
    typename plan::saved const saved(memory, extent(true));
    std::vector<S> y(std::size_t(b.tokens * out), S(poison)), dy = y;
    auto const views = fg::bind_weights<E, S const>(w.data());
    plan::forward(pass(scratch, true), views, saved, input(), view(y, b.tokens, out));
    r.loss = cross_entropy(on, view(std::as_const(y), b.tokens, out), targets, scale,
                           view(dy, b.tokens, out));
    plan::backward(pass(scratch, true), views, saved, input(),
                   view(std::as_const(dy), b.tokens, out), fg::bind_weights<E, S>(r.dw.data()),
                   view(r.dx, b.tokens, in));
    return r;
  }
  outcome<S> scored(bool training = true, int* asked = nullptr) const {
    using plan = fg::scored<X, E>;
    outcome<S> r = begin();
    auto const kept = block(fg::memory_bytes<typename plan::saved>(extent(training)));
    auto const scratch = block(fg::memory_bytes<typename plan::scratch>(extent(training)));
    fg::arena memory(kept.data(), kept.size());
    typename plan::saved const saved(memory, extent(training));
    r.loss = plan::run(pass(scratch, training), fg::bind_weights<E, S const>(w.data()), saved,
                       input(), entropy<X>{targets, scale, asked},
                       fg::bind_weights<E, S>(training ? r.dw.data() : nullptr),
                       view(r.dx, b.tokens, in));
    return r;
  }
};

template <class X>
constexpr double tolerance = sizeof(typename X::scalar) == 8 ? 1e-12 : 5e-6;

template <class S>
void check_near(outcome<S> const& right, outcome<S> const& got, double tolerance) {
  CHECK(got.loss == Approx(right.loss).epsilon(tolerance).margin(tolerance));
  CHECK(off(right.dw, got.dw) <= tolerance);
  CHECK(off(right.dx, got.dx) <= tolerance);
}

/// A name whose plan is its own: what it stands for is not looked at.
template <fg::Expr E>
struct opaque : fg::named {
  static constexpr auto expr = E{};
};
template <int D, int V>
struct language_head : fg::named {
  static constexpr auto expr = fg::rmsnorm<D>{} | fg::head<D, V>{};
};

}  // namespace

template <class X, fg::Expr E>
struct finegrain::plan<X, opaque<E>> {
  using S = typename X::scalar;
  using inside = finegrain::plan<X, E>;
  using saved = typename inside::saved;
  using scratch = typename inside::scratch;
  template <class W>
  static void forward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S> y) {
    inside::forward(p, w, s, x, y);
  }
  template <class W, class V>
  static void backward(pass<X> p, W const& w, saved const& s, matrix<S const> x, matrix<S const> dy,
                       V const& dw, matrix<S> dx) {
    inside::backward(p, w, s, x, dy, dw, dx);
  }
};

TEMPLATE_TEST_CASE("a product by chunks is the product, its loss and its gradients at once", "",
                   fg::cpu, fg::reference) {
  for (auto which : {left_out::none, left_out::some, left_out::all})
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate})
      for (auto [T, D, V] : {std::tuple{0, 3, 4}, {1, 1, 1}, {16, 5, 37}, {50, 19, 133}}) {
        product<TestType> const p{T, D, V, some_targets(T, V, which), {}, mode};
        auto const right = p.composed();
        if (which == left_out::all) CHECK(right.loss == 0);
        for (std::int64_t rows : {1, 7, 8, 15, 16, 17, 49, 50, 51, 200}) {
          CAPTURE(T, D, V, rows, int(which), int(mode));
          check_near(right, p.chunked(rows), tolerance<TestType>);
          auto const alone = p.chunked(rows, false);
          CHECK(alone.loss == p.chunked(rows).loss);
          CHECK(std::memcmp(alone.dw.data(), p.begin().dw.data(), alone.dw.size() * 4) == 0);
        }
      }
}

TEST_CASE("a product by chunks on the cpu agrees with the specification") {
  for (auto [T, D, V] : {std::tuple{50, 19, 133}, {300, 520, 70}, {70, 33, 1100}}) {
    auto const targets = some_targets(T, V, left_out::some);
    auto const exact = product<fg::reference>{T, D, V, targets}.composed();
    for (std::int64_t rows : {32, 64, 256}) {
      CAPTURE(T, D, V, rows);
      auto const got = product<fg::cpu>{T, D, V, targets}.chunked(rows);
      CHECK(got.loss == Approx(exact.loss).epsilon(1e-5));
      CHECK(difference(exact.dw, got.dw) < 1e-5);
      CHECK(difference(exact.dx, got.dx) < 1e-5);
    }
  }
}

TEST_CASE("rows of x and dx may stand apart, and what lies between is left alone") {
  constexpr int T = 9, D = 5, V = 11, apart = 8;
  product<fg::reference> const p{T, D, V, some_targets(T, V, left_out::some)};
  auto const right = p.chunked(4);
  std::vector<double> x(T * apart, 1e300), dx(T * apart, 7), chunk(4 * V), dw(V * D);
  for (int t = 0; t < T; ++t) std::copy_n(&p.x[std::size_t(t * D)], D, &x[std::size_t(t * apart)]);
  double const loss =
      score_product(p.on, fg::matrix<double const>(x.data(), T, D, apart), view(p.w, V, D),
                    entropy<fg::reference>{p.targets, p.scale}, view(dw, V, D), p.mode,
                    fg::matrix<double>(dx.data(), T, D, apart), view(chunk, 4, V));
  CHECK(loss == right.loss);
  CHECK(dw == right.dw);
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < apart; ++c)
      CHECK(dx[std::size_t(t * apart + c)] == (c < D ? right.dx[std::size_t(t * D + c)] : 7));
}

TEST_CASE("a product by chunks has the same bits for any number of threads") {
  product<fg::cpu> p{301, 37, 517, some_targets(301, 517, left_out::some), fg::parallel{}};
  auto const one = p.chunked(64);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    p.on = fg::cpu(pool);
    auto const more = p.chunked(64);
    CHECK(more.loss == one.loss);
    CHECK(same(more.dw, one.dw));
    CHECK(same(more.dx, one.dx));
  }
}

TEMPLATE_TEST_CASE("expressions that end in a product, or do not, cost what they cost one by one",
                   "", fg::cpu, fg::reference) {
  constexpr int D = 12, V = 19;
  auto const check = []<fg::Expr E>(E, int chunks, std::int64_t T) {
    std::vector<std::int32_t> words;
    for (std::int64_t t = 0; t < T; ++t) words.push_back(std::int32_t(t * t % 13));
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate})
      for (auto which : {left_out::none, left_out::some, left_out::all}) {
        under_loss<E, TestType> const u{
            {.tokens = T, .ids = words}, some_targets(T, fg::out_width<E>(), which), {}, mode};
        int asked = 0;
        auto const got = u.scored(true, &asked);
        CHECK(asked == chunks);
        check_near(u.one_by_one(), got, tolerance<TestType>);
        CHECK(u.scored(false).loss == got.loss);
      }
  };
  constexpr auto body = fg::embedding<13, D>{} | fg::residual(fg::mlp<D, 8>{});
  constexpr auto ending = fg::rmsnorm<D>{} | fg::head<D, V>{};
  constexpr auto tied = fg::tied(fg::embedding<V, D>{}, fg::residual(fg::mlp<D, 8>{}));
  for (std::int64_t T : {0, 1, 11}) {
    check(body | fg::rmsnorm<D>{} | fg::head<D, V>{}, 1, T);
    check(body | language_head<D, V>{}, 1, T);
    check(body | opaque<of<decltype(ending)>>{}, 1, T);
    check(tied, 1, T);
    check(fg::rmsnorm<D>{} | fg::linear<D, V>{}, 1, T);
    check(fg::head<D, V>{}, 1, T);
    check(opaque<fg::head<D, V>>{}, 1, T);
    check(fg::head<D, V>{} | fg::rmsnorm<V>{}, 1, T);
    check(fg::head<D, V>{} + fg::linear<D, V>{}, 1, T);
  }
  constexpr auto most = fg::chunk_rows<TestType>(V);
  for (std::int64_t T : {most - 1, most, most + 1, 2 * most + 100}) {
    int const chunks = int((T + most - 1) / most);
    check(body | language_head<D, V>{}, chunks, T);
    check(tied, chunks, T);
    check(fg::head<D, V>{}, chunks, T);
    check(opaque<fg::head<D, V>>{}, 1, T);
  }
}

TEMPLATE_TEST_CASE("a decoder under its loss has the gradients of forward and backward", "",
                   fg::cpu, fg::reference) {
  tiny::text const text(45);
  std::int64_t const starts[] = {0, 17, 45};
  fg::routing_log log{{fg::routing_report(4)}};
  under_loss<tiny::decoder, TestType> const u{{.tokens = 45,
                                               .ids = text.inputs(),
                                               .starts = starts,
                                               .routing = {.balance = {.expert = 0.1}},
                                               .log = &log},
                                              {text.targets().begin(), text.targets().end()}};
  auto const right = u.one_by_one();
  auto const load = log.layers[0].load;
  log.next = 0;
  check_near(right, u.scored(), tolerance<TestType>);
  CHECK(log.layers[0].load == load);
  CHECK(log.next == 1);
}

TEST_CASE("the gradients of an expression under a loss are those of its differences") {
  using E = of<decltype(fg::residual(fg::mlp<6, 5>{}) | language_head<6, 9>{})>;
  under_loss<E, fg::reference> u{{.tokens = 7}, some_targets(7, 9, left_out::some)};
  auto const gradients = u.scored();
  auto const check = [&](std::vector<double>& numbers, std::vector<double> const& g) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      double const here = std::exchange(numbers[i], numbers[i] + 1e-5);
      double const right = u.scored(false).loss;
      numbers[i] = here - 1e-5;
      double const left = u.scored(false).loss;
      numbers[i] = here;
      CHECK((right - left) / 2e-5 * u.scale == Approx(g[i]).epsilon(1e-7).margin(1e-10));
    }
  };
  check(u.w, gradients.dw);
  check(u.x, gradients.dx);
}

TEST_CASE("a decoder under its loss has the same bits for any number of threads") {
  tiny::text const text(150);
  under_loss<tiny::decoder, fg::cpu> u{{.tokens = 150, .ids = text.inputs()},
                                       {text.targets().begin(), text.targets().end()},
                                       fg::parallel{}};
  auto const one = u.scored();
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    u.on = fg::cpu(pool);
    auto const more = u.scored();
    CHECK(more.loss == one.loss);
    CHECK(same(more.dw, one.dw));
  }
}

// Rows of a chunk follow from the classes; 4096 tokens over 100,000 classes keep a sixteenth of
// their logits, and no gradient beside them.
static_assert(fg::chunk_rows<fg::cpu>(0) == 1024 && fg::chunk_rows<fg::cpu>(256) == 1024);
static_assert(fg::chunk_rows<fg::cpu>(16384) == 512 && fg::chunk_rows<fg::cpu>(32768) == 256);
static_assert(fg::chunk_rows<fg::cpu>(100'000) == 256 &&
              fg::chunk_rows<fg::reference>(100'000) == 128);
static_assert(fg::chunk_rows<fg::cpu>(1'000'000'000) == 64);
template <int V>
using classifier = of<decltype(fg::rmsnorm<8>{} | fg::head<8, V>{})>;
template <class E>
constexpr std::int64_t scratch_of(std::int64_t tokens) {
  return fg::memory_bytes<typename fg::scored<fg::cpu, E>::scratch>({tokens, 1, true});
}
static_assert(scratch_of<classifier<100'000>>(4096) == 4 * (4096 * 8 + 256 * 100'000));
static_assert(scratch_of<classifier<100'000>>(10) == 4 * (10 * 8 + 10 * 100'000));
