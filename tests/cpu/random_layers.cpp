// More than 5,000 random layers of odd sizes, values and gradients against the specification.
// SPDX-License-Identifier: Apache-2.0
#include "../random_layers.hpp"

namespace {

using namespace under_test;
using enum fg::score;
using enum fg::group_score;
using enum fg::activation;

int total = 0, total_skipped = 0;

template <fg::config... Cs>
void compare(int count, std::int64_t tokens) {
  auto one = [&]<fg::config C>() {
    INFO("hidden " << C.hidden << ", width " << C.width << ", routed " << C.routed << ", top_k "
                   << C.top_k << ", shared " << C.shared);
    random_count const made = compare_random_layers<C>(count, tokens, std::uint64_t(C.width));
    total += made.compared;
    total_skipped += made.skipped;
  };
  (one.template operator()<Cs>(), ...);
}

TEST_CASE("5,000 random layers, values and gradients, are the specification's") {
  // clang-format off
  compare<fg::config{.hidden = 9, .width = 5, .routed = 1, .top_k = 1},
          fg::config{.hidden = 7, .width = 3, .routed = 1, .top_k = 1, .shared = 1, .score = sigmoid, .shared_gate = true},
          fg::config{.hidden = 17, .width = 11, .routed = 15, .top_k = 1, .shared = 1},
          fg::config{.hidden = 16, .width = 8, .routed = 16, .top_k = 2, .score = sigmoid, .renormalise = true, .scale = 2.5},
          fg::config{.hidden = 13, .width = 7, .routed = 15, .top_k = 15},
          fg::config{.hidden = 12, .width = 9, .routed = 8, .top_k = 8, .shared = 2, .score = sqrt_softplus, .renormalise = true},
          fg::config{.hidden = 33, .width = 15, .routed = 31, .top_k = 3, .shared = 1, .act = geglu},
          fg::config{.hidden = 10, .width = 6, .routed = 16, .top_k = 4, .score = sigmoid, .renormalise = true, .groups = 4, .group_limit = 2, .group_score = top2_sum, .bias = true},
          fg::config{.hidden = 11, .width = 6, .routed = 12, .top_k = 3, .shared = 1, .scale = 16, .groups = 6, .group_limit = 3, .bias = true},
          fg::config{.hidden = 21, .width = 10, .routed = 9, .top_k = 2, .shared = 3, .score = sqrt_softplus, .bias = true, .shared_gate = true}>(450, 9);
  compare<fg::config{.hidden = 24, .width = 16, .routed = 60, .top_k = 4, .shared = 4, .shared_gate = true},
          fg::config{.hidden = 18, .width = 12, .routed = 63, .top_k = 7, .shared = 1},
          fg::config{.hidden = 40, .width = 64, .routed = 31, .top_k = 3, .shared = 1},
          fg::config{.hidden = 20, .width = 14, .routed = 64, .top_k = 6, .shared = 2, .renormalise = true, .act = geglu},
          fg::config{.hidden = 20, .width = 21, .routed = 64, .top_k = 6, .shared = 1, .score = sqrt_softplus, .renormalise = true, .bias = true, .act = {swiglu, 0.5f}},
          fg::config{.hidden = 15, .width = 13, .routed = 66, .top_k = 5, .score = sigmoid, .bias = true}>(150, 20);
  compare<fg::config{.hidden = 24, .width = 10, .routed = 160, .top_k = 6, .shared = 2, .scale = 16, .groups = 8, .group_limit = 3},
          fg::config{.hidden = 100, .width = 64, .routed = 15, .top_k = 2, .shared = 1}>(20, 150);
  compare<fg::config{.hidden = 1000, .width = 20, .routed = 6, .top_k = 2, .shared = 1},
          fg::config{.hidden = 20, .width = 853, .routed = 5, .top_k = 2, .shared = 1},
          fg::config{.hidden = 31, .width = 896, .routed = 4, .top_k = 2, .shared = 1, .score = sigmoid, .renormalise = true},
          fg::config{.hidden = 17, .width = 1408, .routed = 4, .top_k = 3, .shared = 2}>(12, 30);
  // clang-format on
  WARN(total << " layers compared, " << total_skipped << " skipped: keys too close for f32");
  CHECK(total >= 5000);
}

}  // namespace
