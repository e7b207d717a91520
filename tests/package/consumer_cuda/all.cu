// A program that is all .cu: networks of every executor, training and kernels in one file.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <vector>

#include <finegrain/cuda.cuh>
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 64, .width = 40, .routed = 8, .top_k = 2, .shared = 1};
using block = decltype(fg::residual(fg::rmsnorm<64>{} | fg::attention<64, 2, 2, 32>{}) |
                       fg::residual(fg::rmsnorm<64>{} | fg::mixture<moe>{}));
using model = decltype(fg::embedding<16, 64>{} | fg::repeat<2>(block{}) | fg::rmsnorm<64>{} |
                       fg::head<64, 16>{});
template struct fg::on_cuda<model>;

/// The losses of two steps on the same tokens.
template <class X>
std::vector<double> losses(X on) {
  std::vector<std::int32_t> const tokens{3, 1, 4, 1, 5, 9, 2, 6}, next{1, 4, 1, 5, 9, 2, 6, 5};
  fg::network<model, X> net(on);
  fg::trainer train(net, fg::adamw{.lr = 1e-2});
  fg::batch const batch{.tokens = 8, .ids = tokens};
  double const first = train.step(batch, next).loss;
  return {first, train.step(batch, next).loss};
}

int main() {
  auto const slow = losses(fg::reference{}), fast = losses(fg::cpu{});
  bool right = slow[1] < slow[0];
  for (int i = 0; i < 2; ++i) right = right && std::abs(slow[i] - fast[i]) < 1e-4;
  std::printf("%g %g, then %g %g\n", slow[0], fast[0], slow[1], fast[1]);
  try {
    auto const device = losses(fg::cuda{});
    right = right && std::abs(device[0] - slow[0]) < 0.05;
    std::printf("on the GPU %g, then %g\n", device[0], device[1]);
  } catch (fg::cuda_error const& e) {
    std::puts(e.what());
    right = right && fg::device::runtime::devices() == 0;
  }
  return right ? 0 : 1;
}
