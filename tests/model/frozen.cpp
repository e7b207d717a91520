// Frozen networks: they compute what the network computed, in the numbers of their format.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/expr/describe.hpp>
#include <finegrain/model/frozen.hpp>
#include <finegrain/model/generate.hpp>
#include <memory>

#include "../catch.hpp"
#include "../cpu/layer.hpp"
#include "../family.hpp"
#include "../tiny.hpp"

namespace {

using namespace under_test;
using enum fg::format;

constexpr fg::config odd{.hidden = 37, .width = 21, .routed = 9, .top_k = 3, .shared = 2};
constexpr fg::config gated{
    .hidden = 20, .width = 16, .routed = 4, .top_k = 2, .shared = 1, .shared_gate = true};

/// A stage of the user's own: whatever the format, it is given its weights as they were.
struct scaled : fg::stage<37> {
  static constexpr char const* name = "scaled";
  template <class T>
  struct weights {
    fg::matrix<T> factor;  // (1, 37)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : factor(bind.matrix("factor", 1, 37, fg::role::projection)) {}
  };
};

/// Weights that are there when they are asked for, and until others are.
struct weights_at_hand {
  struct range {
    std::int64_t first, count;
  };
  float const* all;
  std::int64_t first = 0;
  std::vector<range>* asked = nullptr;
  std::shared_ptr<std::vector<float>> room = std::make_shared<std::vector<float>>();

  friend weights_at_hand operator+(weights_at_hand w, std::int64_t n) {
    w.first += n;
    return w;
  }
  float const* numbers(std::int64_t count) const {
    if (asked) asked->push_back({first, count});
    room->assign(all + first, all + first + count);
    return room->data();
  }
};

/// The largest difference of two outputs, in units of the largest number.
double off(numbers const& exact, numbers const& got) {
  return difference(std::vector<double>(exact.begin(), exact.end()), got);
}

/// Both outputs for the same random rows.
template <class E, fg::format F>
std::pair<numbers, numbers> outputs(std::int64_t T, fg::routing_request request = {}) {
  fg::network<E, fg::cpu> net({.deviation = 0.2, .seed = 3});
  auto frozen = fg::quantize<F>(net);
  numbers const x = random_numbers(T * net.in, 5);
  numbers y(std::size_t(T * net.out), poison), z = y;
  fg::batch const b{.tokens = T, .routing = request};
  net.infer(b, view(x, T, net.in), view(y, T, net.out));
  frozen.infer(b, view(x, T, net.in), view(z, T, net.out));
  return {y, z};
}

}  // namespace

template <>
struct fg::plan<fg::cpu, scaled> {
  using saved = fg::nothing;
  using scratch = fg::nothing;
  template <class W>
  static void forward(fg::pass<fg::cpu>, W const& w, saved const&, fg::matrix<float const> x,
                      fg::matrix<float> y) {
    fg::matrix<float const> const factor = w.factor;
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int c = 0; c < 37; ++c) y(t, c) = x(t, c) * factor(0, c);
  }
};

namespace {

TEST_CASE("a frozen layer has the network's bits in f32, and nearly in bf16") {
  auto const compare = []<class E>(E, double rounding = 2e-2) {
    for (std::int64_t T : {1, 2, 40, 300}) {
      auto const [a, b] = outputs<E, f32>(T);
      CHECK(same(a, b));
      auto const [c, d] = outputs<E, bf16>(T);
      CHECK(off(c, d) < rounding);
      CHECK(off(c, d) > 1e-5);  // it did round
    }
  };
  compare(fg::mixture<odd>{});
  compare(fg::mixture<gated>{});
  compare(fg::shared_experts<odd>{});
  compare(fg::routed_experts<odd>{});
  compare(fg::residual(fg::rmsnorm<37>{} | fg::mixture<odd>{}));
  compare(fg::repeat<3>(fg::residual(fg::rmsnorm<37>{} | fg::mixture<odd>{})), 0.1);
  compare((fg::shared_experts<odd>{} + fg::routed_experts<odd>{}) | scaled{});
}

TEST_CASE("quantised layers come as near as their formats allow") {
  using E = fg::mixture<odd>;
  auto const error = []<fg::format F>(std::integral_constant<fg::format, F>) {
    auto const [a, b] = outputs<E, F>(100);
    return off(a, b);
  };
  using fg::format;
  double const one = error(std::integral_constant<format, int8>());
  double const blocks = error(std::integral_constant<format, int8_block>());
  double const e4m3 = error(std::integral_constant<format, fp8>());
  double const four = error(std::integral_constant<format, int4>());
  CHECK(one < 0.03);
  CHECK(blocks < 0.03);
  CHECK(e4m3 < 0.08);
  CHECK(four < 0.25);
  CHECK(four > e4m3);
  CHECK(e4m3 > blocks);
}

TEST_CASE("weights that are not finite are not quantised") {
  fg::network<fg::mixture<odd>, fg::cpu> net;
  net.weight("experts.3.gate")(2, 5) = poison;
  CHECK_THROWS_WITH(fg::quantize<int4>(net),
                    ContainsSubstring("\"experts.3.gate\" has a weight that is not finite"));
  CHECK_NOTHROW(fg::quantize<bf16>(net));
}

TEST_CASE("nor are those of an array, or of a source that makes them as they are asked for") {
  using E = fg::then<fg::linear<odd.hidden, odd.hidden>, fg::mixture<odd>>;
  for (std::string const name :
       {"linear.weight", "mixture.router", "mixture.shared.up", "mixture.experts.3.down"}) {
    INFO(name);
    fg::network<E, fg::cpu> net;
    auto const array = [&] { return std::as_const(net).parameters().data(); };
    CHECK_NOTHROW(fg::frozen<E, fg::cpu, int4>(fg::cpu(), array()));
    net.weight(name)(0, 3) = poison;
    std::string const words =
        "\"" + name + "\" has a weight that is not finite and cannot be quantised";
    CHECK_THROWS_WITH((fg::frozen<E, fg::cpu, int4>(fg::cpu(), array())), words);
    CHECK_THROWS_WITH((fg::frozen<E, fg::cpu, int4>(fg::cpu(), weights_at_hand{array()})), words);
    CHECK_NOTHROW(fg::frozen<E, fg::cpu, bf16>(fg::cpu(), array()));
  }
  // What stands between weights is none.
  std::vector<float> numbers(std::size_t(fg::weights_size<E>()), poison);
  for (auto const& w : fg::list_weights<E>())
    std::fill_n(numbers.begin() + w.offset, w.rows * w.cols, 0.5f);
  CHECK_NOTHROW(fg::frozen<E, fg::cpu, int4>(fg::cpu(), numbers.data()));
}

TEMPLATE_TEST_CASE_SIG("a source is asked for a few experts at a time, and all of it once", "",
                       ((fg::format F), F), f32, bf16, int8, int4) {
  constexpr fg::config wide{.hidden = 1024, .width = 1024, .routed = 9, .top_k = 2, .shared = 1};
  using E = fg::mixture<wide>;
  fg::thread_pool pool(2);
  fg::network<E, fg::cpu> const net({.deviation = 0.2, .seed = 4}, fg::cpu(pool));
  weights_at_hand source{net.parameters().data()};
  std::vector<weights_at_hand::range> asked;
  source.asked = &asked;
  fg::frozen<E, fg::cpu, F> const made(net.on(), source);
  fg::frozen<E, fg::cpu, F> const whole(net);
  auto const right = whole.packed(), got = made.packed();
  for (auto const& place : decltype(made)::arrays())
    CHECK(std::memcmp(got.data() + place.at, right.data() + place.at, std::size_t(place.bytes)) ==
          0);
  std::int64_t end = 0, most = 0;
  for (auto const& r : asked) {
    CHECK(r.first >= end);
    end = r.first + r.count, most = std::max(most, r.count);
  }
  CHECK(most == 4 * 1024 * 1024);
}

TEST_CASE("frozen layers choose and weigh as the network does, whatever the kind of router") {
  using family::base, family::with;
  using kinds = fg::ladder<fg::profiles::hash_layer(base, family::vocabulary),
                           fg::profiles::deepseek_v4_hash(base, family::vocabulary),
                           fg::profiles::mixtral(base), with([](fg::config& c) { c.cosine = 4; }),
                           with([](fg::config& c) { c.noisy = true; }),
                           with([](fg::config& c) { c.act.limit = 0.25f; }),
                           with([](fg::config& c) { c.selection = fg::selection::expert_choice; })>;
  family::tokens const some(30);
  numbers const x = random_numbers(30 * family::D, 5);
  fg::for_each(kinds{}, [&]<fg::config C>(fg::at<C>) {
    CAPTURE(fg::details(fg::routed_experts<C>{}));
    fg::network<fg::mixture<C>, fg::cpu> net({.deviation = 0.4, .seed = 3});
    auto const exact = fg::quantize<f32>(net);
    auto const coded = fg::quantize<int8>(net);
    numbers y(x.size(), poison), z = y, q = y;
    auto const b = some.batch();
    net.infer(b, view(x, 30, family::D), view(y, 30, family::D));
    auto const run = [&](auto const& frozen, numbers& to) {
      auto log = frozen.make_log();
      fg::batch with_log = b;
      with_log.log = &log;
      fg::buffer<> const memory(frozen.workspace_bytes(frozen.extent_of(30)));
      frozen.infer(with_log, view(x, 30, family::D), view(to, 30, family::D),
                   {memory.data(), static_cast<std::size_t>(memory.size())});
      return log.layers[0].load;
    };
    CHECK(run(exact, z) == run(coded, q));
    CHECK(same(y, z));
    CHECK(off(y, q) < 0.05);
  });
}

TEST_CASE("requests to the router reach frozen layers") {
  for (fg::routing_request const& request :
       {fg::routing_request{.top_k = 1}, {.top_k = 4}, {.mask_best = 2}, {.shared = false}}) {
    auto const [a, b] = outputs<fg::mixture<odd>, f32>(30, request);
    CHECK(off(a, b) < 1e-5);
  }
}

TEMPLATE_TEST_CASE_SIG("a token's bits do not depend on its batch or the threads", "",
                       ((fg::format F), F), f32, bf16, fp8, int8, int8_block, int4) {
  using E = fg::residual_of<fg::then<fg::rmsnorm<37>, fg::mixture<odd>>>;
  std::int64_t const T = 50;
  numbers const x = random_numbers(T * 37, 7);
  numbers first;
  for (int workers : {1, 2, 3, 8}) {
    fg::thread_pool pool(workers);
    fg::network<E, fg::cpu> net(fg::cpu(pool), {.deviation = 0.2, .seed = 3});
    fg::frozen<E, fg::cpu, F> frozen(net);
    numbers y(x.size(), poison);
    frozen(view(x, T, 37), view(y, T, 37));
    if (first.empty()) first = y;
    CHECK(same(y, first));
    for (std::int64_t t = 0; t < T; t += 7) {
      numbers alone(37, poison);
      frozen(view(x, T, 37).middle_rows(t, 1), view(alone, 1, 37));
      CHECK(same(alone, rows(first, 37, t, 1)));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("what is not finite stays in its row, with the same bits in any batch", "",
                       ((fg::format F), F), f32, bf16, fp8, int8, int8_block, int4) {
  using E = fg::shared_experts<odd>;  // of width 42: no whole number of vectors
  std::int64_t const T = 60;
  fg::network<E, fg::cpu> net({.deviation = 0.2, .seed = 3});
  fg::frozen<E, fg::cpu, F> frozen(net);
  numbers x = random_numbers(T * 37, 7), clean(x.size()), y(x.size(), poison);
  frozen(view(x, T, 37), view(clean, T, 37));
  x[5 * 37 + 3] = infinity;
  x[9 * 37] = poison;
  frozen(view(x, T, 37), view(y, T, 37));
  for (std::int64_t t = 0; t < T; ++t) {
    bool const bad = t == 5 || t == 9;
    if (!bad) REQUIRE(same(rows(y, 37, t, 1), rows(clean, 37, t, 1)));
    numbers alone(37);
    frozen(view(x, T, 37).middle_rows(t, 1), view(alone, 1, 37));
    for (int c = 0; c < 37; ++c) {
      float const one = alone[std::size_t(c)], all = y[std::size_t(t * 37 + c)];
      REQUIRE((one == all || (std::isnan(one) && std::isnan(all))));
      if (bad) REQUIRE(!std::isfinite(one));
    }
  }
}

TEMPLATE_TEST_CASE_SIG("a frozen decoder generates, token by token as in one pass", "",
                       ((fg::format F), F), f32, bf16, fp8, int4) {
  fg::network<tiny::decoder, fg::cpu> net({.deviation = 0.3});
  auto const frozen = fg::quantize<F>(net);
  tiny::text const text(10);
  std::vector<std::int32_t> ids(text.inputs().begin(), text.inputs().end());
  std::size_t const prompt = ids.size();
  fg::generate(frozen, text.inputs(), 20, {.temperature = 0},
               [&](std::int32_t id) { ids.push_back(id); });
  auto whole = fg::quantize<F>(net);
  numbers logits(ids.size() * 32, poison);
  whole(ids, view(logits, std::int64_t(ids.size()), 32));
  for (std::size_t i = prompt; i < ids.size(); ++i) {
    auto const row = logits.begin() + std::ptrdiff_t((i - 1) * 32);
    CHECK(ids[i] == std::max_element(row, row + 32) - row);
  }
}

TEST_CASE("a frozen network is a copy: the network it came from may change or go") {
  auto net = std::make_unique<fg::network<fg::mixture<odd>, fg::cpu>>(
      fg::initialisation{.deviation = 0.2});
  auto made = fg::quantize<bf16>(*net);
  auto frozen = std::move(made);
  numbers const x = random_numbers(37, 1);
  numbers before(37), after(37, poison);
  frozen(view(x, 1, 37), view(before, 1, 37));
  std::fill(net->parameters().begin(), net->parameters().end(), poison);
  net.reset();
  frozen(view(x, 1, 37), view(after, 1, 37));
  CHECK(same(before, after));
}

TEST_CASE("a frozen network may be moved; what is left of it says so") {
  fg::network<fg::linear<8, 8>, fg::cpu> net({.deviation = 0.2, .seed = 3});
  auto fast = fg::quantize<bf16>(net);
  numbers const x = random_numbers(2 * 8, 5);
  numbers y(2 * 8, poison), z = y;
  fast(view(x, 2, 8), view(y, 2, 8));
  auto const kept = std::move(fast);
  CHECK_THROWS_WITH(fast(view(x, 2, 8), view(z, 2, 8)), ContainsSubstring("was moved from"));
  fast = fg::quantize<bf16>(net);
  fast(view(x, 2, 8), view(z, 2, 8));
  CHECK(y == z);
  auto other = fg::quantize<bf16>(net);
  fast = std::move(other);
  CHECK_NOTHROW(fast(view(x, 2, 8), view(z, 2, 8)));
  CHECK_THROWS_WITH(other(view(x, 2, 8), view(z, 2, 8)), ContainsSubstring("was moved from"));
  auto const kept_too = std::move(net);
  CHECK_THROWS_WITH(fg::quantize<bf16>(net), ContainsSubstring("was moved from"));
}

TEST_CASE("a frozen network checks what it is given, as a network does") {
  fg::network<fg::mixture<odd>, fg::cpu> net;
  auto frozen = fg::quantize<bf16>(net);
  numbers x(2 * 37), y(2 * 36);
  CHECK_THROWS_WITH(frozen(view(x, 2, 37), view(y, 2, 36)), "y is 2 x 36; this call needs 2 x 37");
  std::vector<std::byte> small(64);
  CHECK_THROWS_AS(std::as_const(frozen).infer({.tokens = 2}, view(x, 2, 37), view(x, 2, 37), small),
                  fg::invalid_argument);
}

TEST_CASE("the published layer in bf16 is half as large, and a percent of packing at most") {
  constexpr fg::config c{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
  constexpr double raw = double(fg::weights_size<fg::mixture<c>>());
  constexpr double packed = fg::frozen<fg::mixture<c>, fg::cpu, bf16>::weight_bytes();
  static_assert(packed < 2.02 * raw);
  static_assert(packed > 2 * raw);
}

}  // namespace
