// A network with one stage of each kind but rarer routers: what a .cu file holds of it, and no more.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/config/config.hpp>
#include <finegrain/expr/algebra.hpp>
#include <finegrain/expr/own_router.hpp>
#include <finegrain/expr/tied.hpp>

namespace needs {

namespace fg = finegrain;
inline constexpr fg::config sparse{.hidden = 64,
                                   .width = 32,
                                   .routed = 64,
                                   .top_k = 6,
                                   .shared = 2,
                                   .score = fg::score::sigmoid,
                                   .bias = true};
inline constexpr int classes = 96;
using router = decltype(fg::mlp<sparse.hidden, 32>{} | fg::linear<sparse.hidden, sparse.routed>{});

struct model : fg::named {
  static constexpr auto expr = fg::tied(
      fg::embedding<classes, sparse.hidden>{},
      fg::repeat<2>(fg::residual(fg::rmsnorm<sparse.hidden>{} | fg::attention<sparse.hidden, 2>{}) |
                    fg::residual(fg::rmsnorm<sparse.hidden>{} | fg::mixture<sparse>{})) |
          fg::residual(fg::mixture<sparse, router>{}) |
          fg::blend(fg::mlp<sparse.hidden, 128>{}, fg::linear<sparse.hidden, sparse.hidden>{}) |
          fg::times<sparse.hidden, 0.5>{} | fg::rmsnorm<sparse.hidden>{});
};

}  // namespace needs
