// Networks of fp16 and of f32 on the device, against the specification in double: layers of experts,
// attention, a whole decoder, its training, generation and files. Those of bf16 have tests of their own.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

using namespace under_test;
using fg::bf16, fg::fp16;

namespace {

/// How far off values, gradients and weights' gradients may be: |a - b| / |a|.
struct tolerance {
  double y, dx, dw;
};
template <class T>
constexpr tolerance near{0.0015, 0.002, 0.003};
template <>
constexpr tolerance near<float>{1e-5, 2e-5, 5e-5};

template <class T, fg::Expr E>
void compare(std::int64_t tokens, std::uint64_t seed, fg::batch const& b = {},
             fg::gradients mode = fg::gradients::overwrite, double slack = 1,
             fg::device::instructions use = fg::device::instructions::all) {
  device_layer<E, T> fast;
  exact_layer<E> exact;
  fast.on.use = use;
  fast.mode = exact.mode = mode;
  if (mode == fg::gradients::accumulate) exact.before = fast.before = 0.25f;
  numbers const w = rounded<T>(random_weights<E>(seed));
  fast.set_weights(w);
  exact.set_weights(w);
  numbers const x = rounded<T>(random_numbers(tokens * exact.in, ++seed)),
                dy = rounded<T>(random_numbers(tokens * exact.out, ++seed));
  fast.train(x, dy, b);
  exact.train(x, dy, b);
  INFO(fg::describe(E{}) << tokens << " tokens, adding " << (mode == fg::gradients::accumulate));
  CHECK(off(exact.y, fast.read_y()) < slack * near<T>.y);
  CHECK(off(exact.dx, fast.read_dx()) < slack * near<T>.dx);
  numbers const y = fast.read_y(), dx = fast.read_dx(), dw = fast.read_dw();
  for (auto const& entry : fg::list_weights<E>()) {
    INFO(entry.name);
    CHECK(off(part(exact.dw, entry), part(dw, entry)) < slack * near<T>.dw);
  }
  fast.train(x, dy, b);
  CHECK(same(y, fast.read_y()));
  CHECK(same(dx, fast.read_dx()));
  CHECK(same(dw, fast.read_dw()));
  // Without training there is no chance in routers, and tiles are others.
  CHECK(off(exact.forward(x, b), fast.forward(x, b)) < slack * near<T>.y);
}

}  // namespace

TEMPLATE_TEST_CASE("a mixture of fp16 or f32 is the specification's", "", fp16, float) {
  NEED_GPU();
  constexpr auto add = fg::gradients::accumulate, over = fg::gradients::overwrite;
  for (std::int64_t T : {0, 1, 2, 7, 33, 64, 129, 300}) {
    compare<TestType, fg::mixture<layers::small>>(T, 100 + 7 * T);
    compare<TestType, fg::mixture<layers::small>>(T, 500 + 7 * T, {}, add);
    compare<TestType, fg::mixture<layers::small>>(T, 900 + 7 * T, {}, over, 1,
                                                  fg::device::instructions::portable);
  }
  for (std::int64_t T : {1, 40, 513}) compare<TestType, fg::mixture<layers::wide>>(T, 200 + 7 * T);
  for (std::int64_t T : {1, 5, 257})
    compare<TestType, fg::mixture<layers::alone>>(T, 300 + 7 * T, {}, add);
}

TEMPLATE_TEST_CASE("a mixture with ReLU, of fp16 or f32", "", fp16, float) {
  NEED_GPU();
  for (std::int64_t T : {1, 5, 33, 150})
    compare<TestType, fg::mixture<layers::relu>>(T, 400 + 7 * T);
}

TEMPLATE_TEST_CASE("every kind of router, of fp16 or f32", "", fp16, float) {
  NEED_GPU();
  std::size_t count = 0;
  double slack = 1;
  auto const of = [&]<fg::config C>(fg::at<C>) {
    constexpr fg::config c = widened(C);
    if constexpr (!fg::device::unsupported(c)) {
      family::tokens const tokens(61);
      for (auto const& loss : {fg::balance_losses{.expert = 0.5}, fg::balance_losses{.z = 0.5}}) {
        fg::routing_request request;
        if (!c.uniform) request.balance = loss;
        fg::batch b = tokens.batch(request);
        b.positions = {};
        compare<TestType, fg::mixture<c>>(61, 1000 + 50 * count, b, fg::gradients::overwrite,
                                          slack);
      }
      ++count;
    }
  };
  slack = 4;  // few numbers, and small gradients of routers
  fg::for_each(family::exact{}, of);
  slack = std::is_same_v<TestType, float> ? 500 : 10;  // rounding to bf16 may fall to either side
  fg::for_each(family::rounded{}, of);
  CHECK(count >= 15);
}

TEMPLATE_TEST_CASE("blocks of fp16 or f32: dense, and fused with norms", "", fp16, float) {
  NEED_GPU();
  std::uint64_t seed = 9000;
  for (std::int64_t T : {1, 50, 200}) {
    compare<TestType, fg::mlp<72, 136>>(T, seed += 100);
    constexpr auto block = fg::residual(fg::rmsnorm<72>{} | fg::mixture<layers::small>{});
    compare<TestType, std::remove_const_t<decltype(block)>>(T, seed += 100, {},
                                                            fg::gradients::overwrite, 2);
  }
}

TEMPLATE_TEST_CASE("a learned mix of two stages is the specification's", "", bf16, fp16, float) {
  NEED_GPU();
  using mix =
      decltype(fg::blend(fg::shared_experts<layers::small>{}, fg::routed_experts<layers::small>{}));
  using two = decltype(fg::residual(fg::rmsnorm<72>{} |
                                    fg::blend(fg::mlp<72, 40>{}, fg::linear<72, 72>{})));
  double const slack = std::is_same_v<TestType, bf16> ? 8 : 1;  // it has three bits fewer
  std::uint64_t seed = 40000;
  for (std::int64_t T : {0, 1, 7, 64, 130})
    for (auto const mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      compare<TestType, mix>(T, seed += 100, {}, mode, 2 * slack);
      compare<TestType, two>(T, seed += 100, {}, mode, 2 * slack);
    }
}

TEMPLATE_TEST_CASE("attention of fp16 or f32 is the specification's", "", fp16, float) {
  NEED_GPU();
  std::uint64_t seed = 20000;
  std::vector<std::int64_t> const starts{0, 3, 70, 200};
  fg::batch const cut{.starts = starts};
  // Gradients of scores are differences: of few tokens little is left of them.
  auto const all = [&]<fg::Expr E>(E) {
    for (std::int64_t T : {1, 7, 64, 130})
      compare<TestType, E>(T, seed += 100, {}, {}, T < 16 ? 20 : 4);
    compare<TestType, E>(200, seed += 100, cut, fg::gradients::accumulate, 4);
  };
  all(fg::attention<64, 4, 2, 16>{});
  all(fg::attention<72, 2, 1, 64>{});
  all(fg::attention<128, 2, 2, 72>{});
  all(fg::attention<64, 1, 1, 128>{});
  all(fg::attention<64, 2, 1, 136>{});
  all(fg::attention<64, 1, 1, 256>{});
  all(fg::attention<64, 4, 2, 16, fg::attention_form{.bias = true, .norm = fg::head_norm::each}>{});
  all(fg::attention<64, 4, 2, 16, fg::attention_form{.norm = fg::head_norm::all}>{});
}

TEMPLATE_TEST_CASE("a decoder of fp16 or f32: values, gradients, generation", "", fp16, float) {
  NEED_GPU();
  using T = TestType;
  using X = fg::basic_cuda<T>;
  fg::network<tiny::decoder, X> net({.deviation = 0.2});
  fg::network<tiny::decoder, fg::basic_reference<double>> exact;
  std::vector<T> w(net.parameters().size());
  fg::device::runtime::copy(w.data(), net.parameters().data(),
                            static_cast<std::int64_t>(w.size() * sizeof(T)), nullptr);
  for (std::size_t i = 0; i < w.size(); ++i) exact.parameters()[i] = static_cast<float>(w[i]);
  bool const narrow = sizeof(T) == 2;
  for (std::size_t n : {1u, 5u, 70u, 200u}) {
    tiny::text const text(n);
    std::vector<std::int64_t> const starts{0, static_cast<std::int64_t>(n / 2),
                                           static_cast<std::int64_t>(n)};
    fg::batch const b{
        .tokens = static_cast<std::int64_t>(n), .ids = text.inputs(), .starts = starts};
    fg::device_buffer<T> y(b.tokens * 32);
    net.forward(b, {}, {y.data(), b.tokens, 32});
    std::vector<double> wide(n * 32);
    exact.forward(b, {}, {wide.data(), b.tokens, 32});
    INFO(n);
    CHECK(off(wide, as_numbers(downloaded(y))) < (narrow ? 0.006 : 2e-5));
    numbers const dy = rounded<T>(random_numbers(b.tokens * 32, n));
    auto const on_device = uploaded(as<T>(dy));
    std::vector<double> const wide_dy(dy.begin(), dy.end());
    net.backward({on_device.data(), b.tokens, 32});
    exact.backward({wide_dy.data(), b.tokens, 32});
    std::vector<T> g(net.gradient().size());
    fg::device::runtime::copy(g.data(), net.gradient().data(),
                              static_cast<std::int64_t>(g.size() * sizeof(T)), nullptr);
    std::vector<double> const all(exact.gradient().begin(), exact.gradient().end());
    for (auto const& entry : net.entries()) {
      if (entry.role == fg::role::selection_bias) continue;
      INFO(entry.name);
      CHECK(off(part(all, entry), part(as_numbers(g), entry)) < (narrow ? 0.015 : 2e-4));
    }
  }
  // Tokens one at a time, with a cache, are the same as all at once.
  tiny::text const text(40);
  fg::device_buffer<T> all(40 * 32), one(32);
  net.infer({.tokens = 40, .ids = text.inputs()}, {}, {all.data(), 40, 32});
  numbers const y = as_numbers(downloaded(all));
  auto cache = net.make_cache(40);
  for (std::int64_t t = 0; t < 40; ++t) {
    net.infer({.tokens = 1, .ids = text.inputs().subspan(static_cast<std::size_t>(t), 1)}, {},
              {one.data(), 1, 32}, &cache);
    numbers const expected = rows(y, 32, t, 1);
    CHECK(off({expected.begin(), expected.end()}, as_numbers(downloaded(one))) <
          (narrow ? 0.004 : 1e-5));
  }
}

TEMPLATE_TEST_CASE("training in fp16 or f32 lowers the loss, and goes on from a file", "", fp16,
                   float) {
  NEED_GPU();
  using X = fg::basic_cuda<TestType>;
  tiny::text const text(64);
  fg::training how{.routing = {.balance = {.expert = 0.01}}, .bias = {.speed = 0.001}};
  fg::network<tiny::decoder, X> net({.deviation = 0.1});
  fg::network<tiny::decoder, fg::cpu> host({.deviation = 0.1});
  fg::trainer plain{host, fg::adamw{.lr = 3e-3}, how};
  how.loss_scale = sizeof(TestType) == 2 ? 1024 : 1;
  fg::trainer train{net, fg::adamw{.lr = 3e-3}, how};
  double first = 0, last = 0, host_last = 0;
  for (int step = 0; step < 60; ++step) {
    last = train.step(text.inputs(), text.targets()).loss;
    host_last = plain.step(text.inputs(), text.targets()).loss;
    if (step == 0) first = last;
  }
  CHECK(first == Approx(std::log(32.0)).epsilon(0.1));
  CHECK(last < 0.5 * first);
  CHECK(last == Approx(host_last).epsilon(sizeof(TestType) == 2 ? 0.1 : 0.02));

  auto const file = std::filesystem::temp_directory_path() / "finegrain_types_checkpoint";
  train.save(file);
  auto const next = train.step(text.inputs(), text.targets());
  fg::network<tiny::decoder, X> other;
  fg::trainer again{other, fg::adamw{.lr = 3e-3}, how};
  again.load(file);
  auto const same_next = again.step(text.inputs(), text.targets());
  CHECK(same_next.loss == next.loss);
  CHECK(same_next.gradient_norm == next.gradient_norm);
  plain.load(file);  // a checkpoint is any executor's
  CHECK(plain.evaluate(text.inputs(), text.targets()) == Approx(same_next.loss).epsilon(0.02));

  fg::save_weights(net, file);
  fg::load_weights(other, file);
  using place = fg::place<X>;
  auto const a = place::fetched(net.on(), net.parameters());
  auto const b = place::fetched(other.on(), std::as_const(other).parameters());
  CHECK(std::memcmp(a.data(), b.data(), a.size() * sizeof(TestType)) == 0);
  std::filesystem::remove(file);
}
