// A router of one's own on the device: any expression makes the logits, in the network's numbers.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "device_layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 64, R = family::base.routed;

/// Logits as a network of bf16 has them, for the specification; elsewhere they are that already.
struct as_bf16_has_them : fg::stage<R> {
  static constexpr char const* name = "rounded";
};

using linear = decltype(fg::linear<D, R>{} | as_bf16_has_them{});
using deep = decltype(fg::mlp<D, 40>{} | fg::linear<D, R>{});
using looks_back = decltype(fg::attention<D, 2>{} | fg::linear<D, R>{});

template <fg::Expr E, class T>
void check_close(std::int64_t tokens, std::uint64_t seed, double close, fg::batch const& b = {},
                 fg::gradients mode = fg::gradients::overwrite) {
  comparison const c = compare<E, T>(tokens, seed, b, mode);
  INFO(fg::describe(E{}) << tokens << " tokens; the worst gradient is that of " << c.worst);
  CHECK(c.y < close);
  CHECK(c.dx < 2 * close);
  CHECK(c.dw < 3 * close);
}

}  // namespace

template <>
struct finegrain::plan<fg::basic_reference<double>, as_bf16_has_them> {
  using X = fg::basic_reference<double>;
  using saved = nothing;
  using scratch = nothing;
  template <class W>
  static void forward(pass<X>, W const&, saved const&, matrix<double const> x, matrix<double> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int e = 0; e < R; ++e)
        y(t, e) = static_cast<float>(fg::bf16(static_cast<float>(x(t, e))));
  }
  template <class W, class V>
  static void backward(pass<X>, W const&, saved const&, matrix<double const>,
                       matrix<double const> dy, V const&, matrix<double> dx) {
    for (std::int64_t t = 0; t < dy.rows; ++t) std::copy_n(dy.row(t), R, dx.row(t));
  }
};
template <>
struct finegrain::plan<fg::cuda, as_bf16_has_them> {
  using saved = nothing;
  using scratch = nothing;
  template <class W>
  static void forward(pass<cuda> p, W const&, saved const&, matrix<bf16 const> x, matrix<bf16> y) {
    device::runtime::enqueue_copy(y.data, x.data, device::bytes_of<bf16>(x.size()), p.on.stream);
  }
  template <class W, class V>
  static void backward(pass<cuda> p, W const& w, saved const& s, matrix<bf16 const>,
                       matrix<bf16 const> dy, V const&, matrix<bf16> dx) {
    forward(p, w, s, dy, dx);
  }
};

namespace {

TEST_CASE("every way to choose goes by the logits of a router of one's own, on the device") {
  NEED_GPU();
  family::tokens const some(61);
  std::uint64_t seed = 300;
  fg::for_each(family::given{}, [&]<fg::config C>(fg::at<C>) {
    constexpr fg::config c = widened(C);
    fg::batch b = some.batch({.balance = {.expert = 0.5, .z = 0.1}});
    check_close<fg::mixture<c, deep>, float>(61, seed += 50, 2e-5, b);
    check_close<fg::mixture<c, linear>, bf16>(61, seed, 0.01, b);
  });
}

TEST_CASE(
    "a router of one's own on the device: few and many tokens, drops, gradients that add up") {
  NEED_GPU();
  using E = fg::mixture<widened(family::base), deep>;
  using alone = fg::routed_experts<widened(family::base), deep>;
  for (std::int64_t T : {0, 1, 2, 17, 64, 130}) {
    check_close<E, float>(T, 900 + 7 * T, 2e-5);
    check_close<E, float>(T, 950 + 7 * T, 2e-5, {}, fg::gradients::accumulate);
    check_close<alone, float>(T, 970 + 7 * T, 2e-5);
  }
  check_close<E, float>(70, 2000, 2e-5, {.routing = {.capacity = 0.7, .seed = 5}});
  check_close<E, float>(70, 2100, 2e-5, {.routing = {.top_k = 1, .mask_best = 1}});
}

TEST_CASE("a router that looks back on the device: token by token it says what it says at once") {
  NEED_GPU();
  using E =
      fg::residual_of<fg::then<fg::rmsnorm<D>, fg::mixture<widened(family::base), looks_back>>>;
  static_assert(fg::cache_width(E{}) == 2 * D);
  device_layer<E, float> fast;
  exact_layer<E> exact;
  CHECK(off_in_sequences(fast, exact) < 2e-5);
}

TEMPLATE_TEST_CASE_SIG("a frozen router of one's own on the device keeps its numbers", "",
                       ((fg::format F), F), fg::format::fp8, fg::format::int8, fg::format::int4) {
  NEED_GPU();
  constexpr int T = 40;
  using E = fg::mixture<widened(fg::profiles::deepseek_v3_hf(family::in_groups)), deep>;
  fg::network<E, fg::cuda> net({.deviation = 0.3});
  auto frozen = fg::quantize<F, fg::format::bf16>(net);
  auto const x = upload(as_bf16(random_numbers(T * D, 2)));
  auto const y = unwritten<bf16>(T * D), z = unwritten<bf16>(T * D);
  auto a = net.make_log(T), b = frozen.make_log(T);
  net.infer({.tokens = T, .log = &a}, {x.data(), T, D}, {y.data(), T, D});
  frozen.infer({.tokens = T, .log = &b}, {x.data(), T, D}, {z.data(), T, D});
  CHECK(a.layers[0].experts == b.layers[0].experts);
  CHECK(a.layers[0].weights == b.layers[0].weights);
  numbers const whole = as_numbers(download(y));
  CHECK(off({whole.begin(), whole.end()}, as_numbers(download(z))) <
        (F == fg::format::int4 ? 0.3 : 0.1));
}

TEST_CASE("a router of one's own learns on the device") {
  NEED_GPU();
  constexpr int T = 96;
  fg::network<fg::mixture<widened(fg::profiles::deepseek_v3_hf(family::in_groups)), deep>, fg::cuda>
      net({.deviation = 0.1});
  auto const x = upload(as_bf16(random_numbers(T * D, 2))),
             target = upload(as_bf16(random_numbers(T * D, 3)));
  auto const router = [&] {
    auto const w = net.weight("router.linear.weight");
    return fg::place<fg::cuda>::fetched(net.on(), std::span(w.data, std::size_t(w.size())));
  };
  auto const before = router();
  fg::trainer train{net, fg::adamw{.lr = 1e-2}, {.bias = {.speed = 0.01}}};
  double first = 0, last = 0;
  for (int step = 0; step < 20; ++step) {
    last = train.step({x.data(), T, D}, {target.data(), T, D}).loss;
    if (step == 0) first = last;
  }
  CHECK(last < 0.9 * first);
  CHECK(!same_bits(before, router()));
}

}  // namespace
