// cpu: the executor for this machine's vector units.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/error.hpp"
#include "../base/matrix.hpp"
#include "../base/number.hpp"
#include "../base/parallel.hpp"
#include "amx.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Weights, and the same rounded to bf16 in rows as far apart, if there is a copy of them.
struct copied_weights : matrix<float const> {
  bf16 const* rounded = nullptr;

  copied_weights(matrix<float const> w, bf16 const* rounded = nullptr)  // NOLINT(*-explicit*)
      : matrix<float const>(w), rounded(rounded) {}
  copied_weights(matrix<float> w) : matrix<float const>(w) {}  // NOLINT(*-explicit*)
};

/// A copy of an array of weights in bf16, laid out alike: what products of bf16 read in their place,
/// half the bytes. Weights that are not of the array are read as they are.
struct weight_copy {
  float const* weights = nullptr;
  bf16 const* rounded = nullptr;
  std::int64_t size = 0;

  copied_weights of(matrix<float const> w) const {
    auto const from = [](float const* p) { return reinterpret_cast<std::uintptr_t>(p); };
    auto const bytes = static_cast<std::uintptr_t>(size) * sizeof(float);  // 0: none is there
    return {w, from(w.data) - from(weights) < bytes ? rounded + (w.data - weights) : nullptr};
  }
};

/// Vectorised and threaded. Weights, activations, sums and gradients are f32. `products` says what the
/// operands of large products are rounded to: f32, or bf16, which is mixed precision: what experts keep
/// for backward is then bf16 too; routers and attention's softmax stay in f32. Its name carries the
/// instruction set that this file is compiled for, so that files compiled for different ones have kernels
/// and networks of their own; what they do share, and what that means, base/platform.hpp says.
struct cpu {
  using scalar = float;
  static constexpr char const* isa = FINEGRAIN_TEXT(FINEGRAIN_ISA);
  parallel threads = default_threads();
  format products = format::f32;
  weight_copy copy = {};  // a trainer lends it for a pass

  cpu() = default;
  /// Throws invalid_argument when products are neither f32 nor bf16; error where they are bf16 and take
  /// registers that the system does not give.
  cpu(parallel threads, format products = format::f32)  // NOLINT(*-explicit*)
      : threads(threads), products(products) {
    if (products != format::f32 && products != format::bf16)
      throw invalid_argument("the cpu executor multiplies in f32 or in bf16");
    if (products == format::bf16) require_matrix_registers();
  }
  explicit cpu(format products) : cpu(default_threads(), products) {}
  cpu(int) = delete;  // threads are somebody's: thread_pool pool{8}; cpu on{pool};

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
