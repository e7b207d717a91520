// on_cuda: the device side of a program whose own files g++ compiles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/ladder.hpp"
#include "adamw.cuh"
#include "attention.cuh"
#include "coded.cuh"
#include "combine.cuh"
#include "dispatch.cuh"
#include "elementwise.cuh"
#include "embed.cuh"
#include "experts.cuh"
#include "hopper/fp8.cuh"
#include "linear.cuh"
#include "loss.cuh"
#include "memory.cuh"
#include "norm.cuh"
#include "random.cuh"
#include "rotary.cuh"
#include "route_few.cuh"
#include "routing/load.cuh"
#include "routing/rules.cuh"

namespace finegrain::inline FINEGRAIN_ABI {

namespace device {

/// Whether layers of all configs of a ladder run on the device; of anything else nothing is known.
template <class What>
inline constexpr bool runs = true;
template <config... Cs>
inline constexpr bool runs<ladder<Cs...>> = (true && ... && !unsupported(Cs, {}));

}  // namespace device

/// Holds the code that networks call on the device, with weights and activations of T. One .cu file
/// of a program says so; `What` is void, or a ladder, whose layers must then be such as run there:
///
///   template struct finegrain::on_cuda<ladder>;
template <class What = void, class T = bf16>
struct on_cuda {
  static_assert(
      device::runs<What>,
      "a layer of this ladder does not run on cuda: cuda/supported.hpp says what does not");
  static inline constexpr std::tuple code{
      device::runtime_code<void>,  device::blas_library_code<void>,
      device::linear_code<T>,      device::route_code<T>,
      device::kinds_code<T>,       device::experts_code<T>,
      device::combine_code<T>,     device::norm_code<T>,
      device::rotary_code<T>,      device::attend_code<T>,
      device::embed_code<T>,       device::loss_code<T>,
      device::elementwise_code<T>, device::adamw_code<T>,
      device::random_code<T>};
};

/// The same for networks that are frozen in format F; f32 and bf16 need nothing more:
///
///   template struct finegrain::on_cuda_frozen<finegrain::format::int4>;
template <format F, class T = bf16>
struct on_cuda_frozen {
  static_assert(device::is_coded(F), "only fp8, int8, int8_block and int4 have code of their own");
  static inline constexpr std::tuple code{device::coded_experts_code<T, F>,
                                          device::fp8_products_code<T, F>};
};

}  // namespace finegrain::inline FINEGRAIN_ABI
