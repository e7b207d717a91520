// timed: the same network with clocks, and what they say.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/timed.hpp>

#include <algorithm>
#include <finegrain/model/frozen.hpp>
#include <finegrain/plan/explain.hpp>
#include <finegrain/plan/watched.hpp>
#include <finegrain/train/trainer.hpp>
#include <vector>

#include "../catch.hpp"
#include "../model/executors.hpp"
#include "../tiny.hpp"

namespace {

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 16, .width = 8, .routed = 4, .top_k = 2, .shared = 1};
struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<16>{} | fg::attention<16, 2>{}) |
                               fg::residual(fg::rmsnorm<16>{} | fg::mixture<moe>{});
};
/// A name for what is made of two expressions: neither a node of the algebra nor a sequence.
template <fg::Expr A, fg::Expr B>
struct both : fg::named {
  static constexpr auto expr = fg::residual(A{}) | fg::residual(B{});
};
using nested = decltype(fg::repeat<3>(fg::repeat<2>(block{}) | fg::linear<16, 16>{}) |
                        fg::blend(fg::mlp<16, 8>{}, fg::linear<16, 16>{} + fg::mlp<16, 8>{}));

/// Lines with a plan, by name; the first `skip` of that name are passed over.
fg::explained const& line(std::vector<fg::explained> const& lines, std::string const& name,
                          int skip = 0) {
  for (auto const& one : lines)
    if (one.name == name && !one.plan.empty() && skip-- == 0) return one;
  throw std::runtime_error("no line " + name);
}

/// A step's text, and three steps on it with a trainer of its own: the weights that come out.
template <class Network>
auto trained(Network& net, tiny::text const& text, fg::timings* times) {
  fg::trainer train{net, fg::adamw{.lr = 1e-2}};
  for (int step = 0; step < 3; ++step)
    train.step({.tokens = 32, .ids = text.inputs(), .times = times}, text.targets());
  return std::vector(net.parameters().begin(), net.parameters().end());
}

template <class E, class X>
void clocks_change_nothing() {
  using T = fg::timed<E, X>;
  STATIC_REQUIRE(fg::weights_size<T>() == fg::weights_size<E>());
  STATIC_REQUIRE(fg::flops(T{}, 32) == fg::flops(E{}, 32));
  CHECK(fg::describe(T{}) == fg::describe(E{}));
  fg::network<E, X> plain;
  fg::network<T, X> clocked;
  fg::extent const e = plain.extent_of(32, true);
  CHECK(plain.learning_bytes(e) == clocked.learning_bytes(e));
  CHECK(plain.workspace_bytes(e) == clocked.workspace_bytes(e));
  REQUIRE(plain.entries().size() == clocked.entries().size());
  for (std::size_t i = 0; i < plain.entries().size(); ++i) {
    CHECK(plain.entries()[i].name == clocked.entries()[i].name);
    CHECK(plain.entries()[i].offset == clocked.entries()[i].offset);
  }
  tiny::text const text(32);
  fg::timings times;
  auto const expected = trained(plain, text, nullptr);
  CHECK_THROWS_AS(trained(plain, text, &times), fg::invalid_argument);  // it has no clocks
  CHECK(trained(clocked, text, &times) == expected);
  CHECK(times.rows[0].both.calls == 3);
  fg::network<T, X> unasked;
  CHECK(trained(unasked, text, nullptr) == expected);
}

}  // namespace

TEMPLATE_TEST_CASE("clocks change no weight, no memory, no description and no bit", "", EXECUTORS) {
  clocks_change_nothing<tiny::decoder, TestType>();
  clocks_change_nothing<tiny::tied_decoder, TestType>();
}

TEMPLATE_TEST_CASE("every node counts its calls, a repeated one all of them", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<fg::timed<nested, TestType>, TestType> net;
  std::int64_t const T = GENERATE(0, 5);
  std::vector<S> x(std::size_t(T * 16), S(0.5)), y(x.size());
  fg::matrix<S> const in{x.data(), T, 16}, out{y.data(), T, 16};
  fg::timings times;
  fg::batch const b{.tokens = T, .times = &times};
  net.infer(b, in, out);
  net.forward(b, in, out);
  net.backward(in);
  auto const lines = fg::explain_nodes<nested, TestType>(net.extent_of(T, true), times);
  CHECK(times.rows.size() == std::size_t(std::count_if(lines.begin(), lines.end(), [](auto& one) {
          return !one.plan.empty();
        })));
  auto const calls = [&](std::string const& name, int skip, std::int64_t each) {
    INFO(name);
    fg::explained const& one = line(lines, name, skip);
    CHECK(one.times.forward.calls == 2 * each);
    CHECK(one.times.backward.calls == each);
    CHECK(one.times.both.calls == 0);
    CHECK(one.times.seconds() > 0);
  };
  calls("total", 0, 1);
  calls("repeat 3", 0, 1);
  calls("repeat 2", 0, 3);
  calls("block", 0, 6);
  calls("residual", 1, 6);
  calls("linear", 0, 3);
  calls("blend", 0, 1);
  calls("mlp", 1, 1);
}

TEMPLATE_TEST_CASE("a name of two expressions has the nodes of what it stands for", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using E = both<fg::linear<16, 16>, fg::mlp<16, 8>>;
  fg::network<fg::timed<E, TestType>, TestType> net;
  std::vector<S> x(16, S(0.5)), y(16);
  fg::timings times;
  net.infer({.tokens = 1, .times = &times}, {x.data(), 1, 16}, {y.data(), 1, 16});
  auto const lines = fg::explain_nodes<E, TestType>(net.extent_of(1), times);
  CHECK(line(lines, "residual", 1).times.forward.calls == 1);
  CHECK(fg::describe(fg::watched<E, TestType, "residual">{}) == fg::describe(E{}));
}

TEMPLATE_TEST_CASE("the parts of a node take no longer than the node", "", EXECUTORS) {
  using E = tiny::decoder;
  fg::network<fg::timed<E, TestType>, TestType> net;
  fg::timings times;
  trained(net, tiny::text(32), &times);
  auto lines = fg::explain_nodes<E, TestType>(net.extent_of(32, true), times);
  CHECK(line(lines, "decoder").times.seconds() <= line(lines, "total").times.seconds());
  lines.pop_back();  // the total is no part
  for (std::size_t i = 0; i < lines.size(); ++i) {
    double parts = 0;
    int count = 0;
    for (std::size_t j = i + 1; j < lines.size() && lines[j].depth > lines[i].depth; ++j)
      if (lines[j].depth == lines[i].depth + 1 && !lines[j].plan.empty())
        parts += lines[j].times.seconds(), ++count;
    INFO(lines[i].name);
    CHECK((count > 0) == (lines[i].plan == "composed"));
    CHECK(parts <= lines[i].times.seconds() * (1 + 1e-9));
  }
}

TEST_CASE("what has one plan has one clock, and what ends in a loss one for all three passes") {
  using E = tiny::decoder;
  fg::network<fg::timed<E, fg::cpu>, fg::cpu> net;
  fg::timings times;
  tiny::text const text(32);
  trained(net, text, &times);
  auto const lines = fg::explain_nodes<E, fg::cpu>(net.extent_of(32, true), times);
  CHECK(line(lines, "residual").plan == "fused");
  CHECK_THROWS(line(lines, "mixture"));
  fg::explained const& head = line(lines, "head");
  CHECK(head.times.both.calls == 3);
  CHECK(head.times.forward.calls + head.times.backward.calls == 0);
  CHECK(line(lines, "embedding").times.backward.calls == 3);
  CHECK(head.times.passes() == 9);

  times.rows.clear();
  fg::trainer train{net};
  train.evaluate({.tokens = 32, .ids = text.inputs(), .times = &times}, text.targets());
  CHECK(times.rows[0].forward.calls == 1);
  CHECK(times.rows[0].both.calls == 0);
}

TEST_CASE("a frozen network's weights cost what it holds") {
  using E = fg::mlp<256, 512>;
  constexpr fg::extent e{.tokens = 1, .workers = 1};
  static_assert(fg::cost_of<E, fg::cpu>(e).weight_bytes == 3 * 256 * 512 * 4);
  static_assert(fg::cost_of<E, fg::cpu, fg::format::bf16>(e).weight_bytes == 3 * 256 * 512 * 2);
  static_assert(fg::cost_of<E, fg::cpu, fg::format::int4>(e).weight_bytes ==
                fg::frozen<E, fg::cpu, fg::format::int4>::weight_bytes());
  using tied = decltype(fg::tied(fg::embedding<128, 256>{}, E{}));  // its table in two forms
  static_assert(fg::cost_of<tied, fg::cpu, fg::format::int4>({.tokens = 128}).weight_bytes ==
                fg::frozen<tied, fg::cpu, fg::format::int4>::weight_bytes());
  using blend = decltype(fg::blend(E{}, fg::linear<256, 256>{}));
  static_assert(fg::cost_of<blend, fg::cpu, fg::format::int4>(e).weight_bytes ==
                fg::frozen<blend, fg::cpu, fg::format::int4>::weight_bytes());
  // of experts that are not all read, their share
  constexpr fg::config c{.hidden = 64, .width = 32, .routed = 16, .top_k = 4};
  using layer = fg::mixture<c>;
  std::int64_t const all = fg::frozen<layer, fg::cpu, fg::format::bf16>::weight_bytes();
  auto const read = [](std::int64_t tokens) {
    return fg::cost_of<layer, fg::cpu, fg::format::bf16>({.tokens = tokens}).weight_bytes;
  };
  CHECK(read(1) > all / 4);
  CHECK(read(1) < all / 3);
  CHECK(read(4) == all);
  CHECK_THAT((fg::explain<E, fg::cpu, fg::format::bf16>(e)), ContainsSubstring("0.786"));
}

TEST_CASE("explain says for which instruction set and for how many threads") {
  using E = fg::linear<16, 16>;
  auto const first_line = [](std::string const& text) { return text.substr(0, text.find('\n')); };
  std::string const compiled = std::string("compiled for ") + fg::cpu::isa;
  CHECK(first_line(fg::explain<E, fg::cpu>(4)) == compiled + ", 1 thread");
  CHECK(first_line(fg::explain<E, fg::cpu>(4, 2)) == compiled + ", 2 threads");
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVXVNNI__) && !defined(__AVX512F__)
  CHECK(fg::cpu::isa == std::string("avx2"));
#endif
  CHECK_THAT(first_line(fg::explain<E, fg::reference>(4)), ContainsSubstring("GFLOP"));
}

TEST_CASE("explain puts what was measured beside the limit") {
  using E = decltype(fg::linear<16, 16>{} | fg::mlp<16, 8>{});
  fg::timings times;
  times.rows = {
      {.both = {2, 0.010}}, {.forward = {2, 0.002}, .backward = {2, 0.004}}, {.both = {2, 0.003}}};
  fg::extent const e{1000, 1, true};
  // 2 x 16 x 16 x 1000 operations in 512 ms forward, and 1024 ms backward
  std::string const text = fg::explain<E, fg::cpu>(e, {.flops = 1e6, .bytes = 1e12}, times);
  INFO(text);
  CHECK_THAT(text, ContainsSubstring("calls  forward ms  backward ms     ms  ms at least"));
  CHECK_THAT(text, ContainsSubstring("2       1.000        2.000  3.000"));
  CHECK_THAT(text, ContainsSubstring("1536.0   51200 %"));
  CHECK_THAT(text, ContainsSubstring("1.500"));
  CHECK_THAT((fg::explain<E, fg::cpu>(e, {}, times)), !ContainsSubstring("least"));
  times.rows.emplace_back();
  CHECK_THROWS_WITH((fg::explain<E, fg::cpu>(e, {}, times)),
                    "the timings have 4 rows and the expression has 3");
}
