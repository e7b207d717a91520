// Takes the place of cuBLAS: products of matrices, whose memory is looked at as kernels' is.
// SPDX-License-Identifier: Apache-2.0
#include <cublas_v2.h>

#include <cstring>

#include "real.hpp"
#include "runtime.hpp"

namespace emulator {
namespace {

s64 bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

/// A matrix in memory, columns one after another.
struct columns {
  u8* data;
  cudaDataType_t type;
  s64 stride, rows, count;
  f32 operator()(s64 row, s64 column) const {
    u8 const* const at = data + (column * stride + row) * bytes_of(type);
    u16 half;
    if (type == CUDA_R_32F) {
      f32 x;
      std::memcpy(&x, at, sizeof x);
      return x;
    }
    std::memcpy(&half, at, sizeof half);
    return type == CUDA_R_16BF ? from_bf16(half) : from_half(half);
  }
  void set(s64 row, s64 column, f32 x) const {
    u8* const at = data + (column * stride + row) * bytes_of(type);
    u16 const half = type == CUDA_R_16BF ? to_bf16(x) : to_half(x);
    type == CUDA_R_32F ? std::memcpy(at, &x, sizeof x) : std::memcpy(at, &half, sizeof half);
  }
  // Each column is within an array, and was written, or is now.
  void look(bool writes) const {
    auto const bytes = static_cast<u64>(rows * bytes_of(type));
    for (s64 c = 0; c < count && rows > 0; ++c) {
      u8* const at = data + c * stride * bytes_of(type);
      array* const a = whole(at, bytes, "is in a product by cuBLAS");
      if (!a) throw fault("cuBLAS is given memory that is not the device's");
      u8* const written = a->written.data() + (reinterpret_cast<u64>(at) - a->base);
      if (writes)
        std::memset(written, 1, bytes);
      else if (std::memchr(written, 0, bytes))
        throw fault("cuBLAS reads what nobody wrote");
    }
  }
};

struct product {
  bool a_transposed, b_transposed;
  s64 m, n, k;
  f32 alpha, beta;
  columns a, b, c;

  void make() const {
    a.look(false);
    b.look(false);
    if (beta != 0) c.look(false);
    std::vector<f32> left(static_cast<std::size_t>(m * k)), sum(static_cast<std::size_t>(m));
    for (s64 x = 0; x < k; ++x)
      for (s64 i = 0; i < m; ++i)
        left[static_cast<std::size_t>(x * m + i)] = a_transposed ? a(x, i) : a(i, x);
    for (s64 j = 0; j < n; ++j) {
      sum.assign(sum.size(), 0);
      for (s64 x = 0; x < k; ++x) {
        f32 const right = b_transposed ? b(j, x) : b(x, j);
        f32 const* const from = left.data() + x * m;
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += from[i] * right;
      }
      for (s64 i = 0; i < m; ++i) {
        f32 const x = alpha * sum[static_cast<std::size_t>(i)];
        c.set(i, j, beta != 0 ? x + beta * c(i, j) : x);
      }
    }
    c.look(true);
  }
};
columns matrix(void const* data, cudaDataType_t type, s64 stride, s64 rows, s64 count) {
  return {static_cast<u8*>(const_cast<void*>(data)), type, stride, rows, count};
}
product described(cublasOperation_t at, cublasOperation_t bt, s64 m, s64 n, s64 k,
                  void const* alpha, columns a, columns b, void const* beta, columns c) {
  auto const number = [](void const* p) { return *static_cast<f32 const*>(p); };
  bool const ta = at == CUBLAS_OP_T, tb = bt == CUBLAS_OP_T;
  a.rows = ta ? k : m;
  a.count = ta ? m : k;
  b.rows = tb ? n : k;
  b.count = tb ? k : n;
  return {ta, tb, m, n, k, number(alpha), number(beta), a, b, c};
}

}  // namespace
}  // namespace emulator

using namespace emulator;

struct cublasContext {  // a handle
  void* stream = nullptr;
};
static cublasStatus_t given(cublasHandle_t h, work what) {
  return enqueue(h->stream, std::move(what)) ? CUBLAS_STATUS_SUCCESS
                                             : CUBLAS_STATUS_EXECUTION_FAILED;
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* h) {
  *h = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t h) {
  delete h;
  return CUBLAS_STATUS_SUCCESS;
}
char const* cublasGetStatusString(cublasStatus_t) {
  return "an error, which the emulator has told";
}
cublasStatus_t cublasSetAtomicsMode(cublasHandle_t, cublasAtomicsMode_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream) {
  h->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGemmEx_64(cublasHandle_t h, cublasOperation_t at, cublasOperation_t bt, s64 m,
                               s64 n, s64 k, void const* alpha, void const* a, cudaDataType a_type,
                               s64 lda, void const* b, cudaDataType b_type, s64 ldb,
                               void const* beta, void* c, cudaDataType c_type, s64 ldc,
                               cublasComputeType_t, cublasGemmAlgo_t) {
  product const p = described(at, bt, m, n, k, alpha, matrix(a, a_type, lda, 0, 0),
                              matrix(b, b_type, ldb, 0, 0), beta, matrix(c, c_type, ldc, m, n));
  return given(h, [p] { p.make(); });
}
cublasStatus_t cublasGemmStridedBatchedEx_64(
    cublasHandle_t h, cublasOperation_t at, cublasOperation_t bt, s64 m, s64 n, s64 k,
    void const* alpha, void const* a, cudaDataType a_type, s64 lda, long long a_step, void const* b,
    cudaDataType b_type, s64 ldb, long long b_step, void const* beta, void* c, cudaDataType c_type,
    s64 ldc, long long c_step, s64 count, cublasComputeType_t, cublasGemmAlgo_t) {
  product const first = described(at, bt, m, n, k, alpha, matrix(a, a_type, lda, 0, 0),
                                  matrix(b, b_type, ldb, 0, 0), beta, matrix(c, c_type, ldc, m, n));
  return given(h, [=] {
    for (s64 x = 0; x < count; ++x) {
      product p = first;
      p.a.data += x * a_step * bytes_of(a_type);
      p.b.data += x * b_step * bytes_of(b_type);
      p.c.data += x * c_step * bytes_of(c_type);
      p.make();
    }
  });
}

}  // extern "C"
