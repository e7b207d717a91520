// Layers of experts on the device, every kind of router, against the specification in double.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <finegrain/expr/describe.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "device_layer.hpp"

using namespace under_test;

namespace {

template <fg::config C>
void compare_all(std::int64_t T, std::uint64_t seed, fg::batch const& b = {}) {
  using E = fg::mixture<C>;
  for (auto use : {fg::device::instructions::all, fg::device::instructions::portable})
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      comparison const c = compare<E>(T, seed, b, mode, use);
      INFO(fg::describe(E{}));
      INFO(T << " tokens, portable " << (use == fg::device::instructions::portable) << ", adding "
             << (mode == fg::gradients::accumulate) << ", worst " << c.worst);
      CHECK(c.y < 0.01);
      CHECK(c.dx < 0.015);
      CHECK(c.dw < 0.02);
    }
}

}  // namespace

TEST_CASE("a mixture on the device is the specification's") {
  NEED_GPU();
  for (std::int64_t T : on_device::sizes_here({0, 1, 2, 7, 33, 64, 129, 300}))
    compare_all<layers::small>(T, 100 + 7 * T);
  for (std::int64_t T : on_device::sizes_here({1, 40, 513}))
    compare_all<layers::wide>(T, 200 + 7 * T);
  for (std::int64_t T : on_device::sizes_here({1, 5, 257}))
    compare_all<layers::alone>(T, 300 + 7 * T);
}

TEST_CASE("a mixture with ReLU on the device is the specification's") {
  NEED_GPU();
  for (std::int64_t T : on_device::sizes_here({1, 5, 33, 150}))
    compare_all<layers::relu>(T, 400 + 7 * T);
}

TEST_CASE("every kind of router that the device has is the specification's", "[hardware]") {
  NEED_GPU();
  std::size_t count = 0;
  auto const of = [&]<fg::config C>(fg::at<C>) {
    constexpr fg::config c = widened(C);
    family::tokens const tokens(61);
    for (auto const& loss : family::losses()) {
      if (c.uniform && loss != fg::balance_losses{}) continue;
      fg::routing_request request;
      request.balance = loss;
      fg::batch b = tokens.batch(request, c.jitter);
      b.positions = {};
      comparison const got = compare<fg::mixture<c>>(61, 1000 + 50 * count, b);
      INFO(fg::describe(fg::mixture<c>{}));
      INFO("losses " << loss.expert << loss.device << loss.communication << loss.sequence << loss.z
                     << loss.importance << ", worst " << got.worst);
      CHECK(got.y < 0.01);
      CHECK(got.dx < 0.02);
      CHECK(got.dw < 0.03);
    }
    ++count;
  };
  fg::for_each(family::exact{}, of);
  fg::for_each(family::rounded{}, of);
  CHECK(count == 22);
}

TEST_CASE("requests at run time: fewer and more experts, the best ones masked, none shared") {
  NEED_GPU();
  using E = fg::mixture<layers::small>;
  std::uint64_t seed = 5000;
  for (int k : {1, 2, 3})
    for (int masked : {0, 2})
      for (bool shared : {true, false}) {
        fg::batch b;
        b.routing.top_k = k, b.routing.mask_best = masked, b.routing.shared = shared;
        comparison const c = compare<E>(70, seed += 100, b);
        INFO(k << masked << shared << c.worst);
        CHECK(c.y < 0.01);
        CHECK(c.dx < 0.015);
        CHECK(c.dw < 0.02);
      }
  device_layer<E> fast;
  exact_layer<E> exact;
  numbers const w = rounded(random_numbers(fg::weights_size<E>(), 3, 0.1)),
                x = rounded(random_numbers(20 * layers::small.hidden, 4));
  fast.set_weights(w), exact.set_weights(w);
  fg::batch b;
  b.routing.top_k = 4;
  CHECK(off(exact.forward(x, b), fast.forward(x, b)) < 0.01);
}

TEST_CASE("a dense block, and a norm fused with the layer behind it") {
  NEED_GPU();
  std::uint64_t seed = 9000;
  for (std::int64_t T : on_device::sizes_here({1, 50, 200})) {
    for (bool shared : {true, false}) {  // it is not one of those that a request leaves out
      comparison const dense =
          compare<fg::mlp<72, 136>>(T, seed += 100, {.routing = {.shared = shared}});
      CHECK(dense.y < 0.01);
      CHECK(dense.dx < 0.015);
      CHECK(dense.dw < 0.02);
    }
    constexpr auto block = fg::residual(fg::rmsnorm<72>{} | fg::mixture<layers::small>{});
    comparison const fused = compare<std::remove_const_t<decltype(block)>>(T, seed += 100, {});
    INFO(fused.worst);
    CHECK(fused.y < 0.01);
    CHECK(fused.dx < 0.015);
    CHECK(fused.dw < 0.03);
  }
}

TEST_CASE("what a router did is in the log") {
  NEED_GPU();
  using E = fg::mixture<layers::small>;
  device_layer<E> fast;
  exact_layer<E> exact;
  numbers const w = rounded(random_numbers(fg::weights_size<E>(), 3, 0.1)),
                x = rounded(random_numbers(200 * layers::small.hidden, 4));
  fast.set_weights(w), exact.set_weights(w);
  auto ours = fg::network<E, fg::cuda>::make_log(200), theirs = ours;
  fg::batch b;
  b.routing.balance = {.expert = 0.1, .sequence = 0.2, .z = 0.01};
  b.log = &theirs;
  exact.forward(x, b, true);
  b.log = &ours;
  fast.forward(x, b, true);
  REQUIRE(ours.next == 1);
  auto const &a = theirs.layers[0], &g = ours.layers[0];
  CHECK(g.load == a.load);
  CHECK(g.tokens == 200);
  CHECK(g.balance_loss == Approx(a.balance_loss).epsilon(1e-3));
  CHECK(g.entropy == Approx(a.entropy).epsilon(1e-3));
  for (std::size_t e = 0; e < 8; ++e)
    CHECK(g.mean_score[e] == Approx(a.mean_score[e]).epsilon(1e-3));
  REQUIRE(g.choices().rows == 200);
  REQUIRE(g.choices().cols == 3);
  CHECK(g.experts == a.experts);
  for (std::int64_t t = 0; t < 200; ++t)
    for (int slot = 0; slot < 3; ++slot)
      CHECK(g.choice_weights()(t, slot) == Approx(a.choice_weights()(t, slot)).epsilon(1e-3));
}

TEST_CASE("batches on the device may be under way in memory of the caller's") {
  NEED_GPU();
  using E = fg::mixture<layers::small>;
  constexpr int D = layers::small.hidden;
  fg::network<E, fg::cuda> net({.deviation = 0.1});
  auto const& shared = net;
  for (std::int64_t T : {5, 70}) {
    fg::batch const b{.tokens = T};
    std::vector<fg::device_buffer<bf16>> x, dy, y, dx, gradient;
    std::vector<fg::device_buffer<std::byte>> memory;
    auto const rows = [&](fg::device_buffer<bf16> const& m) {
      return fg::matrix<bf16>(m.data(), T, D);
    };
    auto const all = [](auto const& m) {
      return std::span(m.data(), static_cast<std::size_t>(m.size()));
    };
    for (std::size_t i = 0; i < 2; ++i) {
      x.push_back(upload(as_bf16(random_numbers(T * D, 10 + i))));
      dy.push_back(upload(as_bf16(random_numbers(T * D, 20 + i))));
      y.push_back(unwritten<bf16>(T * D));
      dx.push_back(unwritten<bf16>(T * D));
      gradient.push_back(upload(as_bf16(numbers(std::size_t(fg::weights_size<E>())))));
      memory.push_back(unwritten<std::byte>(net.workspace_bytes(net.extent_of(T, true))));
      shared.forward(b, rows(x[i]), rows(y[i]), all(memory[i]));
    }
    for (std::size_t i = 0; i < 2; ++i)
      shared.backward(b, rows(x[i]), rows(dy[i]), rows(dx[i]), all(gradient[i]), all(memory[i]));
    for (std::size_t i = 0; i < 2; ++i) {
      auto const own_y = unwritten<bf16>(T * D), own_dx = unwritten<bf16>(T * D);
      net.forward(b, rows(x[i]), rows(own_y));
      net.backward(rows(dy[i]), rows(own_dx));
      CHECK(as_numbers(download(y[i])) == as_numbers(download(own_y)));
      CHECK(as_numbers(download(dx[i])) == as_numbers(download(own_dx)));
      CHECK(as_numbers(download(gradient[i])) == as_numbers(download(net.gradient())));
    }
  }
}

TEST_CASE("without a GPU an executor is refused in a sentence") {
  if (fg::device::runtime::devices() > 0) SKIP("there is a GPU");
  CHECK_THROWS_AS(fg::cuda(), fg::cuda_error);
  try {
    fg::network<fg::mixture<layers::small>, fg::cuda> const net;
    FAIL("made");
  } catch (fg::error const& e) {
    CHECK(std::string(e.what()) ==
          "there is no GPU, or its driver is older than this program's CUDA");
  }
}

TEST_CASE("what the device cannot do is refused in a sentence, and nothing is written") {
  constexpr fg::config odd{.hidden = 60, .width = 8, .routed = 4, .top_k = 1};
  CHECK(fg::device::unsupported(odd) != nullptr);
  struct no_loss : fg::balance_rule {
    void factors(std::span<double const>, std::span<double>) const override {}
  } const rule;  // of the host alone
  fg::routing_request request;
  request.balance.rule = &rule;
  CHECK_THROWS_AS(fg::place<fg::cuda>::check(layers::small, request), fg::invalid_argument);
  CHECK(fg::device::unsupported(layers::small) == nullptr);
}

TEST_CASE("a token has the same bits wherever it stands in its batch", "[hardware]") {
  NEED_GPU();
  auto const all = [&]<fg::config C>(fg::at<C>) {
    for (auto use : {fg::device::instructions::all, fg::device::instructions::portable})
      for (std::int64_t T : on_device::sizes_here({5, 40, 129, 1000})) {
        device_layer<fg::mixture<C>> here, there;
        here.on.use = there.on.use = use;
        numbers x = rounded(random_numbers(T * C.hidden, 1)),
                dy = rounded(random_numbers(T * C.hidden, 2));
        here.train(x, dy);
        numbers y = here.read_y(), dx = here.read_dx();
        // By 3 tokens: rows of an expert get other neighbours.
        for (numbers* some : {&x, &dy, &y, &dx})
          std::rotate(some->begin(), some->begin() + 3 * C.hidden, some->end());
        there.train(x, dy);
        INFO(fg::describe(fg::mixture<C>{}));
        INFO(T << " tokens, portable " << (use == fg::device::instructions::portable));
        CHECK(y == there.read_y());
        CHECK(dx == there.read_dx());
      }
  };
  fg::for_each(fg::ladder<layers::small, layers::wide, layers::relu>{}, all);
}

TEST_CASE("large batches stay within their memory, and any cut of them has the same values",
          "[hardware]") {
  NEED_GPU();
  constexpr fg::config c{.hidden = 256, .width = 128, .routed = 64, .top_k = 6, .shared = 2};
  using E = fg::mixture<c>;
  constexpr std::int64_t T = 32768, some = 300;
  device_layer<E> whole, part_of;
  numbers const x = rounded(random_numbers(T * c.hidden, 1)),
                dy = rounded(random_numbers(T * c.hidden, 2));
  whole.set_weights(random_numbers(fg::weights_size<E>(), 3, 0.05));
  part_of.set_weights(random_numbers(fg::weights_size<E>(), 3, 0.05));
  whole.train(x, dy);
  numbers const y = whole.read_y(), dx = whole.read_dx();
  for (std::int64_t first : {std::int64_t{0}, std::int64_t{17000}, T - some}) {
    part_of.train(rows(x, c.hidden, first, some), rows(dy, c.hidden, first, some));
    numbers const a = rows(y, c.hidden, first, some), b = rows(dx, c.hidden, first, some);
    CHECK(off({a.begin(), a.end()}, part_of.read_y()) < 1e-3);
    CHECK(off({b.begin(), b.end()}, part_of.read_dx()) < 1e-3);
  }
}
