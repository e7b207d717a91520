// A user's program that serves a model: frozen, of two files that share kernels.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <cmath>

int main() {
  fg::network<model, fg::cpu> const net({.deviation = 0.2F});
  frozen_model there = made(net.parameters().data());
  auto here = fg::quantize<fg::format::int4, fg::format::int8>(net);
  std::vector<float> x(5 * 32), y(5 * 32, NAN);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  here(fg::matrix<float const>(x.data(), 5, 32), fg::matrix<float>(y.data(), 5, 32));
  for (float const value : y)
    if (!std::isfinite(value)) return 1;
  return run_elsewhere(there, x) == y ? 0 : 1;
}
