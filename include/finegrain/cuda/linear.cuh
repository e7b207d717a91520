// The linear map by cuBLAS: the only file that includes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "linear.hpp"
#include "memory.cuh"

// What compiles kernels has no use for cuBLAS, nor for CUDA's fp16 and bf16, which it includes.
#if !defined(__CUDA_ARCH__)
#include <cublas_v2.h>
#endif

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

#if !defined(__CUDA_ARCH__)

FINEGRAIN_ONE_COPY inline void check(cublasStatus_t status, char const* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw cuda_error("%s: %s", what, cublasGetStatusString(status));
}

template <class Tag>
void* basic_blas_library<Tag>::create() {
  cublasHandle_t handle = nullptr;
  check(cublasCreate(&handle), "cublasCreate");
  // A product that cuBLAS splits along its sum must not add the parts up in 16 bits.
  check(cublasSetMathMode(
            handle, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                              CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
        "cublasSetMathMode");
  check(cublasSetAtomicsMode(handle, CUBLAS_ATOMICS_NOT_ALLOWED), "cublasSetAtomicsMode");
  return handle;
}
template <class Tag>
void basic_blas_library<Tag>::destroy(void* handle) noexcept {
  static_cast<void>(cublasDestroy(static_cast<cublasHandle_t>(handle)));
}

template <class T>
inline constexpr cudaDataType_t blas_type = CUDA_R_32F;
template <>
inline constexpr cudaDataType_t blas_type<bf16> = CUDA_R_16BF;
template <>
inline constexpr cudaDataType_t blas_type<fp16> = CUDA_R_16F;
/// Products of f32 are those of f32, whatever the library's switches say.
template <class T>
inline constexpr cublasComputeType_t blas_sums = sizeof(T) == 4 ? CUBLAS_COMPUTE_32F_PEDANTIC
                                                                : CUBLAS_COMPUTE_32F;

/// The handle, for products on a stream.
inline cublasHandle_t blas_handle(blas const& library, CUstream_st* stream) {
  auto* const handle = static_cast<cublasHandle_t>(library.handle);
  check(cublasSetStream(handle, stream), "cublasSetStream");  // which takes the workspace away
  check(cublasSetWorkspace(handle, library.workspace, blas::workspace_bytes), "cublasSetWorkspace");
  return handle;
}

/// c (M, N) (+)= op(a) op(b). cuBLAS reads columns first, so what it is told is c^T = op(b)^T
/// op(a)^T. `depth` is the length of the sum; where that is 0 it has nothing to do.
template <class T, class C>
void blas_product(blas const& library, matrix<T const> a, bool a_transposed, matrix<T const> b,
                  bool b_transposed, gradients mode, matrix<C> c, CUstream_st* stream) {
  std::int64_t const depth = a_transposed ? a.rows : a.cols;
  bool const add = mode == gradients::accumulate;
  if (c.rows == 0 || c.cols == 0) return;
  if (depth == 0) {
    if (!add)
      check(cudaMemset2DAsync(c.data, static_cast<std::size_t>(c.stride) * sizeof(C), 0,
                              static_cast<std::size_t>(c.cols) * sizeof(C),
                              static_cast<std::size_t>(c.rows), stream),
            "clearing a product");
    return;
  }
  cublasHandle_t const handle = blas_handle(library, stream);
  float const one = 1, beta = add ? 1 : 0;
  check(cublasGemmEx_64(handle, b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                        a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, c.cols, c.rows, depth, &one,
                        b.data, blas_type<T>, b.stride, a.data, blas_type<T>, a.stride, &beta,
                        c.data, blas_type<C>, c.stride, blas_sums<T>, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

/// c_i (M, N) = a_i op(b_i) for `count` matrices of each, so many numbers apart; a has columns.
template <class T>
void blas_products(blas const& library, int count, matrix<T const> a, std::int64_t a_step,
                   matrix<T const> b, bool b_transposed, std::int64_t b_step, matrix<T> c,
                   std::int64_t c_step, CUstream_st* stream) {
  if (c.rows == 0) return;
  cublasHandle_t const handle = blas_handle(library, stream);
  float const one = 1, zero = 0;
  check(cublasGemmStridedBatchedEx_64(handle, b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N,
                                      c.cols, c.rows, a.cols, &one, b.data, blas_type<T>, b.stride,
                                      b_step, a.data, blas_type<T>, a.stride, a_step, &zero, c.data,
                                      blas_type<T>, c.stride, c_step, count, blas_sums<T>,
                                      CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

template <class T>
void linear<T>::forward(blas const& library, matrix<T const> x, matrix<T const> weight,
                        gradients mode, matrix<T> y, CUstream_st* stream) {
  blas_product(library, x, false, weight, true, mode, y, stream);
}
template <class T>
void linear<T>::forward_f32(blas const& library, matrix<T const> x, matrix<T const> weight,
                            matrix<float> y, CUstream_st* stream) {
  blas_product(library, x, false, weight, true, gradients::overwrite, y, stream);
}
template <class T>
void linear<T>::backward_input(blas const& library, matrix<T const> dy, matrix<T const> weight,
                               gradients mode, matrix<T> dx, CUstream_st* stream) {
  blas_product(library, dy, false, weight, false, mode, dx, stream);
}
template <class T>
void linear<T>::backward_weight(blas const& library, matrix<T const> dy, matrix<T const> x,
                                gradients mode, matrix<T> dweight, CUstream_st* stream) {
  blas_product(library, dy, true, x, false, mode, dweight, stream);
}

template <class T>
void linear<T>::forward_each(blas const& library, int count, matrix<T const> x, std::int64_t x_step,
                             matrix<T const> weight, std::int64_t weight_step, matrix<T> y,
                             std::int64_t y_step, CUstream_st* stream) {
  blas_products(library, count, x, x_step, weight, true, weight_step, y, y_step, stream);
}
template <class T>
void linear<T>::backward_input_each(blas const& library, int count, matrix<T const> dy,
                                    std::int64_t dy_step, matrix<T const> weight,
                                    std::int64_t weight_step, matrix<T> dx, std::int64_t dx_step,
                                    CUstream_st* stream) {
  blas_products(library, count, dy, dy_step, weight, false, weight_step, dx, dx_step, stream);
}

#endif

template <class Tag>
using blas_library_code = code<&basic_blas_library<Tag>::create, &basic_blas_library<Tag>::destroy>;
template <class T>
using linear_code = code<&linear<T>::forward, &linear<T>::forward_f32, &linear<T>::backward_input,
                         &linear<T>::backward_weight>;
template <class T>
using linear_each_code = code<&linear<T>::forward_each, &linear<T>::backward_input_each>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
