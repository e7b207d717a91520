// device_update: an optimiser of your own on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../cuda/adamw.hpp"
#include "../cuda/rules.hpp"
#include "update.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One weight in one step, as an optimiser moves it on the device. Matrices and `step` are memory of
/// the device: what a step is told stands there, so that a recorded one can be replayed as the next.
template <class T>
struct cuda_weight_update {
  std::string_view name;  // "layers.0.mixture.experts.3.gate"
  finegrain::role role;
  matrix<float> weight;  // (rows, cols) that learns; the network's is rounded from it afterwards
  matrix<T const> gradient;     // the same shape; step->scale times it is the mean, clipped
  matrix<float> first, second;  // yours, and in checkpoints; 0 at first, or what AdamW kept in them
  device::adamw_step const* step;  // where step->finite is 0, nothing is to change
  double rate;                     // of the group: times step->rate
  double decay;                    // times step->decay: the part of a weight that decay takes
};

/// An optimiser of your own that runs on the device too, for networks of T. A .cu file of yours has
/// its kernels.
template <class T = bf16>
struct cuda_update_rule : update_rule {
  /// As `move`: starts kernels on the stream that move the weight, or returns false. Neither waits nor
  /// allocates; then a step can still be recorded. Asked for one weight after the other.
  virtual bool enqueue(cuda_weight_update<T> const& w, CUstream_st* stream) const = 0;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
