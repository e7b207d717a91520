// A user's program: a layer on the cpu executor.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include <cmath>
#include <memory>
#include <vector>

namespace fg = finegrain;

// Sizes that are known at run time, as the guide has them.
struct layer {
  virtual ~layer() = default;
  virtual void operator()(fg::matrix<float const> x, fg::matrix<float> y) = 0;  // (T, D) -> (T, D)
};
template <fg::config C>
struct layer_of : layer {
  fg::network<fg::mixture<C>, fg::cpu> net;
  void operator()(fg::matrix<float const> x, fg::matrix<float> y) override { net(x, y); }
};

template <class Ladder>
std::unique_ptr<layer> make_layer(fg::config const& asked, Ladder compiled) {
  std::unique_ptr<layer> made;  // none, if it is of no size that was compiled
  fg::for_each(compiled, [&]<fg::config C>(fg::at<C>) {
    if (asked == C) made = std::make_unique<layer_of<C>>();
  });
  return made;
}

int main(int arguments, char**) {
  constexpr fg::config moe{.hidden = 16, .width = 8, .routed = 4, .top_k = 2, .shared = 1};
  fg::network<fg::mixture<moe>, fg::cpu> net;
  std::vector<float> x(5 * 16, 1.0F), y(5 * 16, NAN);
  net(fg::matrix<float>(x.data(), 5, 16), fg::matrix<float>(y.data(), 5, 16));
  for (float const value : y)
    if (!std::isfinite(value)) return 1;

  constexpr fg::config wide = moe.segmented(2);
  auto const of_width = [&](int width) {
    return make_layer({.hidden = 16, .width = width, .routed = 8, .top_k = 4, .shared = 2},
                      fg::ladder<moe, wide>{});
  };
  auto const served = of_width(3 + arguments);  // 4, of half the width
  std::vector<float> same(5 * 16), alike(5 * 16);
  if (!served || of_width(3)) return 1;
  fg::network<fg::mixture<wide>, fg::cpu> known;
  (*served)(fg::matrix<float>(x.data(), 5, 16), fg::matrix<float>(same.data(), 5, 16));
  known(fg::matrix<float>(x.data(), 5, 16), fg::matrix<float>(alike.data(), 5, 16));
  if (same != alike) return 1;
  return fg::parameters(fg::mixture<moe>{}) == 16 * 4 + 5 * 3 * 16 * 8 ? 0 : 1;
}
