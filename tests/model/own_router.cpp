// A router of one's own: any expression makes the logits, and all that comes behind them is the config's.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../cpu/layer.hpp"
#include "../family.hpp"

namespace {

using namespace under_test;
using family::D;
constexpr int T = 40, R = family::base.routed;

/// y = tanh(x): a stage that one writes for a router of two layers.
template <int N>
struct tanh_of : fg::stage<N> {
  static constexpr char const* name = "tanh";
};

using two_layers = decltype(fg::linear<D, 5>{} | tanh_of<5>{} | fg::linear<5, R>{});
using looks_back = decltype(fg::attention<D, 2>{} | fg::linear<D, R>{});
using wide = decltype(fg::mlp<D, 20>{} | fg::linear<D, R>{});
template <fg::config C, class Router = two_layers>
using own = fg::mixture<C, Router>;

template <class E>
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (auto const& w : fg::list_weights<E>()) all.push_back(w.name);
  return all;
}

}  // namespace

template <class X, int N>
struct finegrain::plan<X, tanh_of<N>> {
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

namespace {

TEST_CASE("a linear router of one's own is the config's: the same bits; dx is added up otherwise") {
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  fg::batch const b{.routing = {.balance = {.expert = 0.5, .z = 0.1}}};
  auto const check = [&]<class X>(X const& on) {
    layer<fg::mixture<family::base>, X> config(on);
    layer<own<family::base, fg::linear<D, R>>, X> mine(on);
    for (auto const& w : fg::list_weights<own<family::base, fg::linear<D, R>>>())
      for (auto const& same : fg::list_weights<fg::mixture<family::base>>())
        if (same.name == (w.name == "router.weight" ? "router" : w.name))
          std::copy_n(&config.w[std::size_t(same.offset)], w.rows * w.cols,
                      &mine.w[std::size_t(w.offset)]);
    config.train(x, dy, b), mine.train(x, dy, b);
    CHECK(config.y == mine.y);
    CHECK(difference({config.dx.begin(), config.dx.end()}, {mine.dx.begin(), mine.dx.end()}) <
          1e-6);
    for (int e = 0; e < R; ++e)
      for (int d = 0; d < D; ++d)
        CHECK(config.gradients().b.router(e, d) == mine.gradients().b.own.weight(e, d));
  };
  check(fg::reference());
  check(fg::cpu());
}

TEST_CASE("every way to choose and weigh goes by the logits of a router of one's own") {
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  family::tokens const some(T);
  fg::for_each(family::given{}, [&]<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    fg::batch const b = some.batch({.balance = {.expert = 0.5, .z = 0.1}}, false);
    CHECK(distance<own<C>>(x, dy, b) < 1e-5);
  });
}

TEST_CASE("gradients through a router of one's own are those of differences") {
  family::tokens const some(9);
  fg::for_each(family::given{}, [&]<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    fg::network<own<C>, fg::reference> net({.deviation = 0.6, .seed = 2});
    std::vector<double> x(9 * D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = fg::random_normal(50, i);
    fg::routing_request const request{.balance = {.expert = 0.5, .z = 0.1}};
    auto const report =
        fg::check_gradients(net, some.batch(request, false), {x.data(), 9, D}, {.eps = 1e-5});
    INFO(report.where << ": backward says " << report.gradient << ", differences say "
                      << report.difference);
    CHECK(report.worst < 2e-7);
    CHECK(report.partials > 10 * report.skipped);
  });
}

TEST_CASE("a router of one's own: the same bits for any number of threads, and for a token alone") {
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  using E = own<family::in_groups, wide>;
  layer<E> one(fg::cpu(fg::parallel{})), part;
  one.train(x, dy);
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    layer<E> many{fg::cpu(pool)};
    many.train(x, dy);
    CHECK((same(one.y, many.y) && same(one.dx, many.dx) &&
           same(one.all_gradients(), many.all_gradients())));
  }
  numbers y;
  for (auto [first, count] : {std::pair{0, 1}, {1, 30}, {31, 9}})
    y = joined(y, part.forward(rows(x, D, first, count)));
  CHECK(same(one.y, y));
}

TEST_CASE("gradients of a router of one's own add up where they are to be added") {
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  layer<own<family::base>> once, twice;
  once.train(x, dy);
  twice.mode = fg::gradients::accumulate;
  twice.before = 1;
  twice.train(x, dy);
  auto const a = once.all_gradients(), b = twice.all_gradients();
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] + 1 - b[i]) < 1e-5f);
}

TEST_CASE("in mixed precision a router of one's own computes in f32: the same experts") {
  fg::network<own<family::base, wide>, fg::cpu> full({.deviation = 0.3}),
      mixed({.deviation = 0.3}, fg::cpu{fg::parallel{}, fg::format::bf16});
  numbers const x = random_numbers(T * D, 2), dy = random_numbers(T * D, 3);
  numbers y(T * D), dx(T * D);
  auto a = full.make_log(T), b = mixed.make_log(T);
  auto const run = [&](auto& net, auto& log) {
    net.forward({.tokens = T, .log = &log}, view(x, T, D), view(y, T, D));
    net.backward(view(dy, T, D), view(dx, T, D));
  };
  run(full, a), run(mixed, b);
  CHECK(a.layers[0].experts == b.layers[0].experts);
  CHECK(a.layers[0].weights == b.layers[0].weights);
  CHECK(difference(
            {full.gradient("router.mlp.gate").data, full.gradient("router.mlp.gate").data + 20 * D},
            {mixed.gradient("router.mlp.gate").data,
             mixed.gradient("router.mlp.gate").data + 20 * D}) < 0.05);
}

TEMPLATE_TEST_CASE_SIG("frozen in any format, a router of one's own keeps its numbers", "",
                       ((fg::format F), F), fg::format::f32, fg::format::bf16, fg::format::fp8,
                       fg::format::int8, fg::format::int8_block, fg::format::int4) {
  fg::network<own<family::base, wide>, fg::cpu> net({.deviation = 0.3});
  auto frozen = fg::quantize<F>(net);
  numbers const x = random_numbers(T * D, 2);
  numbers y(T * D), z(T * D, poison);
  auto a = net.make_log(T), b = frozen.make_log(T);
  net.infer({.tokens = T, .log = &a}, view(x, T, D), view(y, T, D));
  frozen.infer({.tokens = T, .log = &b}, view(x, T, D), view(z, T, D));
  CHECK(a.layers[0].experts == b.layers[0].experts);
  CHECK(a.layers[0].weights == b.layers[0].weights);
  CHECK(difference({y.begin(), y.end()}, z) < (F == fg::format::f32    ? 1e-6
                                               : F == fg::format::int4 ? 0.3
                                                                       : 0.1));
}

TEST_CASE("a router may look back: token by token it gives the bits of the whole pass") {
  using E = own<family::base, looks_back>;
  static_assert(fg::cache_width(E{}) == 2 * D);
  numbers const x = random_numbers(T * D, 2);
  layer<E> whole, part;
  whole.forward(x);
  fg::kv_cache<float> cache(fg::cache_width(E{}), T);
  numbers y;
  for (int t = 0; t < T; ++t) y = joined(y, part.forward(rows(x, D, t, 1), {}, false, &cache));
  CHECK(same(whole.y, y));
}

TEST_CASE("a router of one's own learns, balances and is moved by groups, as any weights") {
  fg::network<own<family::in_groups>, fg::cpu> net({.deviation = 0.3});
  fg::network<own<fg::profiles::deepseek_v3_hf(family::in_groups)>, fg::cpu> biased(
      {.deviation = 0.3});
  numbers const x = random_numbers(T * D, 2);
  numbers const target = random_numbers(T * D, 3);
  auto const loss = [&](auto& network, fg::training how) {
    fg::trainer train{network, {.lr = 1e-2}, how};
    double first = 0, last = 0;
    for (int step = 0; step < 60; ++step) {
      last = train.step(view(x, T, D), view(target, T, D)).loss;
      if (step == 0) first = last;
    }
    return last / first;
  };
  numbers const before(net.weight("router.linear.weight").data,
                       net.weight("router.linear.weight").data + 5 * D);
  auto const moved = [&] {
    return !std::equal(before.begin(), before.end(), net.weight("router.linear.weight").data);
  };
  CHECK(loss(net, {.groups = {{"router.*", 0}}}) < 1);
  CHECK(!moved());
  CHECK(loss(net, {}) < 1);
  CHECK(moved());
  CHECK(loss(biased, {.bias = {.speed = 0.01}}) < 0.9);
  CHECK(biased.weight("bias")(0, 0) != 0);
}

TEST_CASE("a router of one's own is counted, named and described") {
  using E = own<family::base>;
  constexpr std::int64_t router = D * 5 + 5 * R, usual = D * R;
  static_assert(fg::parameters(E{}) ==
                fg::parameters(fg::mixture<family::base>{}) - usual + router);
  static_assert(fg::flops(E{}, 7) ==
                fg::flops(fg::mixture<family::base>{}, 7) + 14 * (router - usual));
  static_assert(fg::flops(own<family::base, looks_back>{}, 7) ==
                fg::flops(fg::shared_experts<family::base>{}, 7) +
                    14 * family::base.top_k * 3 * D * family::base.width +
                    fg::flops(looks_back{}, 7));
  std::vector<std::string> const all = names<decltype(fg::residual(E{}))>();
  CHECK(all.front() == "mixture.shared.gate");
  CHECK(all[all.size() - 2] == "mixture.router.linear.weight");
  CHECK(all.back() == "mixture.router.linear_2.weight");
  CHECK_THAT(fg::describe(E{}), ContainsSubstring("router\n") && ContainsSubstring("tanh"));
  CHECK_THAT(fg::describe(E{}), !ContainsSubstring("- router"));
}

}  // namespace
