// kernels: what a program of many files compiles once. Without FINEGRAIN_KERNELS_APART every file that
// has a layer compiles the kernels too, and the linker keeps one of them; with it such files declare
// these functions, and cpu/kernels.cpp, compiled with the same flags, holds them. CMake's target
// finegrain::kernels is both. These are what training calls; frozen_kernels.hpp has each format's.
// SPDX-License-Identifier: Apache-2.0

// Not once: in a unity build, or behind a precompiled header, kernels.cpp comes after finegrain.hpp.
#include "attention_block.hpp"
#include "mixture.hpp"

#if defined(FINEGRAIN_KERNELS_HERE)  // by kernels.cpp
#define FINEGRAIN_KERNEL template
#elif defined(FINEGRAIN_KERNELS_APART) && !defined(__CUDACC__)
#define FINEGRAIN_KERNEL extern template
#endif

#if defined(FINEGRAIN_KERNEL)
namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

FINEGRAIN_KERNEL void mixture_forward(cpu const&, config const&, batch const&,
                                      layer_weights<float const> const&, mixture_saved const&,
                                      mixture_scratch const&, matrix<float const>, matrix<float>,
                                      fused_norm const*, matrix<float const>, float);
FINEGRAIN_KERNEL void mixture_backward(cpu const&, config const&, batch const&,
                                       layer_weights<float const> const&, mixture_saved const&,
                                       mixture_scratch const&, matrix<float const>,
                                       matrix<float const>, layer_weights<float> const&, gradients,
                                       matrix<float>);
FINEGRAIN_KERNEL void attention_block_forward(pass<cpu> const&, heads, attention_form const&, float,
                                              float, block_weights<float const> const&,
                                              block_saved const&, matrix<float const>,
                                              matrix<float>);
FINEGRAIN_KERNEL void attention_block_backward(cpu const&, heads, attention_form const&,
                                               batch const&, block_weights<float const> const&,
                                               block_saved const&, block_scratch const&,
                                               matrix<float const>, matrix<float const>,
                                               matrix<float const>, block_weights<float> const&,
                                               gradients, matrix<float>);

namespace simd {
FINEGRAIN_KERNEL void multiply_all(cpu const&, matrix<float const>, transposed const&,
                                   matrix<float>, gradients);
FINEGRAIN_KERNEL void multiply_all(cpu const&, matrix<float const>, straight const&, matrix<float>,
                                   gradients);
FINEGRAIN_KERNEL void outer_product<format::f32>(row_list, std::int64_t, row_list, std::int64_t,
                                                 matrix<float>, gradients);
FINEGRAIN_KERNEL void outer_product<format::bf16>(row_list, std::int64_t, row_list, std::int64_t,
                                                  matrix<float>, gradients);
}  // namespace simd

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
#undef FINEGRAIN_KERNEL
#endif
