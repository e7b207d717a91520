// Rules of a user's own, whose device side device.cu defines.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/cuda/adamw.hpp>
#include <finegrain/cuda/rules.hpp>

namespace under_test {

/// Tokens go to experts t, t + 3, ...; every fifth to none but the first, and every seventh asks for
/// what cannot be.
struct by_place final : finegrain::cuda_routing_rule {
  void choose(finegrain::batch const& b, finegrain::matrix<double const> scores,
              finegrain::matrix<std::int32_t> experts) const override;
  void enqueue(finegrain::batch const& b, finegrain::matrix<float const> scores,
               finegrain::matrix<std::int32_t> experts, CUstream_st* stream) const override;
};

/// Factors are f squared.
struct squared final : finegrain::cuda_balance_rule {
  void factors(std::span<double const> f, std::span<double> factors) const override {
    for (std::size_t e = 0; e < f.size(); ++e) factors[e] = f[e] * f[e];
  }
  void enqueue(std::span<double const> f, std::span<double> factors,
               CUstream_st* stream) const override;
};

/// One weight, moved as the library's AdamW moves it.
template <class T>
void move_by_adamw(finegrain::device::adamw_numbers const& how, finegrain::matrix<float> w,
                   finegrain::matrix<T const> g, float* m, float* v,
                   finegrain::device::adamw_step const* step, double rate, double decay,
                   CUstream_st* stream);

}  // namespace under_test
