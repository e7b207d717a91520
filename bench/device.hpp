// What bench cuda needs of nvcc and of cuBLAS: a clock, the limits, and a peer's parts. Defined in
// device.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <finegrain/base/number.hpp>
#include <finegrain/cuda/buffer.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

struct CUgraphExec_st;

namespace bench {
namespace fg = finegrain;
}

namespace bench::gpu {

using number = fg::bf16;

struct facts {
  std::string name, driver, runtime;  // "NVIDIA H100 80GB HBM3", "580.95.05", "13.0"
  int capability = 0;                 // 90
};
facts describe();
std::int64_t free_memory();

class stream {
 public:
  stream();
  ~stream();
  stream(stream const&) = delete;
  CUstream_st* get() const { return stream_; }

 private:
  CUstream_st* stream_ = nullptr;
};

/// What `enqueue` puts on a stream, recorded once, to be replayed.
class graph {
 public:
  graph(CUstream_st* on, std::function<void()> const& enqueue);
  ~graph();
  graph(graph const&) = delete;
  void replay() const;

 private:
  CUstream_st* on_;
  CUgraphExec_st* graph_ = nullptr;
};

/// Seconds of each of `times` calls, between events; each call is queued behind the one before.
std::vector<double> time_each(CUstream_st* on, int times, std::function<void()> const& enqueue);

// Kernels of the bench's own, each on a stream. Matrices are dense unless a stride is given.

/// Normal numbers of this deviation.
void fill_normal(number* to, std::int64_t count, float deviation, std::uint64_t seed,
                 CUstream_st* on);
/// 1 where row == column, and 0.
void fill_identity(number* to, int rows, int cols, CUstream_st* on);
/// A dense matrix of the host's to rows that are `stride` apart.
void put(number* to, std::int64_t stride, number const* from, std::int64_t rows, std::int64_t cols,
         CUstream_st* on);
/// to[r] = x[token[r]], times weight[r] unless that is null; rows of `width`, a multiple of 8.
void gather(number const* x, std::int32_t const* token, float const* weight, std::int64_t rows,
            int width, number* to, CUstream_st* on);
/// hidden (rows, F) = silu(z[:, :F]) * z[:, F:], of z (rows, 2 F).
void activate(number const* z, std::int64_t rows, int width, number* hidden, CUstream_st* on);
/// dz (rows, 2 F) from z and dhidden (rows, F).
void activate_backward(number const* z, number const* dhidden, std::int64_t rows, int width,
                       number* dz, CUstream_st* on);
/// y (T, D) = shared (T, D, or null) + sum over slots of rows[place], times weight or 1.
void combine(number const* rows, std::int32_t const* place, float const* weight,
             number const* shared, std::int64_t tokens, int slots, int width, number* y,
             CUstream_st* on);

/// cuBLAS on several lanes, which run beside one another. Row-major, bf16, sums in f32.
class products {
 public:
  explicit products(int lanes);
  ~products();

  enum class form { nt, nn, tn };  // C = A B^T, A B, A^T B
  /// A matrix's first number; its rows are so far apart, or dense.
  template <class T>
  struct rows {
    T* at;
    std::int64_t stride;
    rows(T* at, std::int64_t stride = 0) : at(at), stride(stride) {}  // NOLINT(*explicit*)
  };
  /// C (m, n) on a lane, depth k; or C added to what is there.
  void run(int lane, form f, std::int64_t m, std::int64_t n, std::int64_t k, rows<number const> a,
           rows<number const> b, rows<number> c, bool add = false);
  int lanes() const;
  CUstream_st* lane(int i) const;
  void fork(CUstream_st* from);  // the lanes begin where this stream stands
  void join(CUstream_st* to);    // this stream goes on when the lanes are done

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// Measures what the machine can do at most: a dense product of 8192^3 in bf16 by cuBLAS, random
/// numbers, operations a second; and a copy of 2 GiB, bytes read and written a second.
class limits_meter {
 public:
  explicit limits_meter(products& p);
  struct rates {
    double flops, bytes;
  };
  rates measure(int times = 3);

 private:
  static constexpr std::int64_t side = 8192, copied = std::int64_t{1} << 31;
  products& products_;
  fg::device_buffer<number> a_, b_, c_;
  fg::device_buffer<> from_, to_;
};

}  // namespace bench::gpu
