// AdamW on the device, the gradient's norm, and selection biases: a step without the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Weights side by side that are treated alike: the work of one block, so of some 16384 numbers at
/// most. Faster where `offset` is a multiple of 8.
struct weight_range {
  std::int64_t offset = 0, count = 0;
  bool decays = false;
};

/// AdamW's numbers that stay the same from step to step.
struct adamw_numbers {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};

/// One step, in memory of the device, so that a captured graph can be replayed for the next.
struct adamw_step {
  // Written by the host before a step:
  double rate = 0;        // learning rate
  std::int64_t step = 1;  // from 1 on
  double clip = 0;        // the norm is cut to this; 0: never
  double gathered = 1;    // batches that the gradient is the sum of
  // Written by gradient_norm:
  double norm = 0;                      // of the gradient's mean over batches, before clipping
  float scale = 0, pace = 0;            // of the gradient; rate / (1 - beta1^step)
  float unbias = 0, keep = 1;           // 1 / sqrt(1 - beta2^step); what weight decay leaves
  std::int32_t finite = 0, unused = 0;  // 0: the step changes nothing
};

/// Ranges, `count` of them, and the step are in memory of the device. T: gradients, and the weights
/// that passes read; the optimiser's own weights w, and its moments m and v, are f32.
template <class T>
struct adamw {
  /// Reads the gradient, and fills in the step. partial: (count). Sums are doubles, in one order.
  static void gradient_norm(adamw_numbers const& how, weight_range const* ranges,
                            std::int64_t count, T const* g, double* partial, adamw_step* step,
                            CUstream_st* stream);
  /// Moves w, m and v, and writes w to `weights` too.
  static void update(adamw_numbers const& how, weight_range const* ranges, std::int64_t count,
                     T const* g, float* w, float* m, float* v, T* weights, adamw_step const* step,
                     CUstream_st* stream);
  /// load (R) (+)= counts (R): the choices of a step's batches.
  static void add_load(std::int32_t const* counts, int experts, gradients mode, std::int64_t* load,
                       CUstream_st* stream);
  /// An expert that was chosen less often than the mean gains `speed`, one more often loses it;
  /// then, if asked, the biases' mean is taken off. bias (R) in f32, and rounded to `stored` unless
  /// that is null. Does nothing in a step that is not finite; `step` may be null.
  static void move_bias(std::int64_t const* load, int experts, double speed, bool centre,
                        float* bias, T* stored, adamw_step const* step, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
