// AdamW on the device, the gradient's norm, and selection biases: a step without the host.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/number.hpp"
#include "../plan/extent.hpp"
#include "../plan/schedule.hpp"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Weights side by side that are treated alike: the work of one block, so of some 16384 numbers at
/// most. Faster where `offset` is a multiple of 8.
struct weight_range {
  std::int64_t offset = 0, count = 0;
  double rate = 1, decay = 1;  // times the learning rate; times that and the weight decay
};

/// AdamW's numbers that stay the same from step to step.
struct adamw_numbers {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0.1;
};

/// What is asked of a step, the same whichever step it is.
struct adamw_request {
  double rate = 0;  // the learning rate's peak, and its factor over the run
  finegrain::schedule schedule = {};
  double clip = 0;      // the norm is cut to this; 0: never
  double gathered = 1;  // batches that the gradient is the sum of, times its scale
};

/// Where steps stand, in memory of the device: a recorded step can be replayed as the next one.
struct adamw_step {
  std::int64_t step = 0;       // steps done, which gradient_norm counts on; the rest it writes
  double norm = 0;             // of the gradient's mean over batches, before clipping
  double loss = 0;             // the sum of the step's last batch, as it was given
  std::int64_t terms = 0;      // and of how many terms, where the device counts them
  double rate = 0, decay = 0;  // the learning rate; times the weight decay
  float scale = 0, pace = 0;   // of the gradient; rate / (1 - beta1^step)
  float unbias = 0;            // 1 / sqrt(1 - beta2^step)
  std::int32_t finite = 0;     // 0: the step changes nothing
};

/// Where a router's numbers are: its loads in the pass's reports and in a list of all routers', and
/// its selection biases among the weights, with what rounding left of them.
struct router_place {
  std::int64_t report = 0, load = 0, bias = -1, rest = -1;  // -1: it has none
  int experts = 0;
};

/// Ranges, `count` of them, and the step are in memory of the device. T: gradients, and the weights
/// that passes read; the optimiser's own weights w, and its moments m and v, are f32.
template <class T>
struct adamw {
  /// Reads the gradient, and begins the next step: fills in `step`. partial: (count). Sums are
  /// doubles, in one order. loss and terms may be null.
  static void gradient_norm(adamw_numbers const& how, adamw_request const& asked,
                            weight_range const* ranges, std::int64_t count, T const* g,
                            double* partial, double const* loss, std::int64_t const* terms,
                            adamw_step* step, CUstream_st* stream);
  /// Moves w, m and v, and writes w to `weights` too.
  static void update(adamw_numbers const& how, weight_range const* ranges, std::int64_t count,
                     T const* g, float* w, float* m, float* v, T* weights, adamw_step const* step,
                     CUstream_st* stream);
  /// loads (+)= those of the reports: the choices of a step's batches. The list of routers is in
  /// memory of the device.
  static void add_loads(router_place const* routers, std::int64_t count, double const* reports,
                        gradients mode, std::int64_t* loads, CUstream_st* stream);
  /// An expert that was chosen less often than the mean gains `speed`, one more often loses it;
  /// then, if asked, a router's mean is taken off. Biases in f32, in w, and to `weights`, see `summed`.
  /// Does nothing in a step that is not finite.
  static void move_biases(router_place const* routers, std::int64_t count,
                          std::int64_t const* loads, double speed, bool centre, float* w,
                          T* weights, adamw_step const* step, CUstream_st* stream);
};

/// Weights in bf16 that are right in the mean, as train/adamw.hpp's rounded_weights. Tag is void.
template <class Tag>
struct chance_rounding {
  /// Writes w to `weights`, rounded by chance: the draws are of a weight's place and of the step.
  static void write(weight_range const* ranges, std::int64_t count, float const* w, bf16* weights,
                    adamw_step const* step, CUstream_st* stream);
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
