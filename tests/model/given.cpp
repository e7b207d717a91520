// Experts and weights that come with a batch: by a router elsewhere, or for a process's share of them.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/model/frozen.hpp>
#include <finegrain/train/gradient_check.hpp>
#include <thread>

#include "../catch.hpp"
#include "block.hpp"

namespace fg = finegrain;
using namespace small;

namespace {

constexpr int D = moe.hidden, R = moe.routed, K = moe.top_k;
constexpr std::int64_t T = 9;

/// A share of moe's routed experts, without a router and without shared experts.
template <int Experts>
constexpr fg::config share = [] {
  fg::config c = moe;
  c.routed = Experts, c.shared = 0, c.selection = fg::selection::given;
  return c;
}();
constexpr fg::config all_given = [] {
  fg::config c = share<R>;
  c.shared = moe.shared;
  return c;
}();

/// A choice of so many tokens: the t-th goes to experts t and 2 t + 1, or one of them; every fifth to none.
struct choice {
  std::vector<std::int32_t> experts;
  std::vector<float> weights, dweights;

  explicit choice(std::int64_t tokens, std::uint64_t seed = 1) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      auto const first = std::int32_t(t % R), second = std::int32_t((2 * t + 1) % R);
      experts.push_back(t % 5 == 4 ? -1 : first);
      experts.push_back(t % 5 == 4 || second == first ? fg::no_expert : second);
      for (int slot = 0; slot < K; ++slot)
        weights.push_back(experts[std::size_t(t * K + slot)] < 0
                              ? NAN
                              : float(fg::random_uniform(seed, std::size_t(t * K + slot))));
    }
    dweights.assign(weights.size(), NAN);
  }
  std::int64_t tokens() const { return std::ssize(experts) / K; }
  fg::given_choice view() {
    return {{experts.data(), tokens(), K},
            {weights.data(), tokens(), K},
            {dweights.data(), tokens(), K}};
  }
};

/// Copies experts `first`, ... of one network to experts 0, ... of another, and shared ones to shared ones.
template <class From, class To>
void copy_experts(From const& from, To& to, int first = 0) {
  for (auto const& e : to.entries()) {
    std::string name = e.name;
    if (name.starts_with("experts.")) {
      auto const end = name.find('.', 8);
      name = "experts." + std::to_string(std::stoi(name.substr(8, end - 8)) + first) +
             name.substr(end);
    }
    auto const source = from.weight(name);
    auto const target = to.weight(e.name);
    for (std::int64_t r = 0; r < source.rows; ++r)
      std::copy_n(source.row(r), source.cols, target.row(r));
  }
}

template <class S>
double off(fg::matrix<S const> a, fg::matrix<S const> b) {
  double most = 0, size = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) {
      most = std::max(most, std::abs(double(a(r, c)) - double(b(r, c))));
      size = std::max(size, std::abs(double(b(r, c))));
      if (std::isnan(a(r, c))) return NAN;
    }
  return most / size;
}

}  // namespace

TEST_CASE("a router's choice that comes with the batch makes the same bits, forward and backward") {
  auto const x = numbers<float>::random(T, D, 1), dy = numbers<float>::random(T, D, 2);
  fg::network<fg::mixture<moe>, fg::cpu> whole({.deviation = 0.5});
  fg::network<fg::mixture<all_given>, fg::cpu> replayed({.deviation = 0});
  copy_experts(whole, replayed);
  numbers<float> y(T, D), dx(T, D), y2(T, D), dx2(T, D);
  auto log = whole.make_log(T);
  whole.forward({.tokens = T, .log = &log}, x, y);
  whole.backward(dy, dx);

  auto again = replayed.make_log(T);
  std::vector<fg::given_choice> const given{
      {log.layers[0].choices(), log.layers[0].choice_weights()}};
  replayed.forward({.tokens = T, .log = &again, .given = given}, x, y2);
  replayed.backward(dy, dx2);
  CHECK(y == y2);
  CHECK(!(dx == dx2));  // that of the router is missing
  for (auto const& e : replayed.entries()) {
    CAPTURE(e.name);
    CHECK(off<float>(replayed.gradient(e.name), whole.gradient(e.name)) == 0);
  }
  CHECK(again.layers[0].load == log.layers[0].load);
  auto const one = log.layers[0], two = again.layers[0];
  for (std::int64_t t = 0; t < T; ++t)
    for (int slot = 0; slot < K; ++slot) {
      CHECK(two.choices()(t, slot) == one.choices()(t, slot));
      CHECK(two.choice_weights()(t, slot) == one.choice_weights()(t, slot));
    }
}

TEMPLATE_TEST_CASE("gradients of given weights are what each expert adds to the loss", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  auto const x = numbers<S>::random(T, D, 1), dy = numbers<S>::random(T, D, 2);
  fg::network<fg::mixture<all_given>, TestType> net({.deviation = 0.5});
  choice of(T);
  std::vector<fg::given_choice> const given{of.view()};
  fg::batch const b{.tokens = T, .given = given};
  numbers<S> y(T, D), dx(T, D);
  net.forward(b, x, y);
  net.backward(dy, dx);
  auto const found = of.dweights;

  // y is linear in the weights: with one of them 1 larger it is that expert's output larger.
  for (std::int64_t t = 0; t < T; ++t)
    for (int slot = 0; slot < K; ++slot) {
      auto const n = std::size_t(t * K + slot);
      CAPTURE(t, slot);
      if (of.experts[n] < 0) {
        CHECK(found[n] == 0);
        continue;
      }
      choice more = of;
      more.weights[n] += 1;
      std::vector<fg::given_choice> const other{more.view()};
      numbers<S> y2(T, D);
      net.infer({.tokens = T, .given = other}, x, y2);
      double difference = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        auto const at = std::size_t(t * D + d);
        difference += double(dy.values[at]) * (double(y2.values[at]) - double(y.values[at]));
      }
      CHECK(double(found[n]) == Approx(difference).epsilon(1e-4).margin(1e-4));
    }
}

TEST_CASE("gradients of experts and of x are those of differences where experts are given") {
  fg::network<fg::mixture<all_given>, fg::reference> net({.deviation = 0.6, .seed = 2});
  auto const x = numbers<double>::random(T, D, 3);
  choice of(T);
  std::vector<fg::given_choice> const given{of.view()};
  auto const report = fg::check_gradients(net, {.tokens = T, .given = given}, x);
  INFO(report.where << ": backward says " << report.gradient << ", differences say "
                    << report.difference);
  CHECK(report.worst < 2e-7);
  CHECK(report.partials > 10 * report.skipped);
}

TEMPLATE_TEST_CASE("processes that hold a share of the experts each add up to the layer", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  auto const x = numbers<S>::random(T, D, 1), dy = numbers<S>::random(T, D, 2);
  fg::network<fg::mixture<share<R>>, TestType> whole({.deviation = 0.5});
  choice of(T);
  std::vector<fg::given_choice> const given{of.view()};
  numbers<S> y(T, D), dx(T, D);
  whole.forward({.tokens = T, .given = given}, x, y);
  whole.backward(dy, dx);

  numbers<S> y_sum(T, D), dx_sum(T, D);
  std::fill(y_sum.values.begin(), y_sum.values.end(), S(0));
  std::fill(dx_sum.values.begin(), dx_sum.values.end(), S(0));
  std::vector<float> dweights(of.weights.size(), 0);
  auto const add_share = [&]<int Experts>(std::integral_constant<int, Experts>, int first) {
    fg::network<fg::mixture<share<Experts>>, TestType> part({.deviation = 0});
    copy_experts(whole, part, first);
    choice mine = of;
    for (auto& e : mine.experts) e = e >= first && e < first + Experts ? e - first : fg::no_expert;
    std::vector<fg::given_choice> const some{mine.view()};
    numbers<S> y2(T, D), dx2(T, D);
    part.forward({.tokens = T, .given = some}, x, y2);
    part.backward(dy, dx2);
    for (std::size_t i = 0; i < y2.values.size(); ++i)
      y_sum.values[i] += y2.values[i], dx_sum.values[i] += dx2.values[i];
    for (std::size_t i = 0; i < dweights.size(); ++i) dweights[i] += mine.dweights[i];
    for (auto const& e : part.entries()) {
      std::string name = e.name;
      auto const end = name.find('.', 8);
      name = "experts." + std::to_string(std::stoi(name.substr(8, end - 8)) + first) +
             name.substr(end);
      CAPTURE(name);
      auto const a = part.gradient(e.name), b = whole.gradient(name);
      for (std::int64_t r = 0; r < a.rows; ++r)
        CHECK(std::memcmp(a.row(r), b.row(r), std::size_t(a.cols) * sizeof(S)) == 0);
    }
  };
  add_share(std::integral_constant<int, 2>{}, 0);
  add_share(std::integral_constant<int, 1>{}, 2);
  add_share(std::integral_constant<int, 3>{}, 3);
  CHECK(off<S>(y_sum, y) < 1e-6);
  CHECK(off<S>(dx_sum, dx) < 1e-6);
  CHECK(dweights == of.dweights);
}

TEMPLATE_TEST_CASE("each layer takes its own choice, in the order of the forward pass", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  using one = fg::mixture<all_given>;
  using stack =
      decltype(fg::repeat<2>(fg::residual(one{})) | fg::mixture<moe>{} | fg::residual(one{}));
  auto const x = numbers<S>::random(T, D, 1), dy = numbers<S>::random(T, D, 2);
  fg::network<stack, TestType> net({.deviation = 0.5});
  choice a(T, 1), b(T, 2), c(T, 3);
  std::vector<fg::given_choice> const given{a.view(), b.view(), c.view()};
  numbers<S> y(T, D), dx(T, D), again(T, D);
  auto const run = [&](numbers<S>& to) {
    net.forward({.tokens = T, .given = given}, x, to);
    net.backward(dy, dx);
  };
  run(y);
  auto const da = a.dweights, db = b.dweights, dc = c.dweights;
  CHECK((da != db && db != dc));
  run(again);
  CHECK(y == again);
  CHECK((a.dweights == da && b.dweights == db && c.dweights == dc));

  // The last layer's by itself, of what it was given.
  fg::network<decltype(fg::repeat<2>(fg::residual(one{})) | fg::mixture<moe>{}), TestType> before(
      {.deviation = 0});
  fg::network<one, TestType> last({.deviation = 0});
  for (auto const& e : before.entries())
    std::copy_n(net.weight(e.name).data, e.rows * e.cols, before.weight(e.name).data);
  for (auto const& e : last.entries())
    std::copy_n(net.weight("mixture_2." + e.name).data, e.rows * e.cols, last.weight(e.name).data);
  numbers<S> between(T, D), out(T, D);
  std::vector<fg::given_choice> const both{a.view(), b.view()}, third{c.view()};
  before.infer({.tokens = T, .given = both}, x, between);
  last.forward({.tokens = T, .given = third}, between, out);
  last.backward(dy, dx);
  CHECK(c.dweights == dc);
  for (std::size_t i = 0; i < y.values.size(); ++i)
    CHECK(y.values[i] == between.values[i] + out.values[i]);
}

TEST_CASE("a frozen layer takes a given choice, and a token alone has its bits") {
  auto const x = numbers<float>::random(T, D, 1);
  fg::network<fg::mixture<all_given>, fg::cpu> net({.deviation = 0.5});
  choice of(T);
  std::vector<fg::given_choice> const given{of.view()};
  numbers<float> exact(T, D);
  net.infer({.tokens = T, .given = given}, x, exact);
  auto const check = [&](auto frozen, double error) {
    numbers<float> y(T, D), row(1, D);
    frozen.infer({.tokens = T, .given = given}, x, y);
    CHECK(off<float>(y, exact) < error);
    for (std::int64_t t = 0; t < T; ++t) {
      auto const all = of.view();
      std::vector<fg::given_choice> const alone{
          {all.experts.middle_rows(t, 1), all.weights.middle_rows(t, 1)}};
      frozen.infer({.tokens = 1, .given = alone}, {x.values.data() + t * D, 1, D}, row);
      CHECK(std::memcmp(row.values.data(), y.values.data() + t * D, D * sizeof(float)) == 0);
    }
  };
  check(fg::quantize<fg::format::f32>(net), 1e-30);
  check(fg::quantize<fg::format::int4>(net), 0.3);
}

TEMPLATE_TEST_CASE("what is no choice is refused, and so is a choice for nobody", "", EXECUTORS) {
  using S = typename TestType::scalar;
  auto const x = numbers<S>::random(T, D, 1);
  numbers<S> y(T, D);
  fg::network<fg::mixture<all_given>, TestType> net;
  auto const says = [&](fg::batch b, std::string const& what) {
    b.tokens = T;
    CHECK_THROWS_WITH(net.forward(b, x, y), Catch::Contains(what));
    CHECK(y.untouched());
  };
  choice of(T), few(T - 1), twice(T), far(T);
  twice.experts[1] = twice.experts[0];
  far.experts[0] = R;
  using choices = std::vector<fg::given_choice>;
  choices const none, right{of.view()}, short_one{few.view()}, doubled{twice.view()},
      beyond{far.view()}, narrow{{{of.experts.data(), T, K}, {of.weights.data(), T, K - 1, K}}},
      over{{{of.experts.data(), T, K}, {of.weights.data(), T, K}, {of.weights.data(), T, K}}};
  says({}, ".given");
  says({.given = none}, "router 0 takes its experts and weights from the batch");
  says({.given = over}, "the batch's weights and their gradient share memory");
  says({.given = short_one}, "the batch's experts is 8 x 2; this call needs 9 x 2");
  says({.given = narrow}, "the batch's weights is 9 x 1");
  says({.given = doubled}, "the batch's routing sent token 0 to expert 0 twice");
  says({.given = beyond}, "the batch's routing sent token 0 to expert 6 which is not there");
  says({.routing = {.balance = {.expert = 1}}, .given = right}, "balance losses move a router");
  net.forward({.tokens = T, .given = right}, x, y);
  CHECK(!y.untouched());

  fg::network<fg::mixture<moe>, TestType> routed;
  CHECK_THROWS_WITH(routed.infer({.tokens = T, .given = right}, x, y),
                    Catch::Contains("selection::given is "));
}

TEMPLATE_TEST_CASE(
    "two experts of a layer's eight slots: fewer of them, drops, losses of others, no token", "",
    EXECUTORS) {
  using S = typename TestType::scalar;
  constexpr fg::config routed{.hidden = D, .width = 12, .routed = 16, .top_k = 8};
  constexpr fg::config share{
      .hidden = D, .width = 12, .routed = 2, .top_k = 8, .selection = fg::selection::given};
  using E = decltype(fg::mixture<routed>{} | fg::mixture<share>{});
  fg::network<E, TestType> net({.deviation = 0.5});
  auto const x = numbers<S>::random(T, D, 1), dy = numbers<S>::random(T, D, 2);
  numbers<S> y(T, D), dx(T, D);
  std::vector<std::int32_t> experts(T * 8, -1);
  std::vector<float> weights(T * 8, NAN), dweights(T * 8, NAN);
  for (std::size_t t = 0; t < T; ++t) {
    experts[t * 8 + 5] = 1, weights[t * 8 + 5] = 0.5f;
    if (t % 2 == 0) experts[t * 8 + 2] = 0, weights[t * 8 + 2] = float(t + 1);
  }
  auto const choice = [&](std::int64_t tokens, int k) {
    return std::vector<fg::given_choice>{{{experts.data(), tokens, k, 8},
                                          {weights.data(), tokens, k, 8},
                                          {dweights.data(), tokens, k, 8}}};
  };
  auto const run = [&](std::int64_t tokens, fg::routing_request const& request, int k) {
    auto const given = choice(tokens, k);
    auto log = net.make_log();
    net.forward({.tokens = tokens, .routing = request, .log = &log, .given = given},
                x.first(tokens), y.first(tokens));
    net.backward(dy.first(tokens), dx.first(tokens));
    return log;
  };

  // Every loss is the routed layer's alone.
  auto log = run(
      T,
      {.balance =
           {.expert = 1, .device = 1, .communication = 1, .sequence = 1, .z = 1, .importance = 1}},
      8);
  CHECK(log.layers[0].balance_loss > 0);
  CHECK(log.layers[1].balance_loss == 0);
  CHECK(log.layers[1].load == std::vector<std::int64_t>{5, 9});
  auto const with_losses = dweights;
  run(T, {}, 8);
  CHECK(dweights == with_losses);

  // The first six slots, of which the last is used.
  auto const all = y;
  log = run(T, {.top_k = 6}, 6);
  CHECK(log.layers[1].load == std::vector<std::int64_t>{5, 9});
  log = run(T, {.top_k = 3}, 3);
  CHECK(log.layers[1].load == std::vector<std::int64_t>{5, 0});

  // ceil(0.1 T K / R) = 4 slots of each expert: of expert 0 the lightest of five, the first token's.
  log = run(T, {.capacity = 0.1}, 8);
  CHECK(log.layers[1].dropped == std::vector<std::int64_t>{1, 5});
  CHECK(dweights[2] == 0);
  CHECK(dweights[2 * 8 + 2] != 0);

  CHECK(run(0, {}, 8).layers[1].load == std::vector<std::int64_t>{0, 0});
}

TEST_CASE("passes that share a choice keep their own place in it") {
  using one = fg::mixture<all_given>;
  using stack = decltype(fg::repeat<3>(fg::residual(one{})));
  auto const x = numbers<float>::random(T, D, 1);
  choice const a(T, 1), b(T, 2), c(T, 3);
  auto const view = [](choice const& of) {
    return fg::given_choice{{of.experts.data(), T, K}, {of.weights.data(), T, K}};
  };
  std::vector<fg::given_choice> const given{view(a), view(b), view(c)};
  fg::network<stack, fg::cpu> net(fg::cpu{fg::parallel{}}, {.deviation = 0.5});
  numbers<float> expected(T, D);
  net.infer({.tokens = T, .given = given}, x, expected);
  std::vector<numbers<float>> made(4, numbers<float>(T, D));
  std::vector<std::thread> threads;
  for (auto& y : made)
    threads.emplace_back([&] {
      fg::buffer<> memory(net.workspace_bytes(net.extent_of(T)));
      for (int n = 0; n < 50; ++n)
        net.infer({.tokens = T, .given = given}, x, y, {memory.data(), std::size_t(memory.size())});
    });
  for (auto& thread : threads) thread.join();
  for (auto const& y : made) CHECK(y == expected);
}
