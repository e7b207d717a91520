// Activations by name: what a node's own call makes, in every pass, and the gradients of that.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/model/activations.hpp>

#include <finegrain/model/frozen.hpp>
#include <finegrain/plan/explain.hpp>
#include <finegrain/train/trainer.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "block.hpp"

namespace fg = finegrain;

namespace {

using small::numbers;

/// A model whose layers have a name of the user's own, and ends in one with odd widths.
struct reader : fg::named {
  static constexpr auto expr = fg::embedding<32, 16>{} | fg::repeat<2>(small::block{}) |
                               fg::rmsnorm<16>{} | fg::linear<16, 7>{} | fg::head<7, 11>{};
};
/// A stage without a name of its own.
struct halved : fg::stage<16> {};

template <class X>
using apart = fg::watched<reader, X, "attention", "mixture">;

/// A block that is called as a stage in it is.
struct mlp : fg::named {
  static constexpr auto expr =
      fg::residual(fg::rmsnorm<16>{} | fg::mlp<16, 8>{}) | fg::linear<16, 16>{};
};

/// Rows as they are, bit by bit.
template <class S>
bool same(fg::matrix<S const> a, fg::matrix<S const> b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (std::int64_t t = 0; t < a.rows; ++t)
    if (std::memcmp(a.row(t), b.row(t), std::size_t(a.cols) * sizeof(S)) != 0) return false;
  return true;
}

/// One stage by itself, with the weights that a part of a network has.
template <class E, class Net>
fg::network<E, typename Net::executor> part_of(Net const& net, std::string const& path) {
  fg::network<E, typename Net::executor> part({}, net.on());
  for (auto const& entry : part.entries()) {
    auto const from = net.weight(path + entry.name);
    std::copy_n(from.data, from.size(), part.weight(entry.name).data);
  }
  return part;
}
template <class E, class Net, class S = typename Net::S>
numbers<S> call(Net const& net, std::string const& path, fg::batch b,
                std::type_identity_t<fg::matrix<S const>> x) {
  numbers<S> y(b.tokens, fg::out_width<E>());
  b.seen = nullptr;
  part_of<E>(net, path).infer(b, x, y);
  return y;
}
template <class S>
numbers<S> plus(numbers<S> a, numbers<S> const& b) {
  for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
  return a;
}

}  // namespace

template <>
struct fg::plan<fg::cpu, halved> {
  using saved = fg::nothing;
  using scratch = fg::nothing;
  template <class W>
  static void forward(fg::pass<fg::cpu>, W const&, saved const&, fg::matrix<float const> x,
                      fg::matrix<float> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int c = 0; c < 16; ++c) y(t, c) = x(t, c) / 2;
  }
};

TEMPLATE_TEST_CASE("watching changes no weight, no memory, no description and no bit", "",
                   EXECUTORS) {
  using E = tiny::decoder;
  using W = fg::watched<E, TestType>;
  STATIC_REQUIRE(fg::weights_size<W>() == fg::weights_size<E>());
  CHECK(fg::describe(W{}) == fg::describe(E{}));
  fg::network<E, TestType> plain;
  fg::network<W, TestType> net;
  fg::extent const e = plain.extent_of(32, true);
  CHECK(plain.learning_bytes(e) == net.learning_bytes(e));
  CHECK(plain.workspace_bytes(e) == net.workspace_bytes(e));
  tiny::text const text(32);
  fg::activations seen{net};
  auto const trained = [&](auto& one, fg::any_activations* to) {
    fg::trainer train{one, fg::adamw{.lr = 1e-2}};
    for (int step = 0; step < 3; ++step)
      train.step({.tokens = 32, .ids = text.inputs(), .seen = to}, text.targets());
    return std::vector(one.parameters().begin(), one.parameters().end());
  };
  auto const expected = trained(plain, nullptr);
  CHECK(trained(net, &seen) == expected);
  fg::network<W, TestType> unasked;
  CHECK(trained(unasked, nullptr) == expected);
  // Attention and mixtures by themselves add up as they do inside a residual's plan.
  using A = fg::watched<E, TestType, "attention", "mixture">;
  fg::network<A, TestType> by_themselves;
  fg::activations all{by_themselves};
  CHECK(trained(by_themselves, &all) == expected);
}

TEMPLATE_TEST_CASE("a node's activations are what a call of it alone makes", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<apart<TestType>, TestType> net({.deviation = 0.3});
  fg::activations seen{net};
  for (std::int64_t const T : {9, 1, 30, 4}) {  // memory of the third is new
    tiny::text const text{std::size_t(T)};
    std::vector<std::int64_t> const starts{0, T / 3, T};
    fg::batch const b{.tokens = T, .ids = text.inputs(), .starts = starts, .seen = &seen};
    numbers<S> logits(T, 11);
    if (T % 2 == 0)
      net.infer(b, {}, logits);
    else
      net.forward(b, {}, logits);
    numbers<S> x = call<fg::embedding<32, 16>>(net, "embedding.", b, {});
    auto const check = [&](std::string const& name, numbers<S> const& made) {
      INFO(name << " of " << T);
      CHECK(same<S>(seen[name], made));
    };
    check("embedding", x);
    for (std::string const layer : {"layers.0", "layers.1"}) {
      auto const part = [&]<class E>(E, std::string const& name, numbers<S> const& in) {
        numbers<S> made = call<E>(net, layer + "." + name + ".", b, in);
        check(layer + "." + name, made);
        return made;
      };
      using fg::rmsnorm;
      x = plus(part(fg::attention<16, 2>{}, "attention", part(rmsnorm<16>{}, "rmsnorm", x)), x);
      check(layer + ".residual", x);
      x = plus(part(fg::mixture<small::moe>{}, "mixture", part(rmsnorm<16>{}, "rmsnorm_2", x)), x);
      check(layer + ".residual_2", x);
      check(layer + ".block", x);
      check(layer, x);
    }
    check("repeat", x);
    x = call<fg::rmsnorm<16>>(net, "rmsnorm.", b, x);
    check("rmsnorm", x);
    x = call<fg::linear<16, 7>>(net, "linear.", b, x);
    check("linear", x);
    check("head", logits);
    check("reader", logits);
  }
}

TEMPLATE_TEST_CASE("outputs that go to rows with gaps, and wanted rows", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<fg::watched<reader, TestType>, TestType> net({.deviation = 0.3});
  fg::activations seen{net, {"head", "linear", "layers.1"}};
  constexpr std::int64_t T = 13;
  tiny::text const text(T);
  numbers<S> wide(T, 14), all(T, 11), some(2, 11);
  fg::matrix<S> const y(wide.values.data(), T, 11, 14);
  net.infer({.tokens = T, .ids = text.inputs(), .seen = &seen}, {}, y);
  CHECK(same<S>(seen["head"], y));
  net.infer({.tokens = T, .ids = text.inputs()}, {}, all);
  CHECK(same<S>(seen["head"], all));
  numbers<S> stream(T, 16);
  std::copy_n(seen["layers.1"].data, stream.values.size(), stream.values.begin());

  std::vector<std::int64_t> const wanted{3, 12};
  net.infer({.tokens = T, .ids = text.inputs(), .wanted = wanted, .seen = &seen}, {}, some);
  CHECK(same<S>(seen["head"], some));
  CHECK(same<S>(seen["layers.1"], stream));
  CHECK(seen["linear"].rows == T);  // `a | b` spares its last stage alone
  net.infer({.tokens = T, .ids = text.inputs(), .seen = &seen}, {}, some.first(0));
  CHECK(seen["head"].rows == 0);
  net.infer({.seen = &seen}, {}, some.first(0));
  CHECK(seen["layers.1"].rows == 0);
}

TEMPLATE_TEST_CASE("every node has a name, and those that run in one plan say so", "", EXECUTORS) {
  using nested = decltype(fg::repeat<2>(fg::repeat<2>(fg::mlp<16, 8>{}) | fg::linear<16, 16>{}) |
                          fg::blend(fg::mlp<16, 8>{}, fg::linear<16, 16>{} + fg::mlp<16, 8>{}) |
                          fg::residual(fg::residual(fg::mlp<16, 8>{})) |
                          fg::repeat<1>(fg::mixture<small::moe>{}));
  using W = fg::watched<nested, TestType, "shared_experts">;
  fg::network<W, TestType> net;
  using names = std::vector<std::string>;
  fg::activations seen{net};
  CHECK(seen.names() == names{"repeat",
                              "layers.0",
                              "layers.0.repeat",
                              "layers.0.layers.0",
                              "layers.0.layers.0.mlp",
                              "layers.0.layers.1",
                              "layers.0.layers.1.mlp",
                              "layers.0.linear",
                              "layers.1",
                              "layers.1.repeat",
                              "layers.1.layers.0",
                              "layers.1.layers.0.mlp",
                              "layers.1.layers.1",
                              "layers.1.layers.1.mlp",
                              "layers.1.linear",
                              "blend",
                              "mlp",
                              "sum",
                              "linear",
                              "mlp_2",
                              "residual",
                              "residual_2",
                              "mlp_3",
                              "repeat_2",
                              "layers.2",
                              "layers.2.mixture",
                              "layers.2.mixture.sum",
                              "layers.2.mixture.shared_experts",
                              "layers.2.mixture.routed_experts"});
  // Each begins a name of a weight, but for what has none and the parts of a mixture.
  for (std::string const& name : seen.names()) {
    if (name.find("repeat") + name.find("blend") + name.find("sum") + name.find("residual") +
            name.find("experts") !=
        5 * std::string::npos)
      continue;
    INFO(name);
    bool any = false;
    for (auto const& entry : net.entries()) any |= entry.name.starts_with(name + ".");
    CHECK(any);
  }
  CHECK((fg::activations{net, {"layers.*.layers.1.mlp", "mlp_2"}}.names() ==
         names{"layers.0.layers.1.mlp", "layers.1.layers.1.mlp", "mlp_2"}));
  CHECK((fg::activations{net, "mlp_2"}.names() == names{"mlp_2"}));
  CHECK((fg::activations{net, std::string_view("*layers.1.mlp")}.names() ==
         names{"layers.0.layers.1.mlp", "layers.1.layers.1.mlp"}));
  CHECK((fg::activations{net, {"mlp_2", "mlp_3"}}.names() == names{"mlp_2", "mlp_3"}));
  CHECK((fg::activations{net, {"mlp_2", "mlp_2", "*2"}}.names() ==
         names{"mlp_2", "residual_2", "repeat_2", "layers.2"}));

  using S = typename TestType::scalar;
  auto const x = numbers<S>::random(6, 16, 1);
  numbers<S> y(6, 16);
  fg::batch const b{.tokens = 6, .seen = &seen};
  net.infer(b, x, y);
  numbers<S> made(x);
  for (std::string const i : {"0", "1"}) {
    for (std::string const j : {"0", "1"}) {
      std::string const name = "layers." + i + ".layers." + j;
      made = call<fg::mlp<16, 8>>(net, name + ".mlp.", b, made);
      CHECK(same<S>(seen[name], made));
      CHECK(same<S>(seen[name + ".mlp"], made));
    }
    made = call<fg::linear<16, 16>>(net, "layers." + i + ".linear.", b, made);
    CHECK(same<S>(seen["layers." + i], made));
  }
  auto const sum = plus(call<fg::linear<16, 16>>(net, "linear.", b, made),
                        call<fg::mlp<16, 8>>(net, "mlp_2.", b, made));
  CHECK(same<S>(seen["sum"], sum));
  CHECK(same<S>(seen["layers.2.mixture"], y));
}

TEST_CASE("a name that weights begin with is the stage's, whatever a block around it is called") {
  using E = decltype(fg::repeat<1>(mlp{}) | fg::mlp<16, 4>{});
  fg::network<fg::watched<E, fg::reference>, fg::reference> const net;
  fg::activations const seen{net};
  CHECK(seen.names() == std::vector<std::string>{"repeat", "layers.0", "layers.0.mlp_2",
                                                 "layers.0.residual", "layers.0.rmsnorm",
                                                 "layers.0.mlp", "layers.0.linear", "mlp"});
  CHECK(net.weight("layers.0.mlp.gate").rows == 8);
}

TEMPLATE_TEST_CASE("gradients of nodes are those of what comes behind them", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using E = decltype(fg::repeat<2>(small::block{}) | fg::linear<16, 5>{});
  fg::network<fg::watched<E, TestType>, TestType> net({.deviation = 0.3});
  fg::activations seen{net};
  constexpr std::int64_t T = 7;
  auto const x = numbers<S>::random(T, 16, 1), dy = numbers<S>::random(T, 5, 2);
  numbers<S> y(T, 5), dx(T, 16), more(T, 16);
  fg::batch const b{.tokens = T, .seen = &seen};
  net.forward(b, x, y);
  CHECK_THROWS_WITH(seen.gradient("layers.0"), "no backward pass has come by \"layers.0\" yet");
  net.backward(dy, dx);
  CHECK(same<S>(seen.gradient("linear"), dy));

  using L = fg::linear<16, 5>;
  auto head = part_of<L>(net, "linear.");
  numbers<S> h(T, 16);
  std::copy_n(seen["layers.1"].data, h.values.size(), h.values.begin());
  head.forward({.tokens = T}, h, y);
  head.backward(dy, more);
  CHECK(same<S>(seen.gradient("layers.1"), more));
  CHECK(same<S>(seen.gradient("layers.1.residual_2"), more));
  auto layer = part_of<small::block>(net, "layers.1.");
  std::copy_n(seen["layers.0"].data, h.values.size(), h.values.begin());
  numbers<S> out(T, 16), dh(T, 16);
  layer.forward({.tokens = T}, h, out);
  layer.backward(more, dh);
  CHECK(same<S>(seen.gradient("layers.0"), dh));

  // A second backward of the same forward, and an infer between.
  net.backward(dy, dx, fg::gradients::accumulate);
  CHECK(same<S>(seen.gradient("layers.0"), dh));
  net.infer(b, x, y);
  CHECK_THROWS_WITH(seen.gradient("layers.0"), "no backward pass has come by \"layers.0\" yet");
}

TEST_CASE("a node's gradient is the loss's slope along what it made") {
  using S = double;
  using X = fg::reference;
  using E = decltype(fg::linear<5, 3>{} | fg::mlp<3, 7>{} | fg::linear<3, 2>{});
  fg::network<fg::watched<E, X>, X> net({.deviation = 0.5});
  fg::activations seen{net, {"linear"}};
  constexpr std::int64_t T = 4;
  auto const x = numbers<S>::random(T, 5, 1), dy = numbers<S>::random(T, 2, 2);
  numbers<S> y(T, 2);
  net.forward({.tokens = T, .seen = &seen}, x, y);
  net.backward(dy);
  numbers<S> h(T, 3);
  std::copy_n(seen["linear"].data, h.values.size(), h.values.begin());
  auto const loss = [&] {  // <dy, what is made of h>
    auto const made = call<fg::linear<3, 2>>(net, "linear_2.", {.tokens = T},
                                             call<fg::mlp<3, 7>>(net, "mlp.", {.tokens = T}, h));
    double sum = 0;
    for (std::size_t i = 0; i < made.values.size(); ++i) sum += made.values[i] * dy.values[i];
    return sum;
  };
  for (std::size_t i = 0; i < h.values.size(); ++i) {
    double const at = h.values[i], step = 1e-5;
    h.values[i] = at + step;
    double const above = loss();
    h.values[i] = at - step;
    double const slope = (above - loss()) / (2 * step);
    h.values[i] = at;
    CHECK_THAT(seen.gradient("linear").data[i], Catch::Matchers::WithinAbs(slope, 1e-8));
  }
}

TEMPLATE_TEST_CASE("logits under a loss are kept though they are made some tokens at a time", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr int V = 20011;  // two chunks
  constexpr std::int64_t T = 270;
  using E = decltype(fg::linear<3, 4>{} | fg::head<4, V>{});
  static_assert(fg::chunk_rows<TestType>(V) < T);
  fg::network<fg::watched<E, TestType>, TestType> net({.deviation = 0.3});
  fg::activations seen{net};
  auto const x = numbers<S>::random(T, 3, 1);
  numbers<S> y(T, V), dy(T, V);
  fg::batch const b{.tokens = T, .seen = &seen};
  auto const loss = [](auto const&, std::int64_t first, fg::matrix<S const> z, fg::matrix<S> dz) {
    double sum = 0;
    for (std::int64_t t = 0; t < z.rows; ++t)
      for (std::int64_t c = 0; c < z.cols; ++c) {
        S const factor = S(1 + (first + t) % 5), at = z(t, c);
        sum += double(factor * at * at / 2);
        if (dz.data) dz(t, c) = factor * at;
      }
    return sum;
  };
  net.learn(b, x, loss);
  net.infer({.tokens = T}, x, y);
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t c = 0; c < V; ++c)
      dy.values[std::size_t(t * V + c)] = S(1 + t % 5) * y.values[std::size_t(t * V + c)];
  CHECK(same<S>(seen["head"], y));
  CHECK(same<S>(seen.gradient("head"), dy));
  CHECK(seen.gradient("linear").rows == T);
  net.score(b, x, loss);
  CHECK(same<S>(seen["head"], y));
  CHECK_THROWS(seen.gradient("head"));
}

TEST_CASE("threads, and who shares the batch, change no bit of what is seen") {
  fg::thread_pool one(1), two(2);
  using E = apart<fg::cpu>;
  fg::network<E, fg::cpu> net({.deviation = 0.3}, fg::cpu{two}),
      other({.deviation = 0.3}, fg::cpu{one});
  fg::activations seen{net}, alone{other};
  constexpr std::int64_t T = 40;
  tiny::text const text(T);
  numbers<float> y(T, 11), dy = numbers<float>::random(T, 11, 1);
  net.forward({.tokens = T, .ids = text.inputs(), .seen = &seen}, {}, y);
  net.backward(dy);
  other.forward({.tokens = T, .ids = text.inputs(), .seen = &alone}, {}, y);
  other.backward(dy);
  for (std::string const& name : seen.names()) {
    INFO(name);
    CHECK(same<float>(seen[name], alone[name]));
    CHECK(same<float>(seen.gradient(name), alone.gradient(name)));
  }
  auto cache = net.make_cache(T);
  for (std::int64_t t = 0; t < T; ++t) {
    fg::batch const b{.tokens = 1, .ids = text.inputs().subspan(std::size_t(t), 1), .seen = &alone};
    other.infer(b, {}, y.first(1), &cache);
    for (std::string const& name : seen.names()) {
      INFO(name << " of token " << t);
      CHECK(same<float>(alone[name], seen[name].middle_rows(t, 1)));
    }
  }
}

TEST_CASE("a frozen network is watched as the one that it was made of") {
  fg::network<apart<fg::cpu>, fg::cpu> net({.deviation = 0.3});
  auto same_bits = fg::quantize<fg::format::f32>(net);
  auto bf16 = fg::quantize<fg::format::bf16>(net);
  fg::activations seen{net}, frozen{same_bits};
  constexpr std::int64_t T = 9;
  tiny::text const text(T);
  numbers<float> y(T, 11);
  net.infer({.tokens = T, .ids = text.inputs(), .seen = &seen}, {}, y);
  same_bits.infer({.tokens = T, .ids = text.inputs(), .seen = &frozen}, {}, y);
  for (std::string const& name : seen.names()) CHECK(same<float>(seen[name], frozen[name]));
  bf16.infer({.tokens = T, .ids = text.inputs(), .seen = &frozen}, {}, y);
  CHECK_FALSE(same<float>(seen["layers.0.mixture"], frozen["layers.0.mixture"]));
  CHECK(same<float>(frozen["head"], y));

  using parts = fg::watched<reader, fg::cpu, "shared_experts">;
  auto int8 = fg::quantize<fg::format::int8>(fg::network<parts, fg::cpu>({.deviation = 0.3}));
  fg::activations experts{int8, {"layers.*.mixture*"}};
  int8.infer({.tokens = T, .ids = text.inputs(), .seen = &experts}, {}, y);
  for (std::string const layer : {"layers.0.mixture", "layers.1.mixture"})
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t c = 0; c < 16; ++c)
        CHECK(experts[layer](t, c) ==
              experts[layer + ".shared_experts"](t, c) + experts[layer + ".routed_experts"](t, c));
}

TEST_CASE("nodes are called as descriptions and explanations call them") {
  using E = decltype(fg::tied(fg::embedding<32, 16>{}, halved{} | fg::rmsnorm<16>{}));
  using names = std::vector<std::string>;
  names const expected{"tied", "embedding", "halved", "rmsnorm", "head"};
  fg::network<fg::watched<E, fg::cpu, "tied", "halved">, fg::cpu> net({.deviation = 0.3});
  fg::activations seen{net};
  CHECK(seen.names() == expected);
  names explained;
  for (auto const& line : fg::explain_nodes<E, fg::cpu>({.tokens = 4}))
    explained.push_back(line.name);
  CHECK(explained == names{"tied", "embedding", "halved", "rmsnorm", "head", "total"});
  std::string const text = fg::describe(E{});
  for (std::string const& name : expected) CHECK_THAT(text, ContainsSubstring(name + " "));
  numbers<float> y(4, 32);
  net.infer({.tokens = 4, .ids = tiny::text(4).inputs(), .seen = &seen}, {}, y);
  CHECK(same<float>(seen["tied"], y));
  CHECK(seen["halved"](3, 15) == seen["embedding"](3, 15) / 2);
}

TEST_CASE("what cannot be seen is said in a sentence") {
  fg::network<fg::watched<reader, fg::cpu>, fg::cpu> net;
  using fg::activations;
  CHECK_THROWS_WITH((activations{net, {"layers.1.mixtur"}}),
                    "the network has no node named \"layers.1.mixtur\"; the nearest name is "
                    "\"layers.1.mixture\"");
  CHECK_THROWS_WITH((activations{net, {"layers.2"}}),
                    "the network has no node named \"layers.2\"; the nearest name is \"layers.0\"");
  CHECK_THROWS_WITH((activations{net, {"linear", "layers.*.mixture"}}),
                    "\"layers.0.mixture\" is made inside \"layers.0.residual_2\", by one plan: a "
                    "network of watched<E, X, \"mixture\"> makes it by itself");
  // A pattern of a node that is made by itself, and of one inside a fused plan.
  fg::network<
      fg::watched<decltype(fg::residual(fg::rmsnorm<16>{} | fg::linear<16, 16>{}) | small::block{}),
                  fg::cpu>,
      fg::cpu> const mixed;
  CHECK_THROWS_WITH((activations{mixed, {"*norm_2"}}),
                    "\"rmsnorm_2\" is made inside \"residual_2\", by one plan: a network of "
                    "watched<E, X, \"rmsnorm\"> makes it by itself");
  CHECK((activations{mixed, {"rmsnorm*"}}.names() == std::vector<std::string>{"rmsnorm"}));
  CHECK((activations{mixed, {"rmsnorm", "*"}}.names() ==
         std::vector<std::string>{"residual", "rmsnorm", "linear", "block", "residual_2",
                                  "residual_3"}));
  activations seen{net, {"layers.*.residual*"}};
  CHECK(seen.names() == std::vector<std::string>{"layers.0.residual", "layers.0.residual_2",
                                                 "layers.1.residual", "layers.1.residual_2"});
  CHECK_THROWS_WITH(seen["layers.1.residual"], "no pass has come by \"layers.1.residual\" yet");
  CHECK_THROWS_WITH(seen["layers.1"],
                    "these activations have no \"layers.1\"; the nearest name is "
                    "\"layers.1.residual\"");
  CHECK_THROWS_WITH(seen.reserve(std::int64_t{1} << 60),
                    "a batch has 0 to 2147483647 tokens, not 1152921504606846976");
  CHECK_THROWS_WITH(seen.reserve(-1, true), "a batch has 0 to 2147483647 tokens, not -1");
  tiny::text const text(4);
  numbers<float> y(4, 11);
  fg::batch const b{.tokens = 4, .ids = text.inputs(), .seen = &seen};
  fg::network<reader, fg::cpu> plain;
  fg::network<apart<fg::cpu>, fg::cpu> other;
  CHECK_THROWS_AS(plain.infer(b, {}, y), fg::invalid_argument);
  CHECK_THROWS_AS(other.infer(b, {}, y), fg::invalid_argument);
  CHECK(y.untouched());
  // The same expression on another executor, where neither fuses anything in it.
  using stages = decltype(fg::linear<5, 3>{} | fg::mlp<3, 7>{});
  using watched = fg::watched<stages, fg::cpu>;
  STATIC_REQUIRE(std::is_same_v<watched, fg::watched<stages, fg::reference>>);
  fg::network<watched, fg::cpu> here;
  activations of_reference{fg::network<watched, fg::reference>()};
  numbers<float> z(4, 3);
  CHECK_THROWS_WITH(
      here.infer({.tokens = 4, .seen = &of_reference}, numbers<float>::random(4, 5, 1), z),
      ContainsSubstring("the batch's activations are not this network's"));
  CHECK(z.untouched());
  auto moved = std::move(net);
  moved.infer(b, {}, y);
  activations elsewhere = std::move(seen);
  CHECK(elsewhere["layers.1.residual"].rows == 4);
}

TEST_CASE("activations that were moved from are refused, and those that left before backward") {
  using E = fg::watched<decltype(fg::linear<5, 3>{} | fg::mlp<3, 7>{}), fg::cpu>;
  fg::network<E, fg::cpu> net;
  fg::activations seen{net};
  auto const x = numbers<float>::random(4, 5, 1), dy = numbers<float>::random(4, 3, 2);
  numbers<float> y(4, 3);
  fg::batch const b{.tokens = 4, .seen = &seen};
  net.forward(b, x, y);
  fg::activations other = std::move(seen);
  std::string const refused =
      "the batch's activations are not this network's: activations{net} are, of a network of "
      "watched<E, X>, until they are moved";
  CHECK_THROWS_WITH(net.backward(dy), refused);
  CHECK_THROWS_WITH(net.infer(b, x, y), refused);
  CHECK_THROWS_WITH(net.score(b, x, [](auto const&...) { return 0.0; }), refused);
  CHECK(seen.names().empty());
  CHECK_THROWS_WITH(seen["mlp"], "these activations have no \"mlp\": they keep nothing");
  CHECK(other["mlp"].rows == 4);
  seen = std::move(other);
  net.backward(dy);
  CHECK(same<float>(seen.gradient("mlp"), dy));
}
