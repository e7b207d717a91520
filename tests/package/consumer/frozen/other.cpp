// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

frozen_model made(float const* weights) { return {fg::cpu(), weights}; }

std::vector<float> run_elsewhere(frozen_model& net, std::vector<float> const& x) {
  std::vector<float> y(x.size());
  net(fg::matrix<float const>(x.data(), 5, 32), fg::matrix<float>(y.data(), 5, 32));
  return y;
}
