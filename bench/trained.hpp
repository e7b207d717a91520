// The finest rung of the demo's ladder, trained as the demo does: weights and routings that are not random.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/lab.hpp>

namespace trained {

namespace fg = finegrain;

constexpr fg::config base = fg::conventional<16, 2>({.hidden = 64, .width = 128});
constexpr fg::config finest = base.segmented(4).isolated(1);
constexpr int layers = 2;
struct model : fg::named {
  static constexpr int D = finest.hidden;
  static constexpr auto block = fg::residual(fg::rmsnorm<D>{} | fg::attention<D, 4>{}) |
                                fg::residual(fg::rmsnorm<D>{} | fg::mixture<finest>{});
  static constexpr auto expr =
      fg::embedding<256, D>{} | fg::repeat<layers>(block) | fg::rmsnorm<D>{} | fg::head<D, 256>{};
};
using network = fg::network<model, fg::cpu>;

/// So many steps of 4 windows of 128 bytes.
inline void train(network& net, fg::corpus const& text, std::int64_t steps) {
  fg::trainer train{
      net, fg::adamw{.lr = 5e-3},
      fg::training{.schedule = {.warmup = steps / 20, .steps = steps, .decay = fg::decay::cosine},
                   .routing = {.balance = {.expert = 0.01}}}};
  fg::windows batch;
  while (train.steps() < steps) {
    text.draw(0, train.steps(), 4, 128, batch);
    train.step(batch.batch(), batch.y);
  }
}

}  // namespace trained
