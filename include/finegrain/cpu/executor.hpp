// cpu: the executor for this machine's vector units.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/error.hpp"
#include "../base/number.hpp"
#include "../base/parallel.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Vectorised and threaded. Weights, activations, sums and gradients are f32. `products` says what the
/// operands of large products are rounded to: f32, or bf16, which is mixed precision: what experts
/// keep for backward is then bf16 too; routers and attention's weights stay in f32. Its name carries the instruction set that this file is compiled
/// for, so that differently compiled files never share one inline function.
struct cpu {
  using scalar = float;
  parallel threads = default_threads();
  format products = format::f32;

  cpu() = default;
  /// Throws invalid_argument when products are neither f32 nor bf16.
  cpu(parallel threads, format products = format::f32)  // NOLINT(*-explicit*)
      : threads(threads), products(products) {
    if (products != format::f32 && products != format::bf16)
      throw invalid_argument("the cpu executor multiplies in f32 or in bf16");
  }
  explicit cpu(format products) : cpu(default_threads(), products) {}

  /// The same with products in f32.
  cpu exact() const { return {threads}; }
};

namespace simd {
/// f.operator()<F>() in the format of the executor's products.
template <class Function>
void in_products_of(cpu const& on, Function&& f) {
  if (on.products == format::bf16)
    f.template operator()<format::bf16>();
  else
    f.template operator()<format::f32>();
}
}  // namespace simd

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
