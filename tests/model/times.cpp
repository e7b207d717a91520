// Constant multipliers: of any stage's output, and as Granite's models have them.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/model/activations.hpp>
#include <finegrain/model/frozen.hpp>
#include <finegrain/model/generate.hpp>
#include <finegrain/plan/explain.hpp>
#include <finegrain/train/gradient_check.hpp>
#include <finegrain/train/trainer.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "compared.hpp"
#include "executors.hpp"

namespace fg = finegrain;

namespace {

constexpr int D = 16, V = 32;
constexpr auto first = fg::embedding<V, D>{};
constexpr auto attention =
    fg::attention<D, 2, 1, 8, fg::attention_form{.norm = fg::head_norm::each}>{};
constexpr auto ffn = fg::mixture<tiny::numbers.moe>{};
constexpr auto norm = fg::rmsnorm<D>{};
constexpr auto logits = fg::head<D, V>{};

/// The same with powers of two in the stages, and without: these are then in the weights.
using multiplied = decltype(first | fg::times<D, 4.0>{} |
                            fg::residual(norm | attention | fg::times<D, 0.5>{}) |
                            fg::residual(norm | ffn | fg::times<D, 0.25>{}) | norm |
                            fg::times<D, 0.125>{} | logits);
using plain =
    decltype(first | fg::residual(norm | attention) | fg::residual(norm | ffn) | norm | logits);

template <class X>
struct networks {
  fg::network<multiplied, X> one{{.deviation = 0.4, .seed = 3}};
  fg::network<plain, X> two{{.deviation = 0.4, .seed = 3}};

  /// What a weight of the plain network is times, for the same outputs.
  static double of(std::string const& name) {
    if (name == "embedding.table") return 4;
    if (name == "attention.output") return 0.5;
    if (name.ends_with(".down")) return 0.25;
    return name == "head.weight" ? 0.125 : 1;
  }
  networks() {
    for (auto const& entry : one.entries()) {
      auto const from = one.weight(entry.name), to = two.weight(entry.name);
      for (std::int64_t i = 0; i < from.size(); ++i)
        to.data[i] = from.data[i] * typename X::scalar(of(entry.name));
    }
  }
};

/// Cross-entropy of some classes.
template <class X>
struct entropy {
  using S = typename X::scalar;
  std::span<std::int32_t const> targets;
  std::int64_t* most = nullptr;  // rows that were asked for at a time
  double operator()(X const& on, std::int64_t from, fg::matrix<S const> y, fg::matrix<S> dy) const {
    if (most) *most = std::max(*most, y.rows);
    return cross_entropy(on, y, targets.subspan(std::size_t(from), std::size_t(y.rows)), 0.01, dy);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("a factor of a stage's output is one of its last weight, forward and backward",
                   "", EXECUTORS) {
  using S = typename TestType::scalar;
  networks<TestType> of;
  constexpr std::int64_t T = 50;
  auto const ids = some_ids<V>(T);
  std::vector<std::int64_t> const starts{0, 20, T};
  fg::batch const b{.tokens = T, .ids = ids, .starts = starts};
  std::vector<S> y(T * V), z = y;
  of.one.infer(b, {}, {y.data(), T, V});
  of.two.infer(b, {}, {z.data(), T, V});
  CHECK(off(z, y) < 1e-6);
  of.one.forward(b, {}, {y.data(), T, V});
  of.two.forward(b, {}, {z.data(), T, V});
  CHECK(off(z, y) < 1e-6);

  auto const check = [&] {
    for (auto const& entry : of.one.entries()) {
      INFO(entry.name);
      auto const got = of.one.gradient(entry.name), right = of.two.gradient(entry.name);
      std::vector<double> g, r;
      for (std::int64_t i = 0; i < got.size(); ++i) {
        g.push_back(double(got.data[i]));
        r.push_back(double(right.data[i]) * of.of(entry.name));
      }
      CHECK(off(r, g) < 5e-6);
    }
  };
  std::vector<S> dy(y.size());
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = S(fg::random_normal(7, i));
  of.one.backward({dy.data(), T, V});
  of.two.backward({dy.data(), T, V});
  check();
  auto const targets = some_ids<V>(T);
  double const made = of.one.learn(b, {}, entropy<TestType>{targets});
  CHECK(made == Approx(of.two.learn(b, {}, entropy<TestType>{targets})).epsilon(1e-6));
  check();
  CHECK(of.one.score(b, {}, entropy<TestType>{targets}) == Approx(made).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("a factor before the head leaves logits to be made some tokens at a time", "",
                   EXECUTORS) {
  constexpr std::int64_t T = 2 * fg::chunk_rows<TestType>(V) + 10;
  fg::network<tiny::multiplied_decoder, TestType> net({.deviation = 0.1, .seed = 1});
  auto const ids = some_ids<V>(T);
  std::int64_t most = 0;
  net.learn({.tokens = T, .ids = ids}, {}, entropy<TestType>{ids, &most});
  CHECK(most == fg::chunk_rows<TestType>(V));
}

TEST_CASE("gradients through factors, and of scores with a scale, are those of differences") {
  constexpr auto scaled =
      fg::attention<D, 2, 1, 8, fg::attention_form{.bias = true, .scale = 0.7}>{};
  using block = decltype(fg::times<D, -1.5>{} | fg::residual(norm | scaled | fg::times<D, 0.22>{}) |
                         fg::residual(norm | ffn | fg::times<D, 0.22>{}) | fg::times<D, 0.3>{});
  constexpr std::int64_t T = 7;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    fg::network<block, fg::reference> net({.deviation = 0.6, .seed = seed});
    std::vector<double> x(T * D);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = fg::random_normal(seed, i);
    auto const report = fg::check_gradients(net, {.tokens = T}, {x.data(), T, D});
    CHECK(report.worst < 2e-7);
    CHECK(report.partials > 10 * report.skipped);
  }
}

TEST_CASE("the cpu's network with constants is the specification's, learned and frozen") {
  fg::network<tiny::multiplied_decoder, fg::cpu> net({.deviation = 0.3, .seed = 3});
  fg::network<tiny::multiplied_decoder, fg::reference> exact;
  for (std::size_t i = 0; i < net.parameters().size(); ++i)
    exact.parameters()[i] = double(net.parameters()[i]);
  constexpr std::int64_t T = 61;
  auto const ids = some_ids<V>(T);
  fg::batch const b{.tokens = T, .ids = ids};
  std::vector<float> y(T * V);
  std::vector<double> right(T * V);
  exact(ids, {right.data(), T, V});
  net(ids, {y.data(), T, V});
  CHECK(off(right, y) < 2e-5);
  entropy<fg::cpu> const loss{ids};
  CHECK(net.learn(b, {}, loss) ==
        Approx(exact.learn(b, {}, entropy<fg::reference>{ids})).epsilon(1e-5));
  for (auto const& entry : net.entries()) {
    INFO(entry.name);
    auto const g = net.gradient(entry.name);
    auto const e = exact.gradient(entry.name);
    CHECK(off(std::span(e.data, std::size_t(e.size())), std::span(g.data, std::size_t(g.size()))) <
          5e-5);
  }

  auto const frozen = [&]<fg::format F>() {
    auto codes = fg::quantize<F>(net);
    codes(ids, {y.data(), T, V});
    return off(right, y);
  };
  CHECK(frozen.operator()<fg::format::f32>() < 2e-5);
  CHECK(frozen.operator()<fg::format::bf16>() < 0.03);
  CHECK(frozen.operator()<fg::format::int8>() < 0.1);
  auto same = fg::quantize<fg::format::bf16>(exact);  // of which the reference has no form
  std::vector<double> z(T * V);
  same(ids, {z.data(), T, V});
  CHECK(z == right);
}

TEMPLATE_TEST_CASE("under a loss a factor at the end learns as forward and backward do", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  using ends = decltype(fg::linear<D, D>{} | fg::times<D, -3.0>{});
  constexpr std::int64_t T = 50;
  fg::network<ends, TestType> net({.deviation = 0.4, .seed = 3});
  fg::network<fg::watched<ends, TestType>, TestType> watched({.deviation = 0.4, .seed = 3});
  std::vector<S> x(T * D), y(T * D), dy(T * D);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = S(fg::random_normal(1, i));
  fg::matrix<S const> const input{x.data(), T, D};
  auto const targets = [&] {
    std::vector<std::int32_t> some = some_ids<V>(T);
    for (auto& id : some) id %= D;
    return some;
  }();
  net.forward({.tokens = T}, input, {y.data(), T, D});
  double const right =
      entropy<TestType>{targets}(TestType{}, 0, {y.data(), T, D}, {dy.data(), T, D});
  net.backward({dy.data(), T, D});
  auto const all = [](auto const& gradient) {
    return std::vector<S>(gradient.data, gradient.data + gradient.size());
  };
  auto const gradient = all(net.gradient("linear.weight"));
  CHECK(net.learn({.tokens = T}, input, entropy<TestType>{targets}) == right);
  CHECK(all(net.gradient("linear.weight")) == gradient);
  fg::activations seen{watched, {"times"}};
  CHECK(watched.learn({.tokens = T, .seen = &seen}, input, entropy<TestType>{targets}) == right);
  CHECK(all(watched.gradient("linear.weight")) == gradient);
  CHECK(all(seen["times"]) == y);
}

TEST_CASE("a factor keeps nothing, and takes one matrix, backward alone") {
  constexpr fg::extent learning{64, 2, true}, answering{64, 2, false};
  constexpr std::int64_t one = 64 * D * sizeof(float);
  auto const costs = [&]<class With, class Without>(fg::extent e, std::int64_t most) {
    using with = fg::plan<fg::cpu, With>;
    using without = fg::plan<fg::cpu, Without>;
    CHECK(fg::memory_bytes<typename with::saved>(e) ==
          fg::memory_bytes<typename without::saved>(e));
    CHECK(fg::memory_bytes<typename with::scratch>(e) ==
          fg::memory_bytes<typename without::scratch>(e) + most);
  };
  auto const of = [&]<class With, class Without>() {
    costs.template operator()<With, Without>(learning, one);
    costs.template operator()<With, Without>(answering, 0);
  };
  using half = fg::times<D, 0.5>;
  using product = fg::linear<D, D>;
  of.operator()<decltype(product{} | half{}), product>();
  of.operator()<decltype(fg::residual(norm | ffn | half{})), decltype(fg::residual(norm | ffn))>();
  of.operator()<decltype(fg::residual(norm | attention | half{})),
                decltype(fg::residual(norm | attention))>();

  using under = fg::scored<fg::cpu, decltype(norm | half{})>;
  using plain = fg::scored<fg::cpu, std::remove_const_t<decltype(norm)>>;
  CHECK(fg::memory_bytes<under::saved>(learning) == fg::memory_bytes<plain::saved>(learning));
  CHECK(fg::memory_bytes<under::scratch>(learning) ==
        fg::memory_bytes<plain::scratch>(learning) + one);
}

TEST_CASE("a factor works where its input lies, and is a line of its own") {
  constexpr fg::extent e{64, 2, true};
  using ends = decltype(fg::linear<D, D>{} | fg::times<D, 0.5>{});
  CHECK(fg::parameters(fg::times<D, 0.5>{}) == 0);
  CHECK(fg::flops(fg::times<D, 0.5>{}, 64) == 0);
  CHECK_THAT(fg::describe(ends{}), ContainsSubstring("times       16 -> 16       by 0.5"));
  auto const nodes = fg::explain_nodes<tiny::multiplied_decoder, fg::cpu>(e);
  auto const plans = [&](std::string const& name) {
    std::vector<std::string> found;
    for (auto const& node : nodes)
      if (node.name == name) found.push_back(node.plan);
    return found;
  };
  using list = std::vector<std::string>;
  // of the embedding; in the dense layer's two residuals and the other's; of the logits
  CHECK(plans("times") == list{"its own", "", "its own", "", "", "its own"});
  CHECK(plans("residual") == list{"fused", "composed", "fused", "fused"});
}

TEMPLATE_TEST_CASE("watched and timed networks with constants have their bits", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using E = tiny::multiplied_decoder;
  constexpr std::int64_t T = 30;
  auto const ids = some_ids<V>(T);
  fg::network<E, TestType> net({.deviation = 0.3, .seed = 3});
  fg::network<fg::watched<E, TestType>, TestType> watched({.deviation = 0.3, .seed = 3});
  fg::network<fg::watched<E, TestType, "times">, TestType> apart({.deviation = 0.3, .seed = 3});
  fg::network<fg::timed<E, TestType>, TestType> timed({.deviation = 0.3, .seed = 3});
  std::vector<S> y(T * V), z = y;
  net(ids, {y.data(), T, V});
  fg::timings times;
  timed.infer({.tokens = T, .ids = ids, .times = &times}, {}, {z.data(), T, V});
  CHECK(y == z);
  watched(ids, {z.data(), T, V});
  CHECK(y == z);
  fg::activations seen{apart, {"times", "embedding"}};
  apart.infer({.tokens = T, .ids = ids, .seen = &seen}, {}, {z.data(), T, V});
  CHECK(off(y, z) < 1e-6);
  auto const rows = seen["embedding"], twelve = seen["times"];
  for (std::int64_t i = 0; i < rows.size(); ++i) REQUIRE(twelve.data[i] == 12 * rows.data[i]);
}

TEST_CASE("a decoder with constants learns, and continues a text") {
  tiny::text const text(68);
  fg::network<tiny::multiplied_decoder, fg::cpu> net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  for (int i = 0; i < 150; ++i) train.step(text.inputs(), text.targets());
  CHECK(train.step(text.inputs(), text.targets()).loss < 0.2);
  std::vector<std::int32_t> ids;
  fg::generate(net, text.inputs().first(40), 20, {}, [&](std::int32_t id) { ids.push_back(id); });
  CHECK(ids == std::vector<std::int32_t>(text.targets().begin() + 39, text.targets().begin() + 59));
}
