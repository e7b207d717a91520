// explain: the plans that were chosen, as text.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/explain.hpp>

#include "../catch.hpp"
#include "toy.hpp"

namespace toy {
/// A name with a plan of its own, and one without.
template <int D>
struct fused : fg::named {
  static constexpr auto expr = scale<D>{} | square<D>{};
};
template <int D>
struct plain : fg::named {
  static constexpr auto expr = scale<D>{} | square<D>{};
};
}  // namespace toy

template <int D>
struct finegrain::plan<toy::executor, toy::fused<D>> {
  using saved = finegrain::nothing;
  using scratch = finegrain::nothing;
};

namespace {

namespace fg = finegrain;

std::string line_with(std::string const& text, std::string const& word) {
  auto const at = text.find(word);
  return at == text.npos ? "" : text.substr(at, text.find('\n', at) - at);
}

TEST_CASE("explain tells fused from composed, and what is inside the fused") {
  std::string const text =
      fg::explain<decltype(fg::residual(toy::fused<4>{}) | toy::plain<4>{}), toy::executor>(64);
  INFO(text);
  CHECK_THAT(line_with(text, "residual"), ContainsSubstring("composed"));
  CHECK_THAT(line_with(text, "fused"), !ContainsSubstring("composed"));
  CHECK_THAT(line_with(text, "plain"), ContainsSubstring("composed"));
  CHECK_THAT(line_with(text, "scale"), ContainsSubstring("(in the above)"));
  CHECK_THAT(line_with(text.substr(text.find("plain")), "scale"), ContainsSubstring("its own"));
}

TEST_CASE("explain's costs are the constexpr ones") {
  using E = toy::square<1000>;
  constexpr fg::plan_cost cost = fg::cost_of<E, toy::executor>({64, 1, true});
  static_assert(cost.saved_bytes == 512 && cost.scratch_bytes == 8000);
  CHECK_THAT((fg::explain<E, toy::executor>(64)), ContainsSubstring("0.008"));
}

TEST_CASE("nothing is explained of a pass that cannot be") {
  using E = toy::square<1000>;
  CHECK_NOTHROW((fg::explain<E, toy::executor>(0)));
  CHECK_THROWS_WITH((fg::explain<E, toy::executor>(-1)),
                    "a pass takes 0 tokens or more and 1 thread or more, not -1 and 1");
  CHECK_THROWS_AS((fg::explain<E, toy::executor>(1, 0)), fg::invalid_argument);
}

TEST_CASE("given a machine's limits, explain says how long a pass takes at least") {
  constexpr fg::plan_cost cost{.flops = 3'000'000, .weight_bytes = 8'000};
  static_assert(fg::machine_limits{1e9, 1e9}.least_seconds(cost) == 3e-3);   // computing
  static_assert(fg::machine_limits{1e12, 1e6}.least_seconds(cost) == 8e-3);  // reading
  using E = decltype(fg::residual(toy::fused<4>{}) | toy::plain<4>{});
  std::string const text = fg::explain<E, toy::executor>(64, 1, {1e9, 1e9});
  CHECK_THAT(text, ContainsSubstring("ms at least"));
  CHECK_THAT((fg::explain<E, toy::executor>(64)), !ContainsSubstring("ms at least"));
}

}  // namespace
