// Backward and learning: what they need and refuse, and whose memory they use.
// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "block.hpp"

namespace fg = finegrain;
using namespace small;

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
    std::int64_t first = 0;  // gradients may start anywhere
    std::span<std::byte> workspace() { return {memory.data(), std::size_t(memory.size())}; }
    std::span<S> gradients() {
      return {gradient.data() + first, std::size_t(gradient.size() - first)};
    }
  };
  std::vector<pass> passes;
  fg::batch const b{.tokens = T};
  auto const size = std::int64_t(net.parameters().size());
  for (std::uint64_t i = 0; i < 4; ++i) {
    passes.push_back({numbers<S>::random(T, 16, 2 * i), numbers<S>::random(T, 16, 2 * i + 1)});
    auto& p = passes.back();
    p.memory = fg::buffer<>(net.workspace_bytes(net.extent_of(T, true)));
    p.first = std::int64_t(i);
    p.gradient = fg::buffer<S>(p.first + size);
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
  std::string const bytes = std::to_string(less.size() + 1);  // that are needed in training
  CHECK_THROWS_WITH(shared.forward(b, p.x, p.y, less),
                    ContainsSubstring("tokens need " + bytes + " in training"));
  CHECK_THROWS_WITH(shared.backward(b, p.x, p.dy, p.dx, p.gradients(), less),
                    ContainsSubstring("the workspace holds"));
  CHECK_THROWS_WITH(shared.backward(b, p.x, p.dy, p.dx, p.gradients().first(3), p.workspace()),
                    "the network has " + std::to_string(size) + " weights; these are 3 gradients");
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

TEMPLATE_TEST_CASE("gradients may not share memory with what they are made from", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto x = numbers<S>::random(4, 16, 1), dy = numbers<S>::random(4, 16, 2);
  numbers<S> y(4, 16);
  net.forward({.tokens = 4}, x, y);
  CHECK_THROWS_WITH(net.backward(dy, x), "x and dx share memory");
  CHECK_THROWS_WITH(net.backward(dy, dy), "dy and dx share memory");
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
  CHECK_THROWS_WITH(net.learn({.tokens = 4, .routing = {.top_k = 3}}, x, loss),
                    "a token can be sent to 1 to 2 experts here in training, not 3");
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
