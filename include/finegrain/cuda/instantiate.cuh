// on_cuda: the device side of a program whose own files g++ compiles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded.cuh"
#include "coded_linear.cuh"
#include "hopper/fp8.cuh"
#include "needs.cuh"

namespace finegrain::inline FINEGRAIN_ABI {

/// Holds the code that networks call on the device, with weights and activations of T. One .cu file
/// of a program says for what:
///
///   template struct finegrain::on_cuda<model>;    networks of this expression
///   template struct finegrain::on_cuda<ladder>;   any whose routers are of these configs
///   template struct finegrain::on_cuda<>;         any
///
/// The less it says, the sooner it is compiled. Code that a network calls and no file holds is an
/// error of the linker, which names it: `undefined reference to device::attend<bf16>::forward`.
template <class What = void, class T = bf16>
struct on_cuda {
  static inline constexpr device::code_for<T, What> code{};
};

/// The same for networks that are frozen in format F; f32 and bf16 need nothing more:
///
///   template struct finegrain::on_cuda_frozen<finegrain::format::int4>;
template <format F, class T = bf16>
struct on_cuda_frozen {
  static_assert(device::is_coded(F), "only fp8, int8, int8_block and int4 have code of their own");
  static inline constexpr device::all_code<device::coded_experts_code<T, F>,
                                           device::coded_linear_code<T, F>,
                                           device::fp8_products_code<T, F>>
      code{};
};

}  // namespace finegrain::inline FINEGRAIN_ABI
