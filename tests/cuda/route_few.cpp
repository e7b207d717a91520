// Few tokens are routed in one launch, to the bits of the kernels for many.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/route.hpp>

#include "../catch.hpp"
#include "routed.hpp"

namespace {

using namespace on_device;
using fg::bf16, fg::config;

struct routed {
  std::vector<float> logits, scores, weights;
  std::vector<std::int32_t> experts;
  char const* wrong;
};

void check(config const& c, std::int64_t T, int tile) {
  CAPTURE(c.routed, c.top_k, c.hidden, c.groups, T, tile);
  fg::device::routing_rules const rules(c, {});
  std::vector<bf16> x, router;
  for (std::int64_t i = 0; i < T * c.hidden; ++i)
    x.emplace_back(static_cast<float>(fg::random_uniform(1, std::uint64_t(i))) - 0.5f);
  for (std::int64_t i = 0; i < std::int64_t{c.routed} * c.hidden; ++i)
    router.emplace_back(static_cast<float>(fg::random_uniform(2, std::uint64_t(i))) - 0.5f);
  auto const x_there = upload(x), router_there = upload(router);
  auto const arrivals = upload(std::vector<std::int32_t>(fg::device::arrivals_size));
  fg::device::router_numbers<bf16> w;
  w.router = router_there.data();
  auto const pass = [&](std::int32_t* counters) -> routed {
    owned_state const s(c, {}, T, tile);
    auto state = s.state();
    state.arrivals = counters;
    with_choice(c.routed, [&](auto code) {
      code.forward(rules, w, x_there.data(), nullptr, state, s.rows.map, s.rows.block_counts.data(),
                   nullptr);
    });
    routed r{s.get_logits(), s.get_scores(), s.get_weights(), s.get_experts(), nullptr};
    r.wrong = s.rows.wrong(r.experts, r.weights);
    return r;
  };
  auto const many = pass(nullptr);
  for (int again = 0; again < 2; ++again) {
    auto const few = pass(arrivals.data());
    CHECK(few.wrong == nullptr);
    CHECK(few.logits == many.logits);
    CHECK(few.scores == many.scores);
    CHECK(few.weights == many.weights);
    CHECK(few.experts == many.experts);
  }
}

}  // namespace

TEST_CASE("few tokens are routed as many are") {
  NEED_GPU();
  for (std::int64_t const T : {0, 1, 5, 8, 9, 16, 17, 64, 65, 300, 512, 513}) {
    check({.hidden = 72, .width = 8, .routed = 5, .top_k = 2}, T, 8);
    check({.hidden = 264, .width = 8, .routed = 64, .top_k = 6}, T, 16);
    check({.hidden = 72, .width = 8, .routed = 100, .top_k = 3}, T, 64);
    for (int tile : {8, 32, 128})
      check({.hidden = 136,
             .width = 8,
             .routed = 256,
             .top_k = 8,
             .score = fg::score::sigmoid,
             .renormalise = true,
             .groups = 8,
             .group_limit = 4},
            T, tile);
    for (int k : {12, 40}) check({.hidden = 64, .width = 8, .routed = 256, .top_k = k}, T, 128);
    check({.hidden = 64, .width = 8, .routed = 300, .top_k = 4}, T, 8);
  }
}
