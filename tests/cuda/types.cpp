// Networks of fp16 and of f32 on the device, against the specification in double: layers of experts and
// attention. Those of bf16 have tests of their own; model.cpp has a whole decoder of each.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/describe.hpp>

#include "../catch.hpp"
#include "../family.hpp"
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
void check(std::int64_t tokens, std::uint64_t seed, fg::batch const& b = {},
           fg::gradients mode = fg::gradients::overwrite, double slack = 1,
           fg::device::instructions use = fg::device::instructions::all) {
  comparison const c = compare<E, T>(tokens, seed, b, mode, use);
  INFO(fg::describe(E{}) << tokens << " tokens, adding " << (mode == fg::gradients::accumulate)
                         << "; the worst gradient is that of " << c.worst);
  CHECK(c.y < slack * near<T>.y);
  CHECK(c.dx < slack * near<T>.dx);
  CHECK(c.dw < slack * near<T>.dw);
}

}  // namespace

TEMPLATE_TEST_CASE("a mixture of fp16 or f32 is the specification's", "", fp16, float) {
  NEED_GPU();
  constexpr auto add = fg::gradients::accumulate, over = fg::gradients::overwrite;
  for (std::int64_t T : on_device::sizes_here({0, 1, 2, 7, 33, 64, 129, 300})) {
    if (on_device::emulated() && T > 7) break;
    check<TestType, fg::mixture<layers::small>>(T, 100 + 7 * T);
    check<TestType, fg::mixture<layers::small>>(T, 500 + 7 * T, {}, add);
    check<TestType, fg::mixture<layers::small>>(T, 900 + 7 * T, {}, over, 1,
                                                fg::device::instructions::portable);
  }
  for (std::int64_t T : on_device::sizes_here({1, 40, 513}))
    check<TestType, fg::mixture<layers::wide>>(T, 200 + 7 * T);
  for (std::int64_t T : on_device::sizes_here({1, 5, 257}))
    check<TestType, fg::mixture<layers::alone>>(T, 300 + 7 * T, {}, add);
}

TEMPLATE_TEST_CASE("a mixture with ReLU, of fp16 or f32", "", fp16, float) {
  NEED_GPU();
  for (std::int64_t T : on_device::sizes_here({1, 5, 33, 150}))
    check<TestType, fg::mixture<layers::relu>>(T, 400 + 7 * T);
}

TEMPLATE_TEST_CASE("a mixture whose experts have a limit, of fp16 or f32", "", fp16, float) {
  NEED_GPU();
  for (std::int64_t T : on_device::sizes_here({1, 33}))
    check<TestType, fg::mixture<layers::limited>>(T, 500 + 7 * T);
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
        check<TestType, fg::mixture<c>>(61, 1000 + 50 * count, b, fg::gradients::overwrite, slack);
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
  for (std::int64_t T : on_device::sizes_here({1, 50, 200})) {
    check<TestType, fg::mlp<72, 136>>(T, seed += 100);
    constexpr auto block = fg::residual(fg::rmsnorm<72>{} | fg::mixture<layers::small>{});
    check<TestType, std::remove_const_t<decltype(block)>>(T, seed += 100, {},
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
  for (std::int64_t T : on_device::sizes_here({0, 1, 7, 64, 130}))
    for (auto const mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      check<TestType, mix>(T, seed += 100, {}, mode, 2 * slack);
      check<TestType, two>(T, seed += 100, {}, mode, 2 * slack);
    }
}

TEMPLATE_TEST_CASE("attention of fp16 or f32 is the specification's", "[hardware]", fp16, float) {
  NEED_GPU();
  std::uint64_t seed = 20000;
  std::vector<std::int64_t> const starts{0, 3, 70, 200};
  fg::batch const cut{.starts = starts};
  // Gradients of scores are differences: of few tokens little is left of them.
  auto const all = [&]<fg::Expr E>(E) {
    for (std::int64_t T : on_device::sizes_here({1, 7, 64, 130}))
      check<TestType, E>(T, seed += 100, {}, {}, T < 16 ? 20 : 4);
    check<TestType, E>(200, seed += 100, cut, fg::gradients::accumulate, 4);
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
