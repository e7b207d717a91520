// Combine: sums in a fixed order.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/combine.hpp>
#include <finegrain/cpu/dispatch.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

TEST_CASE("combine after dispatch with unit weights is the identity") {
  std::int64_t const T = 37;
  int const R = 5, D = 11;
  numbers const x = random_numbers(T * D, 1);
  std::vector<std::int32_t> experts;
  for (std::int64_t t = 0; t < T; ++t)
    experts.push_back(std::int32_t(fg::random_word(3, std::uint64_t(t)) % R));
  fg::buffer<> memory(1 << 16);
  fg::arena arena(memory.data(), memory.size());
  fg::dispatched const places(arena, T, R, 1, T);
  fg::dispatch(fg::cpu(), view(std::as_const(experts), T, 1), R, places);
  numbers gathered(x.size()), y(x.size(), poison);
  for (std::int64_t s = 0; s < T; ++s)
    std::copy_n(&x[std::size_t(places.token[s] * D)], D, &gathered[std::size_t(s * D)]);
  fg::combine(fg::cpu(), {.slots = view(gathered, T, D), .slot = places.slot}, view(y, T, D));
  CHECK(same(y, x));
}

TEST_CASE("combine adds the shared row, the slots and the rest, each times its weight") {
  numbers const shared{1, 2}, slots{10, 20, 100, 200}, also{1000, 2000};
  std::vector<std::int32_t> const slot{1, 0};
  numbers const weights{3, 0.5f};
  float const half = 0.5f;
  numbers y(2, poison);
  fg::combination sum{.shared = view(shared, 1, 2),
                      .shared_weight = &half,
                      .slots = view(slots, 2, 2),
                      .slot = view(slot, 1, 2),
                      .weights = view(weights, 1, 2),
                      .also = view(also, 1, 2)};
  fg::combine(fg::cpu(), sum, view(y, 1, 2));
  CHECK(y == numbers{0.5f + 300 + 5 + 1000, 1 + 600 + 10 + 2000});
  fg::combine(fg::cpu(), {}, view(y, 1, 2));
  CHECK(y == numbers{0, 0});
}

}  // namespace
