// What this machine can do at most, measured beside whatever is being judged.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <finegrain/base/buffer.hpp>
#include <finegrain/cpu/executor.hpp>
#include <finegrain/cpu/simd.hpp>
#include <vector>

namespace bench {

namespace fg = finegrain;

inline double seconds_of(auto&& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Keeps a result that nobody reads.
inline void keep(float value) { asm volatile("" : : "m"(value)); }

/// Multiply-adds in registers, 12 independent chains: floating-point operations a second.
inline double peak_flops(fg::cpu const& on) {
  using namespace fg::simd;
  constexpr std::int64_t steps = 1 << 20;
  constexpr int chains = 12;
  double const seconds = seconds_of([&] {
    on.threads(on.threads.workers(), [&](std::int64_t task, int) {
      vec sum[chains];
      for (int i = 0; i < chains; ++i) sum[i] = broadcast(static_cast<float>(i + task));
      vec const a = broadcast(0.999999f), b = broadcast(1e-6f);
      for (std::int64_t step = 0; step < steps; ++step) {
        FINEGRAIN_UNROLL
        for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
      }
      for (int i = 1; i < chains; ++i) sum[0] += sum[i];
      keep(total(sum[0]));
    });
  });
  return 2.0 * chains * lanes * steps * on.threads.workers() / seconds;
}

/// Reads `bytes` of memory once, all threads, 8 sums each: bytes a second.
inline double read_rate(fg::cpu const& on, float const* memory, std::int64_t bytes) {
  using namespace fg::simd;
  constexpr std::int64_t piece = 1 << 20;  // numbers a task
  std::int64_t const tasks = bytes / 4 / piece;
  double const seconds = seconds_of([&] {
    on.threads(tasks, [&](std::int64_t task, int) {
      float const* const from = memory + task * piece;
      vec sum[8] = {};
      for (std::int64_t i = 0; i < piece; i += 8 * lanes) {
        FINEGRAIN_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] += load(from + i + j * lanes);
      }
      for (int j = 1; j < 8; ++j) sum[0] += sum[j];
      keep(total(sum[0]));
    });
  });
  return static_cast<double>(tasks * piece * 4) / seconds;
}

}  // namespace bench
