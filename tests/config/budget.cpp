// Laws of config/budget.hpp. The paper's printed numbers are in static/paper_*.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/budget.hpp>
#include <finegrain/expr/cost.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config plain{.hidden = 40, .width = 24, .routed = 10, .top_k = 3};
constexpr fg::config shared{.hidden = 40, .width = 24, .routed = 10, .top_k = 3, .shared = 2};
constexpr fg::config gated{.hidden = 40,
                           .width = 24,
                           .routed = 10,
                           .top_k = 3,
                           .shared = 2,
                           .bias = true,
                           .shared_gate = true};

// Routers with other weights than a matrix (R, D): noise beside it, cosines, none.
constexpr fg::config noisy{.hidden = 40, .width = 24, .routed = 10, .top_k = 3, .noisy = true};
constexpr fg::config cosine{.hidden = 40, .width = 24, .routed = 10, .top_k = 3, .cosine = 8};
constexpr fg::config noisy_cosine{
    .hidden = 40, .width = 24, .routed = 10, .top_k = 3, .noisy = true, .cosine = 8};
constexpr fg::config uniform{.hidden = 40,
                             .width = 24,
                             .routed = 10,
                             .top_k = 3,
                             .selection = fg::selection::hash,
                             .uniform = true,
                             .vocabulary = 50};

constexpr fg::config given{
    .hidden = 40, .width = 24, .routed = 2, .top_k = 3, .selection = fg::selection::given};

/// What the config costs by its numbers and by its expression's weights.
template <fg::config C>
bool agrees() {
  fg::mixture<C> const layer;
  return fg::parameters(C) == fg::parameters(layer) &&
         fg::active_parameters(C) == fg::active_parameters(layer) &&
         fg::flops(C, 77) == fg::flops(layer, 77);
}

}  // namespace

TEST_CASE("a config costs what the weights of its mixture cost") {
  CHECK(agrees<plain>());
  CHECK(agrees<shared>());
  CHECK(agrees<gated>());
  CHECK(agrees<noisy>());
  CHECK(agrees<cosine>());
  CHECK(agrees<noisy_cosine>());
  CHECK(agrees<uniform>());
  CHECK(agrees<given>());
  CHECK(fg::parameters(given) == fg::active_parameters(given));  // three slots, two experts
}

TEST_CASE("expert parameters leave out router, bias and shared gate") {
  CHECK(fg::expert_parameters(plain) == 10 * 3 * 40 * 24);
  CHECK(fg::active_expert_parameters(plain) == 3 * 3 * 40 * 24);
  CHECK(fg::expert_parameters(gated) == 12 * 3 * 40 * 24);
  CHECK(fg::active_expert_parameters(gated) == 5 * 3 * 40 * 24);
  CHECK(fg::parameters(shared) - fg::expert_parameters(shared) == 10 * 40);
  CHECK(fg::parameters(gated) - fg::parameters(shared) == 40);
}

TEST_CASE("bytes follow the format") {
  CHECK(fg::bytes(plain, fg::format::bf16) == 2 * fg::parameters(plain));
  CHECK(fg::bytes(plain, fg::format::int4) == fg::parameters(plain) / 2);
}

TEST_CASE("combinations are Pascal's triangle") {
  CHECK(fg::combinations(0, 0) == 1);
  CHECK(fg::combinations(3, 5) == 0);
  CHECK(fg::combinations(3, -1) == 0);
  for (int n = 1; n <= 40; ++n)
    for (int k = 1; k <= n; ++k)
      CHECK(fg::combinations(n, k) == fg::combinations(n - 1, k - 1) + fg::combinations(n - 1, k));
  CHECK(fg::combinations(plain) == 120);
}

TEST_CASE("widths round up to a multiple of 64, and exact ones stay") {
  CHECK(fg::width_rounded_up(2048, 4) == 1408);
  CHECK(fg::width_rounded_up(24, 1) == 64);
  CHECK(fg::width_rounded_up(25, 1) == 128);
  CHECK(fg::width_rounded_up(192, 2) == 256);
  for (int hidden = 1; hidden < 3000; hidden += 37) {
    for (int m : {1, 2, 3, 4, 8}) {
      std::int64_t const width = fg::width_rounded_up(hidden, m);
      CHECK(width % 64 == 0);
      CHECK(3 * m * width >= 8 * hidden);
      CHECK(3 * m * (width - 64) < 8 * hidden);
    }
  }
}
