// frozen_kernels: the kernels of frozen networks that a program of many files compiles once, format by
// format, as kernels.hpp has those of networks that learn. With FINEGRAIN_KERNELS_APART_INT4, say, files
// declare int4's, and cpu/frozen_kernels.cpp, compiled with the same flags, holds them. CMake's target
// finegrain::kernels_int4 is both.
// SPDX-License-Identifier: Apache-2.0

// Not once, as kernels.hpp.
#include "attention_block.hpp"
#include "frozen.hpp"
#include "latent_attention.hpp"
#include "mixture.hpp"

#if defined(FINEGRAIN_KERNELS_HERE)  // by frozen_kernels.cpp
#define FINEGRAIN_KERNEL template
#elif !defined(__CUDACC__)
#define FINEGRAIN_KERNEL extern template
#endif

#if defined(FINEGRAIN_KERNEL)
#define FINEGRAIN_KERNELS_OF(F)                                                                    \
  namespace finegrain::inline FINEGRAIN_ABI {                                                      \
  inline namespace FINEGRAIN_ISA {                                                                 \
  FINEGRAIN_KERNEL void mixture_forward(cpu const&, config const&, batch const&,                   \
                                        frozen_layer<F> const&, mixture_saved const&,              \
                                        mixture_scratch const&, matrix<float const>,               \
                                        matrix<float>, fused_norm const*, matrix<float const>,     \
                                        float);                                                    \
  FINEGRAIN_KERNEL void experts_forward(cpu const&, glu, std::span<expert_group const>,            \
                                        packed_experts<F> const&, matrix<float const>,             \
                                        expert_task*, expert_room const&);                         \
  FINEGRAIN_KERNEL void attention_block_forward(                                                   \
      pass<cpu> const&, heads, attention_form const&, float, float,                                \
      block_weights<float const, simd::panels<F>> const&, block_saved const&, matrix<float const>, \
      matrix<float>);                                                                              \
  FINEGRAIN_KERNEL void latent_queries(cpu const&, int, latent const&, matrix<float const>,        \
                                       simd::latent_panels<F> const&, matrix<float>);              \
  FINEGRAIN_KERNEL void latent_values(cpu const&, int, latent const&, matrix<float const>,         \
                                      simd::latent_panels<F> const&, matrix<float>);               \
  namespace simd {                                                                                 \
  FINEGRAIN_KERNEL void multiply_all(cpu const&, matrix<float const>, panels<F> const&,            \
                                     matrix<float>, gradients);                                    \
  FINEGRAIN_KERNEL void fill_panels(cpu const&, panels<F> const&, stack<float const>,              \
                                    std::int64_t, int);                                            \
  }                                                                                                \
  }                                                                                                \
  }

#if defined(FINEGRAIN_KERNELS_APART_F32)
FINEGRAIN_KERNELS_OF(format::f32)
#endif
#if defined(FINEGRAIN_KERNELS_APART_BF16)
FINEGRAIN_KERNELS_OF(format::bf16)
#endif
#if defined(FINEGRAIN_KERNELS_APART_FP8)
FINEGRAIN_KERNELS_OF(format::fp8)
#endif
#if defined(FINEGRAIN_KERNELS_APART_INT8)
FINEGRAIN_KERNELS_OF(format::int8)
#endif
#if defined(FINEGRAIN_KERNELS_APART_INT8_BLOCK)
FINEGRAIN_KERNELS_OF(format::int8_block)
#endif
#if defined(FINEGRAIN_KERNELS_APART_INT4)
FINEGRAIN_KERNELS_OF(format::int4)
#endif

#undef FINEGRAIN_KERNELS_OF
#undef FINEGRAIN_KERNEL
#endif
