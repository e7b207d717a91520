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
