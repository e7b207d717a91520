// A network's calls: what they refuse before anything is written, and what they promise.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/plan/timed.hpp>
#include <numeric>
#include <thread>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "executors.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config moe{.hidden = 16, .width = 12, .routed = 6, .top_k = 2, .shared = 1};
struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<16>{} | fg::attention<16, 2>{}) |
                               fg::residual(fg::rmsnorm<16>{} | fg::mixture<moe>{});
};

/// A matrix with its numbers, NaN at first.
template <class S>
struct numbers {
  std::int64_t rows, cols;
  std::vector<S> values;
  numbers(std::int64_t rows, std::int64_t cols)
      : rows(rows), cols(cols), values(std::size_t(rows * cols), S(NAN)) {}
  static numbers random(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    numbers n(rows, cols);
    for (std::size_t i = 0; i < n.values.size(); ++i) n.values[i] = S(fg::random_normal(seed, i));
    return n;
  }
  operator fg::matrix<S>() { return {values.data(), rows, cols}; }
  operator fg::matrix<S const>() const { return {values.data(), rows, cols}; }
  fg::matrix<S> first(std::int64_t count) { return {values.data(), count, cols}; }
  fg::matrix<S const> first(std::int64_t count) const { return {values.data(), count, cols}; }
  bool untouched() const {
    for (S x : values)
      if (!std::isnan(x)) return false;
    return true;
  }
  bool operator==(numbers const& other) const {
    return values.size() == other.values.size() &&
           std::memcmp(values.data(), other.values.data(), values.size() * sizeof(S)) == 0;
  }
};

template <class S>
std::vector<S> copy(std::span<S> all) {
  return {all.begin(), all.end()};
}

}  // namespace

TEMPLATE_TEST_CASE("shapes that do not fit are refused with both shapes", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16), narrow(4, 15), short_(3, 16);
  CHECK_THROWS_WITH(net(x, narrow), "y is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net(x, short_), "y is 3 x 16; this call needs 4 x 16");
  CHECK_THROWS_WITH(net(narrow, y), "x is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net.infer({.tokens = 5}, x, y), "y is 4 x 16; this call needs 5 x 16");
  CHECK_THROWS_WITH(net.infer({.tokens = -1}, x, y), "a batch of -1 tokens");
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, fg::matrix<S const>(nullptr, 4, 16), y),
                    "x has no memory");
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, fg::matrix<S const>(x.values.data(), 4, 16, 15), y),
                    "the rows of x are 15 numbers apart and 16 long");
  CHECK(y.untouched());
  net.forward({.tokens = 4}, x, y);
  CHECK_THROWS_WITH(net.backward(narrow), "dy is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net.backward(y, short_), "dx is 3 x 16; this call needs 4 x 16");
  CHECK_NOTHROW(net.backward(y));
}

TEMPLATE_TEST_CASE("a network that was moved from says so, until it is given another", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net, other;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16), z(4, 16), dx(4, 16);
  net.forward({.tokens = 4}, x, y);
  fg::network<block, TestType> kept = std::move(net);
  kept(x, z);
  CHECK(y == z);
  auto const gone = [](auto&& call) {
    CHECK_THROWS_WITH(call(), "this network was moved from: its weights are another's now");
  };
  z = numbers<S>(4, 16);
  gone([&] { net(x, z); });
  gone([&] { net.forward({.tokens = 4}, x, z); });
  gone([&] { static_cast<void>(net.weights()); });
  gone([&] { static_cast<void>(net.entries()); });
  CHECK_THROWS_AS(net.backward(y, dx), fg::invalid_argument);
  CHECK_THROWS_AS(net.weight("rmsnorm.gain"), fg::invalid_argument);
  CHECK(z.untouched());
  CHECK(dx.untouched());
  net = std::move(other);
  net(x, z);
  CHECK(!z.untouched());
  net = std::move(kept);
  gone([&] { kept(x, dx); });
  gone([&] { other(x, dx); });
}

TEMPLATE_TEST_CASE("input and output may not share memory", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  std::vector<S> memory(8 * 16, S(1));
  fg::matrix<S> const x(memory.data(), 4, 16);
  CHECK_THROWS_WITH(net(x, x), "x and y share memory");
  fg::matrix<S> const row(memory.data(), 1, 16, 0);
  CHECK_THROWS_WITH(net(row, row), "x and y share memory");
  CHECK_THROWS_WITH(net(x, fg::matrix<S>(memory.data() + 63, 4, 16)), "x and y share memory");
  CHECK(memory == std::vector<S>(8 * 16, S(1)));
  CHECK_NOTHROW(net(x, fg::matrix<S>(memory.data() + 64, 4, 16)));
}

TEMPLATE_TEST_CASE("a batch whose sequences do not cover it is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  using list = std::vector<std::int64_t>;
  for (list const& starts : {list{0}, list{0, 3}, list{1, 4}, list{0, 3, 2, 4}, list{0, 5},
                             list{0, -1, 4}, list{0, 5, 4}}) {
    CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = starts}, x, y),
                      "the batch's sequence starts must rise from 0 to 4");
  }
  CHECK(y.untouched());
  CHECK_NOTHROW(net.infer({.tokens = 4, .starts = list{0, 2, 2, 4}}, x, y));
}

TEMPLATE_TEST_CASE("what a router cannot do is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto const refused = [&](fg::routing_request request, bool training = false) {
    fg::batch const b{.tokens = 4, .routing = request};
    if (training)
      CHECK_THROWS_AS(net.forward(b, x, y), fg::invalid_argument);
    else
      CHECK_THROWS_AS(net.infer(b, x, y), fg::invalid_argument);
  };
  refused({.top_k = 4});
  refused({.top_k = 3}, true);  // one more than configured only where nothing is trained
  refused({.top_k = -1, .mask_best = -1});
  refused({.mask_best = 5});
  refused({.mask_best = -1});
  refused({.balance = {.expert = -1}}, true);
  refused({.balance = {.expert = NAN}}, true);
  CHECK(y.untouched());
  CHECK_NOTHROW(net.infer({.tokens = 4, .routing = {.top_k = 3, .mask_best = 3}}, x, y));
}

TEMPLATE_TEST_CASE("a rule and jitter are for the routers that have them, and refused if none has",
                   "", EXECUTORS) {
  using S = typename TestType::scalar;
  struct last_experts : fg::routing_rule {
    void choose(fg::batch const&, fg::matrix<double const> scores,
                fg::matrix<std::int32_t> experts) const override {
      for (std::int64_t t = 0; t < scores.rows; ++t)
        for (int k = 0; k < experts.cols; ++k)
          experts(t, k) = static_cast<std::int32_t>(scores.cols - 1 - k);
    }
  } const rule;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> one(4, 16), y(4, 16);

  // A plain layer with a router of bf16 beside one by a rule, with jitter.
  constexpr fg::config plain = [] {
    fg::config c = moe;
    c.precision = fg::precision::bf16;
    return c;
  }();
  constexpr fg::config ruled = [] {
    fg::config c = moe;
    c.selection = fg::selection::rule;
    c.jitter = true;
    return c;
  }();
  fg::network<decltype(fg::mixture<plain>{} | fg::mixture<ruled>{}), TestType> both;
  fg::network<fg::mixture<plain>, TestType> first;
  auto log = both.make_log();
  both.forward({.tokens = 4, .routing = {.jitter = 0.2, .rule = &rule}, .log = &log}, x, y);
  CHECK(log.layers[1].load == std::vector<std::int64_t>{0, 0, 0, 0, 4, 4});
  both.backward(x, one);
  auto const with = copy(both.gradient());
  CHECK(log.layers[0].load != log.layers[1].load);

  // The first layer's router had no jitter: its choice and its output are those without.
  std::copy_n(both.parameters().data(), first.parameters().size(), first.parameters().data());
  auto alone = first.make_log();
  first.forward({.tokens = 4, .log = &alone}, x, y);
  CHECK(alone.layers[0].load == log.layers[0].load);
  CHECK(alone.layers[0].entropy == log.layers[0].entropy);
  both.forward({.tokens = 4, .routing = {.rule = &rule}}, x, y);
  both.backward(x, one);
  CHECK(with != copy(both.gradient()));

  CHECK_THROWS_WITH(first.infer({.tokens = 4, .routing = {.rule = &rule}}, x, y),
                    "a routing rule is for configs with selection::rule: here is none");
  CHECK_THROWS_WITH(first.infer({.tokens = 4, .routing = {.jitter = 0.2}}, x, y),
                    "jitter needs a config that has it: .jitter = true");
}

TEMPLATE_TEST_CASE("a log of another network is refused; its own has a report a router", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  fg::routing_log none, other = fg::network<tiny::decoder, TestType>::make_log();
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .log = &none}, x, y),
                    "the routing log is not this network's: use make_log()");
  CHECK_THROWS_AS(net.infer({.tokens = 4, .log = &other}, x, y), fg::invalid_argument);
  CHECK(y.untouched());
  auto log = net.make_log();
  REQUIRE(log.layers.size() == 1);
  for (int twice = 0; twice < 2; ++twice) {
    net.infer({.tokens = 4, .log = &log}, x, y);
    std::int64_t total = 0;
    for (auto load : log.layers[0].load) total += load;
    CHECK(total == 4 * moe.top_k);
  }
}

TEMPLATE_TEST_CASE("a log with room for them has each token's experts and weights", "", EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr std::int64_t T = 7;
  fg::network<fg::mixture<moe>, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(T, 16, 1);
  numbers<S> y(T, 16);
  auto log = net.make_log(T);
  auto const& report = log.layers.at(0);
  auto const router = net.weight("router");
  for (int k : {2, 3, 1}) {
    net.infer({.tokens = T, .routing = {.top_k = k}, .log = &log}, x, y);
    auto const experts = report.choices();
    auto const weights = report.choice_weights();
    REQUIRE(experts.rows == T);
    REQUIRE(experts.cols == k);
    REQUIRE(weights.cols == k);
    for (std::int64_t t = 0; t < T; ++t) {
      std::vector<double> score(moe.routed);
      double sum = 0;
      for (int e = 0; e < moe.routed; ++e) {
        for (int d = 0; d < 16; ++d)
          score[std::size_t(e)] += double(router(e, d)) * double(fg::matrix<S const>(x)(t, d));
        sum += score[std::size_t(e)] = std::exp(score[std::size_t(e)]);
      }
      for (int slot = 0; slot < k; ++slot) {
        auto const best = std::max_element(score.begin(), score.end());
        CHECK(experts(t, slot) == best - score.begin());
        CHECK(weights(t, slot) == Approx(*best / sum).epsilon(1e-5));
        *best = 0;
      }
    }
  }
  // Two slots an expert: what is dropped is marked, and weighs nothing.
  net.infer({.tokens = 6, .routing = {.capacity = 0.5}, .log = &log}, x.first(6), y.first(6));
  std::vector<std::int64_t> dropped(moe.routed), load(moe.routed);
  auto const experts = report.choices();
  REQUIRE(experts.rows == 6);
  for (std::int64_t t = 0; t < 6; ++t)
    for (int slot = 0; slot < 2; ++slot) {
      auto const e = std::size_t(fg::expert_in(experts(t, slot)));
      ++load[e];
      dropped[e] += !fg::is_kept(experts(t, slot));
      CHECK((report.choice_weights()(t, slot) > 0) == fg::is_kept(experts(t, slot)));
    }
  CHECK(load == report.load);
  CHECK(dropped == report.dropped);
  CHECK(std::accumulate(dropped.begin(), dropped.end(), std::int64_t{0}) > 0);

  auto small = net.make_log(3);
  CHECK_THROWS_WITH(net.infer({.tokens = T, .log = &small}, x, y),
                    "the routing log has no room for the choices of 7 tokens");
  CHECK_THROWS_WITH(net.make_log(-1), "a log for -1 tokens");
  CHECK_THROWS_AS(net.make_log(INT64_MAX), fg::invalid_argument);
  CHECK(net.make_log().layers[0].choices().size() == 0);
}

TEMPLATE_TEST_CASE("token ids that no row of the table has are refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tiny::decoder, TestType> net;
  for (std::int32_t bad : {-1, 32, 2'000'000'000}) {
    std::vector<std::int32_t> const ids{1, bad, 2};
    numbers<S> y(3, 32);
    CHECK_THROWS_WITH(net(ids, y), ContainsSubstring("token 1 has the id " + std::to_string(bad)));
    CHECK_THROWS_AS(net.forward({.tokens = 3, .ids = ids}, {}, y), fg::invalid_argument);
    CHECK_THROWS_AS(net.backward(y), fg::invalid_argument);  // there was no forward
    CHECK(y.untouched());
  }
  std::vector<std::int32_t> const ids{1, 2};
  numbers<S> y(3, 32);
  CHECK_THROWS_WITH(net.infer({.tokens = 3, .ids = ids}, {}, y),
                    "the batch has 3 tokens and 2 token ids");
}

TEMPLATE_TEST_CASE("a caller's workspace that is too small or askew is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> const net({.deviation = 0.3});
  auto const x = numbers<S>::random(5, 16, 1);
  numbers<S> y(5, 16);
  std::int64_t const needed = net.workspace_bytes(net.extent_of(5));
  fg::buffer<> memory(needed + 64);
  std::memset(memory.data(), 0x5a, std::size_t(memory.size()));
  auto const span = [&](std::int64_t offset, std::int64_t bytes) {
    return std::span<std::byte>(memory.data() + offset, std::size_t(bytes));
  };
  fg::batch const b{.tokens = 5};
  CHECK_THROWS_WITH(net.infer(b, x, y, span(0, needed - 1)),
                    "the workspace holds " + std::to_string(needed - 1) + " bytes; 5 tokens need " +
                        std::to_string(needed));
  CHECK_THROWS_WITH(net.infer(b, x, y, span(8, needed)),
                    "the workspace must start on a border of 64 bytes");
  CHECK_THROWS_AS(net.infer(b, x, y, {}), fg::invalid_argument);
  CHECK(y.untouched());
  for (std::byte byte : span(0, memory.size())) REQUIRE(byte == std::byte(0x5a));

  net.infer(b, x, y, span(0, needed));
  for (std::byte byte : span(needed, 64)) CHECK(byte == std::byte(0x5a));
  fg::network<block, TestType> own({.deviation = 0.3});
  numbers<S> same(5, 16);
  own(x, same);
  CHECK(y == same);
}

TEMPLATE_TEST_CASE("backward needs a forward whose memory nobody has used since", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1), dy = numbers<S>::random(4, 16, 2);
  numbers<S> y(4, 16), dx(4, 16);
  CHECK_THROWS_WITH(net.backward(dy, dx), ContainsSubstring("backward needs a forward before it"));
  net.forward({.tokens = 4}, x, y);
  net(x, y);
  CHECK_THROWS_AS(net.backward(dy, dx), fg::invalid_argument);
  net.forward({.tokens = 4}, x, y);
  net.reserve(400, true);
  CHECK_THROWS_AS(net.backward(dy, dx), fg::invalid_argument);
  CHECK(dx.untouched());
  net.forward({.tokens = 4}, x, y);
  net.reserve(4, true);
  CHECK_NOTHROW(net.backward(dy, dx));
}

TEMPLATE_TEST_CASE("backward may be repeated; it overwrites gradients or adds to them", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(9, 16, 1), dy = numbers<S>::random(9, 16, 2);
  numbers<S> y(9, 16), dx(9, 16), again(9, 16);
  net.forward({.tokens = 9}, x, y);
  net.backward(dy, dx);
  auto const once = copy(net.gradient());
  net.backward(dy);  // without dx
  CHECK(copy(net.gradient()) == once);
  net.backward(dy, again, fg::gradients::accumulate);
  CHECK(again == dx);
  for (std::size_t i = 0; i < once.size(); ++i)
    REQUIRE(double(net.gradient()[i]) == Approx(2 * double(once[i])).epsilon(1e-4).margin(1e-6));
}

TEMPLATE_TEST_CASE("no tokens: nothing is written, and gradients are zero", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(3, 16, 1);
  numbers<S> y(3, 16);
  net.forward({.tokens = 3}, x, y);
  net.backward(x);  // so that there are gradients to be overwritten
  fg::matrix<S const> const none(nullptr, 0, 16);
  fg::matrix<S> const nowhere(nullptr, 0, 16);
  auto log = net.make_log();
  net.infer({.tokens = 0, .log = &log}, none, nowhere);
  CHECK(std::isfinite(log.balance_loss()));
  net.forward({.tokens = 0, .routing = {.balance = {.expert = 1}}, .log = &log}, none, nowhere);
  CHECK(std::isfinite(log.balance_loss()));
  net.backward(none, nowhere);
  for (S g : net.gradient()) REQUIRE(g == 0);

  fg::network<tiny::decoder, TestType> decoder;
  CHECK_NOTHROW(decoder(std::span<std::int32_t const>(), fg::matrix<S>(nullptr, 0, 32)));
}

TEMPLATE_TEST_CASE("rows may stand apart, and what lies between them is left alone", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(7, 16, 1), dy = numbers<S>::random(7, 16, 2);
  numbers<S> y(7, 16), dx(7, 16), wide_y(7, 21), wide_dx(7, 23), wide_x(7, 19), wide_dy(7, 18);
  for (std::int64_t t = 0; t < 7; ++t) {
    std::copy_n(fg::matrix<S const>(x).row(t), 16, fg::matrix<S>(wide_x).row(t));
    std::copy_n(fg::matrix<S const>(dy).row(t), 16, fg::matrix<S>(wide_dy).row(t));
  }
  net.forward({.tokens = 7}, x, y);
  net.backward(dy, dx);
  auto const gradient = copy(net.gradient());
  auto const part = [](numbers<S>& m) { return fg::matrix<S>(m).middle_cols(0, 16); };
  net.forward({.tokens = 7}, part(wide_x), part(wide_y));
  net.backward(part(wide_dy), part(wide_dx));
  CHECK(copy(net.gradient()) == gradient);
  for (std::int64_t t = 0; t < 7; ++t) {
    CHECK(std::equal(part(wide_y).row(t), part(wide_y).row(t) + 16, fg::matrix<S>(y).row(t)));
    CHECK(std::equal(part(wide_dx).row(t), part(wide_dx).row(t) + 16, fg::matrix<S>(dx).row(t)));
    for (std::int64_t c = 16; c < 21; ++c) CHECK(std::isnan(fg::matrix<S>(wide_y)(t, c)));
    for (std::int64_t c = 16; c < 23; ++c) CHECK(std::isnan(fg::matrix<S>(wide_dx)(t, c)));
  }
}

TEMPLATE_TEST_CASE("weights and gradients are found by their names", "", EXECUTORS) {
  fg::network<tiny::decoder, TestType> net({.deviation = 0.3});
  auto const table = net.weight("embedding.table");
  CHECK(table.rows == 32);
  CHECK(table.cols == 16);
  CHECK(table.data == net.weights().a.a.a.table.data);
  for (auto const& entry : fg::list_weights<tiny::decoder>())
    CHECK(net.weight(entry.name).data == net.parameters().data() + entry.offset);
  CHECK_THROWS_WITH(
      net.weight("embeding"),
      "the network has no weight named \"embeding\"; the nearest name is \"embedding.table\"");
  CHECK_THROWS_AS(net.gradient("embedding.table"), fg::invalid_argument);  // nothing trained yet
  net.reserve(1, true);
  CHECK(net.gradient("head.weight").rows == 32);
}

TEMPLATE_TEST_CASE("several threads may infer at a time, each in memory of its own", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::thread_pool pool(2);
  fg::network<block, TestType> net({.deviation = 0.3}, TestType{pool});
  auto const x = numbers<S>::random(33, 16, 1);
  numbers<S> right(33, 16);
  net(x, right);
  std::vector<numbers<S>> results(4, numbers<S>(33, 16));
  std::vector<std::thread> threads;
  for (auto& y : results)
    threads.emplace_back([&net, &x, &y] {
      fg::buffer<> const memory(net.workspace_bytes(net.extent_of(33)));
      for (int i = 0; i < 5; ++i)
        std::as_const(net).infer({.tokens = 33}, x, y, {memory.data(), std::size_t(memory.size())});
    });
  for (auto& thread : threads) thread.join();
  for (auto const& y : results) CHECK(y == right);
}

TEMPLATE_TEST_CASE(
    "several batches may be under way, on several threads, in memory of the caller's", "",
    EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr std::int64_t T = 9;
  fg::thread_pool pool(2);
  fg::network<block, TestType> net({.deviation = 0.3}, TestType{pool});
  struct pass {
    numbers<S> x, dy, y{T, 16}, dx{T, 16};
    std::vector<S> right{};  // gradients
    numbers<S> right_y{T, 16}, right_dx{T, 16};
    fg::buffer<> memory{};
    fg::buffer<S> gradient{};
    std::span<std::byte> workspace() { return {memory.data(), std::size_t(memory.size())}; }
    std::span<S> gradients() { return {gradient.data(), std::size_t(gradient.size())}; }
  };
  std::vector<pass> passes;
  fg::batch const b{.tokens = T};
  auto const size = std::int64_t(net.parameters().size());
  for (std::uint64_t i = 0; i < 4; ++i) {
    passes.push_back({numbers<S>::random(T, 16, 2 * i), numbers<S>::random(T, 16, 2 * i + 1)});
    auto& p = passes.back();
    p.memory = fg::buffer<>(net.workspace_bytes(net.extent_of(T, true)));
    p.gradient = fg::buffer<S>(size);
    std::fill(p.gradient.begin(), p.gradient.end(), S(0));  // what lies between weights stays so
    net.forward(b, p.x, p.right_y);
    net.backward(p.dy, p.right_dx);
    p.right = copy(net.gradient());
  }
  auto const check = [&](double times) {
    for (auto& p : passes) {
      CHECK(p.y == p.right_y);
      CHECK(p.dx == p.right_dx);
      for (std::size_t i = 0; i < p.right.size(); ++i)
        REQUIRE(double(p.gradients()[i]) ==
                Approx(times * double(p.right[i])).epsilon(1e-5).margin(1e-6));
    }
  };
  fg::network<block, TestType> const& shared = net;
  for (auto& p : passes) shared.forward(b, p.x, p.y, p.workspace());
  for (auto& p : passes) shared.backward(b, p.x, p.dy, p.dx, p.gradients(), p.workspace());
  check(1);
  std::vector<std::thread> threads;
  for (auto& p : passes)
    threads.emplace_back([&] {
      shared.forward(b, p.x, p.y, p.workspace());
      shared.backward(b, p.x, p.dy, p.dx, p.gradients(), p.workspace(), fg::gradients::accumulate);
    });
  for (auto& thread : threads) thread.join();
  check(2);

  auto& p = passes[0];
  auto const less = p.workspace().first(p.workspace().size() - 1);
  CHECK_THROWS_WITH(shared.forward(b, p.x, p.y, less), ContainsSubstring("the workspace holds"));
  CHECK_THROWS_WITH(shared.backward(b, p.x, p.dy, p.dx, p.gradients(), less),
                    ContainsSubstring("the workspace holds"));
  CHECK_THROWS_WITH(shared.backward(b, p.x, p.dy, p.dx, p.gradients().first(3), p.workspace()),
                    "there are " + std::to_string(size) + " weights and room for 3 gradients");
  CHECK_THROWS_WITH(shared.backward(b, p.x, p.dy, p.x, p.gradients(), p.workspace()),
                    "x and dx share memory");
  CHECK_THROWS_AS(shared.backward(b, p.x, p.dy, {}, p.gradients(), p.workspace()),
                  fg::invalid_argument);
}

TEMPLATE_TEST_CASE("forward and backward have the same bits for any number of threads", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  auto const x = numbers<S>::random(150, 16, 1), dy = numbers<S>::random(150, 16, 2);
  numbers<S> right(150, 16), right_dx(150, 16);
  std::vector<S> right_gradient;
  for (int workers : {1, 2, 5}) {
    CAPTURE(workers);
    fg::thread_pool pool(workers);
    fg::network<block, TestType> net({.deviation = 0.3}, TestType{pool});
    numbers<S> y(150, 16), dx(150, 16);
    net.forward({.tokens = 150, .routing = {.balance = {.expert = 0.1}}}, x, y);
    net.backward(dy, dx);
    if (workers == 1) {
      right = y;
      right_dx = dx;
      right_gradient = copy(net.gradient());
    }
    CHECK(y == right);
    CHECK(dx == right_dx);
    CHECK(copy(net.gradient()) == right_gradient);
  }
}

TEMPLATE_TEST_CASE("a cache takes as many sequences as it is for, up to their ends", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = net.make_cache(6);
  std::int64_t const starts[] = {0, 2, 4};
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = starts}, x, y, &cache),
                    "the cache and the batch differ in their number of sequences: 1 and 2");
  net.infer({.tokens = 4}, x, y, &cache);
  CHECK(cache.lengths[0] == 4);
  numbers<S> more(4, 16);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4}, x, more, &cache),
      "the cache has room for 6 tokens of a sequence; sequence 0 has 4, and 4 more do "
      "not fit");
  CHECK(more.untouched());
  CHECK(cache.lengths[0] == 4);
}

TEMPLATE_TEST_CASE(
    "each sequence of a cache has room of its own, and one forgotten can begin again", "",
    EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = net.make_cache(3, 2);
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, x, y, &cache),
                    "the cache and the batch differ in their number of sequences: 2 and 1");
  std::int64_t const three[] = {0, 1, 4}, four[] = {0, 0, 4}, all[] = {0, 4, 4};
  net.infer({.tokens = 4, .starts = three}, x, y, &cache);
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 3});
  numbers<S> more(4, 16);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4, .starts = all}, x, more, &cache),
      "the cache has room for 3 tokens of a sequence; sequence 0 has 1, and 4 more do "
      "not fit");
  cache.reset(1);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4, .starts = four}, x, more, &cache),
      "the cache has room for 3 tokens of a sequence; sequence 1 has 0, and 4 more do "
      "not fit");
  CHECK(more.untouched());
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 0});
  CHECK_THROWS_WITH(cache.reset(2), "the cache holds 2 sequences: there is no sequence 2");
  CHECK_THROWS_AS(cache.reset(-1), fg::invalid_argument);
  cache.lengths[0] = 4;
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = three}, x, more, &cache),
                    "the cache is not this network's: use make_cache()");
}

TEMPLATE_TEST_CASE("a seed gives the same network for any number of threads", "", EXECUTORS) {
  fg::thread_pool pool(3);
  fg::network<tiny::decoder, TestType> one({.seed = 5}), many({.seed = 5}, TestType{pool}),
      other({.seed = 6});
  CHECK(copy(one.parameters()) == copy(many.parameters()));
  CHECK(copy(one.parameters()) != copy(other.parameters()));
}

TEMPLATE_TEST_CASE("first weights, room and clocks that cannot be are refused", "", EXECUTORS) {
  using net_of_moe = fg::network<fg::mixture<moe>, TestType>;
  for (double const deviation : {-1.0, double(NAN), double(INFINITY)})
    CHECK_THROWS_WITH(net_of_moe({.deviation = deviation}), ContainsSubstring("first weights"));
  net_of_moe net;
  for (std::int64_t const tokens : {std::int64_t{-1}, INT64_MAX / 2}) {
    CHECK_THROWS_AS(net.reserve(tokens), fg::invalid_argument);
    CHECK_THROWS_AS(net.reserve(tokens, true), fg::invalid_argument);
    CHECK_THROWS_AS(net.reserve_learning(tokens), fg::invalid_argument);
  }
  auto const x = numbers<typename TestType::scalar>::random(3, 16, 1);
  numbers<typename TestType::scalar> y(3, 16);
  fg::timings times;
  CHECK_THROWS_WITH(net.infer({.tokens = 3, .times = &times}, x, y), ContainsSubstring("timed"));
  CHECK(y.untouched());
}

TEMPLATE_TEST_CASE("gradients may not share memory with what they are made from", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto x = numbers<S>::random(4, 16, 1), dy = numbers<S>::random(4, 16, 2);
  numbers<S> y(4, 16);
  net.forward({.tokens = 4}, x, y);
  CHECK_THROWS_WITH(net.backward(dy, x), "x and dx share memory");
  CHECK_THROWS_WITH(net.backward(dy, dy), "dy and dx share memory");
}

TEMPLATE_TEST_CASE("columns of one matrix that lie side by side may be input and output", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto both = numbers<S>::random(5, 32, 1);
  fg::matrix<S> const all = both, left = all.middle_cols(0, 16), right = all.middle_cols(16, 16);
  numbers<S> x(5, 16), y(5, 16);
  for (int t = 0; t < 5; ++t) std::copy_n(left.row(t), 16, fg::matrix<S>(x).row(t));
  net(x, y);
  net(left, right);
  for (int t = 0; t < 5; ++t)
    CHECK(std::memcmp(right.row(t), fg::matrix<S>(y).row(t), 16 * sizeof(S)) == 0);
  CHECK_THROWS_WITH(net(left, all.middle_cols(15, 16)), "x and y share memory");
  CHECK_THROWS_WITH(net(all.middle_cols(15, 16), left), "x and y share memory");
}

TEMPLATE_TEST_CASE("a cache of another network is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using other = fg::network<fg::attention<16, 4, 1>, TestType>;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = other::make_cache(8);
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, x, y, &cache),
                    "the cache is not this network's: use make_cache()");
  CHECK(y.untouched());
  CHECK_THROWS_AS(net.make_cache(INT64_MAX / 8), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(-1), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(1, 0), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(1, INT64_MAX / 8), fg::invalid_argument);
}

TEMPLATE_TEST_CASE("positions may be given in place of 0, 1, 2, ...", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> usual(4, 16), same(4, 16), apart(4, 16);
  std::vector<std::int64_t> const count{0, 1, 2, 3}, gap{0, 1, 2, 9};
  net(x, usual);
  net.infer({.tokens = 4, .positions = count}, x, same);
  net.infer({.tokens = 4, .positions = gap}, x, apart);
  CHECK(same == usual);
  CHECK_FALSE(apart == usual);
  CHECK(std::equal(usual.values.begin(), usual.values.begin() + 48, apart.values.begin()));
  CHECK_THROWS_WITH(
      net.infer({.tokens = 3, .positions = gap}, fg::matrix<S const>(x.values.data(), 3, 16),
                fg::matrix<S>(apart.values.data(), 3, 16)),
      "the batch has 3 tokens and 4 positions");
}

TEMPLATE_TEST_CASE("backward needs forward's number of workers", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::thread_pool pool(3);
  fg::network<block, TestType> net(TestType{fg::parallel{}});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  net.forward({.tokens = 4}, x, y);
  net.on().threads = pool;
  CHECK_THROWS_WITH(net.backward(x), "forward had 1 workers and backward has 3");
}

TEMPLATE_TEST_CASE("more slots than 32 bits can number are refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<fg::mixture<moe>, TestType> net;
  auto const nowhere = [](int bit) { return reinterpret_cast<S*>(std::uintptr_t(1) << bit); };
  std::int64_t const tokens = 1LL << 30;  // refused before the memory that is not there is touched
  CHECK_THROWS_WITH(net.infer({.tokens = tokens}, fg::matrix<S const>(nowhere(45), tokens, 16),
                              fg::matrix<S>(nowhere(46), tokens, 16)),
                    "a batch of 1073741824 tokens with 2 experts each is too large");
}

namespace {

struct classifier : fg::named {
  static constexpr auto expr = block{} | fg::rmsnorm<16>{} | fg::head<16, 37>{};
};

/// Half the sum of squares; it counts the tokens that it is asked for, in their order.
template <class X>
struct half_squares {
  using S = typename X::scalar;
  std::int64_t* seen;
  double operator()(X const&, std::int64_t first, fg::matrix<S const> y, fg::matrix<S> dy) const {
    CHECK(first == *seen);
    *seen += y.rows;
    double total = 0;
    for (std::int64_t t = 0; t < y.rows; ++t)
      for (std::int64_t c = 0; c < y.cols; ++c) {
        double const value = double(y(t, c));
        total += value * value / 2;
        if (dy.data) dy(t, c) = S(value);
      }
    return total;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("to learn is forward, the loss and backward", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<classifier, TestType> net({.deviation = 0.3}), twin({.deviation = 0.3});
  for (std::int64_t T : {0, 1, 23}) {
    auto const x = numbers<S>::random(T, 16, 1);
    numbers<S> y(T, 37), dx(T, 16), twin_dx(T, 16);
    fg::batch const b{.tokens = T, .routing = {.balance = {.expert = 0.1}}};
    twin.forward(b, x, y);
    double expected = 0;
    for (S value : y.values) expected += double(value) * double(value) / 2;
    twin.backward(y, twin_dx);  // y is its own gradient
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      std::int64_t seen = 0;
      double const loss = net.learn(b, x, half_squares<TestType>{&seen}, dx, mode);
      CHECK(seen == T);
      CHECK(loss == Approx(expected).epsilon(1e-5));
      seen = 0;
      CHECK(net.score(b, x, half_squares<TestType>{&seen}) == loss);
      double const times = mode == fg::gradients::overwrite ? 1 : 2;
      for (std::size_t i = 0; i < net.gradient().size(); ++i)
        CHECK(double(net.gradient()[i]) ==
              Approx(times * double(twin.gradient()[i])).epsilon(1e-5).margin(1e-5));
      for (std::size_t i = 0; i < dx.values.size(); ++i)
        CHECK(double(dx.values[i]) == Approx(double(twin_dx.values[i])).epsilon(1e-5).margin(1e-5));
    }
  }
}

TEMPLATE_TEST_CASE("what cannot be learned from is refused before anything is written", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<classifier, TestType> net;
  auto x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 37), dx(4, 16), narrow(4, 15);
  std::int64_t seen = 0;
  half_squares<TestType> const loss{&seen};
  net.forward({.tokens = 4}, x, y);
  auto const before = copy(net.gradient());
  CHECK_THROWS_WITH(net.learn({.tokens = 5}, x, loss), "x is 4 x 16; this call needs 5 x 16");
  CHECK_THROWS_WITH(net.score({.tokens = 5}, x, loss), "x is 4 x 16; this call needs 5 x 16");
  CHECK_THROWS_WITH(net.learn({.tokens = 4}, x, loss, narrow),
                    "dx is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net.learn({.tokens = 4}, x, loss, x), "x and dx share memory");
  CHECK_THROWS_AS(net.learn({.tokens = 4, .routing = {.top_k = 3}}, x, loss), fg::invalid_argument);
  CHECK(seen == 0);
  CHECK(copy(net.gradient()) == before);
  CHECK_NOTHROW(net.backward(y));  // what forward kept is still there
  net.learn({.tokens = 4}, x, loss);
  CHECK_THROWS_WITH(net.backward(y),
                    "backward needs a forward before it, and no other call between");
  net.forward({.tokens = 4}, x, y);
  seen = 0;
  net.score({.tokens = 4}, x, loss);
  CHECK_THROWS_AS(net.backward(y), fg::invalid_argument);
}
