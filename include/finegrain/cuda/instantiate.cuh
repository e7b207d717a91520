// on_cuda: the device side of a program whose own files g++ compiles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "adamw.cuh"
#include "attention.cuh"
#include "combine.cuh"
#include "dispatch.cuh"
#include "elementwise.cuh"
#include "embed.cuh"
#include "experts.cuh"
#include "linear.cuh"
#include "loss.cuh"
#include "memory.cuh"
#include "norm.cuh"
#include "rotary.cuh"
#include "route.cuh"

namespace finegrain::inline FINEGRAIN_ABI {

/// Holds the code that networks of these expressions or configs call on the device, with weights and
/// activations of T. One .cu file of a program says
///
///   template struct finegrain::on_cuda<ladder>;
template <class What, class T = bf16>
struct on_cuda {
  static inline constexpr std::tuple code{
      device::runtime_code<void>, device::blas_library_code<void>,
      device::linear_code<T>,     device::route_code<T>,
      device::experts_code<T>,    device::combine_code<T>,
      device::norm_code<T>,       device::rotary_code<T>,
      device::attend_code<T>,     device::embed_code<T>,
      device::loss_code<T>,       device::elementwise_code<T>,
      device::adamw_code<T>};
};

}  // namespace finegrain::inline FINEGRAIN_ABI
