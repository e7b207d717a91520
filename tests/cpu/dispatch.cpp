// Dispatch: a permutation of (token, choice) pairs.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/dispatch.hpp>
#include <set>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;

struct sorted {
  fg::buffer<> memory;
  std::vector<std::int32_t> experts;
  fg::dispatched places;

  sorted(std::int64_t T, int R, int k, auto&& choose)
      : memory(64 * (T * k + R + 8)), places(cut(T, R, k)) {
    for (std::int64_t t = 0; t < T; ++t)
      for (int i = 0; i < k; ++i) experts.push_back(choose(t, i));
    fg::dispatch(fg::cpu(), view(std::as_const(experts), T, k), R, places);
  }

 private:
  fg::dispatched cut(std::int64_t T, int R, int k) {
    fg::arena arena(memory.data(), memory.size());
    return {arena, T, R, k, T * k};
  }
};

TEST_CASE(
    "dispatch is a permutation: every choice has one slot, with its expert's, tokens in order") {
  for (auto [T, R, k] : {std::array<int, 3>{0, 3, 2}, {1, 1, 1}, {50, 7, 3}, {333, 160, 8}}) {
    sorted const s(T, R, k, [&, R = R](std::int64_t t, int i) {
      return std::int32_t(
          (fg::random_word(5, std::uint64_t(t)) % std::uint64_t(R) + std::uint64_t(i)) %
          std::uint64_t(R));
    });
    CHECK(s.places.offsets[0] == 0);
    CHECK(s.places.offsets[R] == T * k);
    std::set<std::int32_t> slots;
    for (int t = 0; t < T; ++t)
      for (int i = 0; i < k; ++i) {
        std::int32_t const slot = s.places.slot(t, i), e = s.experts[std::size_t(t * k + i)];
        slots.insert(slot);
        CHECK(s.places.token[slot] == t);
        CHECK((s.places.offsets[e] <= slot && slot < s.places.offsets[e + 1]));
      }
    CHECK(std::int64_t(slots.size()) == T * k);
    for (int e = 0; e < R; ++e)
      CHECK(std::is_sorted(s.places.token + s.places.offsets[e],
                           s.places.token + s.places.offsets[e + 1]));
  }
}

TEST_CASE("all tokens on one expert leave the others empty ranges") {
  sorted const s(9, 4, 1, [](std::int64_t, int) { return 2; });
  CHECK(std::vector<std::int64_t>(s.places.offsets, s.places.offsets + 5) ==
        std::vector<std::int64_t>{0, 0, 0, 9, 9});
}

}  // namespace
