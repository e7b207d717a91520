// Laws of config/ladder.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/ladder.hpp>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config base = fg::conventional<16, 2>({.hidden = 512, .width = 1024});
using ladder = fg::ladder<base, base.isolated(1), base.segmented(2).isolated(1),
                          base.segmented(4).isolated(1)>;

constexpr fg::config wide = fg::conventional<16, 2>({.hidden = 512, .width = 1088});
constexpr fg::config plain = base.isolated(1);
constexpr fg::config scored = [] {
  fg::config c = plain;
  c.score = fg::score::sigmoid;
  c.scale = 2.5f;
  c.bias = true;
  c.shared_gate = true;
  return c;
}();

}  // namespace

TEST_CASE("a ladder's configs are visited in order, each as a template argument") {
  std::vector<int> routed;
  fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) {
    static_assert(fg::valid<C>);
    CHECK(fg::at<C>::value == C);
    routed.push_back(C.routed);
  });
  CHECK(routed == std::vector<int>{16, 15, 31, 63});
  CHECK(ladder::size == 4);
}

TEST_CASE("a ladder can be walked while compiling, and what the function returns is ignored") {
  constexpr int sum = [] {
    int all = 0;
    fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) { return all += C.top_k; });
    return all;
  }();
  CHECK(sum == 2 + 1 + 3 + 7);
}

TEST_CASE("segmentation and isolation keep the budget, whatever the router costs") {
  CHECK(fg::same_budget(ladder{}));
  CHECK(fg::parameters(base) != fg::parameters(base.segmented(4)));
}

TEST_CASE("score, scale, bias and the shared gate are outside the budget") {
  CHECK(fg::same_budget(fg::ladder<plain, scored>{}));
}

TEST_CASE("one more expert chosen, one more there, or a wider one breaks the budget") {
  CHECK_FALSE(fg::same_budget(fg::ladder<base, fg::conventional<16, 3>(base)>{}));
  CHECK_FALSE(fg::same_budget(fg::ladder<base, fg::conventional<17, 2>(base)>{}));
  CHECK_FALSE(fg::same_budget(fg::ladder<base, base, wide>{}));
  CHECK(fg::same_budget(fg::ladder<wide>{}));
}
