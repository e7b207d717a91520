// Memory of the device, and what host code asks of the CUDA runtime. Defined in memory.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "../base/error.hpp"

struct CUstream_st;     // what a cudaStream_t points to
struct CUgraphExec_st;  // and a cudaGraphExec_t

namespace finegrain::inline FINEGRAIN_ABI {

/// A call to CUDA failed: no device, no memory, a kernel that went wrong.
struct cuda_error : error {
  FINEGRAIN_PRINTF(2, 3) explicit cuda_error(char const* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
  }
};

namespace device {

/// The CUDA runtime, for code that nvcc does not see. Tag is void: a template, so that any number of
/// .cu files may hold its definitions. All but `copy` and `synchronize` wait for nothing.
template <class Tag>
struct basic_runtime {
  static void* allocate(std::int64_t bytes);  // on a 256-byte border
  static void release(void* memory) noexcept;
  /// Copies between host and device, either way, in the stream's order. A copy from or to ordinary
  /// host memory has read or written it when this returns.
  static void copy(void* to, void const* from, std::int64_t bytes, CUstream_st* stream);
  /// The same without waiting. Ordinary host memory that is read has been read when this returns.
  static void enqueue_copy(void* to, void const* from, std::int64_t bytes, CUstream_st* stream);
  static void fill(void* memory, int byte, std::int64_t bytes, CUstream_st* stream);
  static void synchronize(CUstream_st* stream);
  static int devices() noexcept;                      // 0 where there is no device, or no driver
  static bool readable(void const* memory) noexcept;  // whether the host can read it
  /// Memory of the host that the device can write.
  static void* allocate_shared(std::int64_t bytes);
  static void release_shared(void* memory) noexcept;
  /// A new stream, on which work is recorded and not run; and the graph made of it, which ends the
  /// stream, or null where recording went wrong.
  static CUstream_st* begin_recording();
  static CUgraphExec_st* end_recording(CUstream_st* stream, bool wanted);
  static void replay(CUgraphExec_st* graph, CUstream_st* stream);
  static void release_graph(CUgraphExec_st* graph) noexcept;
};
using runtime = basic_runtime<void>;

/// Work of the device, recorded once, that is replayed with whatever its memory then holds. That
/// memory must stay.
class recording {
 public:
  recording() = default;
  /// Records what enqueue(stream) enqueues. Throws what that throws, or cuda_error.
  template <class Enqueue>
  explicit recording(Enqueue&& enqueue) {
    CUstream_st* const stream = runtime::begin_recording();
    try {
      enqueue(stream);
    } catch (...) {
      static_cast<void>(runtime::end_recording(stream, false));
      throw;
    }
    graph_ = runtime::end_recording(stream, true);
  }
  recording(recording&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}
  recording& operator=(recording&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }
  ~recording() {
    if (graph_) runtime::release_graph(graph_);
  }
  void replay(CUstream_st* stream) const { runtime::replay(graph_, stream); }

 private:
  CUgraphExec_st* graph_ = nullptr;
};

}  // namespace device

/// Uninitialised memory of the device, owned.
template <class T = std::byte>
class device_buffer {
  static_assert(std::is_trivially_destructible_v<T>, "a buffer holds plain numbers only");

 public:
  device_buffer() = default;
  explicit device_buffer(std::int64_t size)
      : data_(size > 0 ? static_cast<T*>(
                             device::runtime::allocate(size * static_cast<std::int64_t>(sizeof(T))))
                       : nullptr),
        size_(size > 0 ? size : 0) {}
  device_buffer(device_buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  device_buffer& operator=(device_buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~device_buffer() {
    if (data_) device::runtime::release(data_);
  }

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  std::int64_t bytes() const { return size_ * static_cast<std::int64_t>(sizeof(T)); }
  /// So that it can be a batch's list.
  operator std::span<T const>() const {  // NOLINT(*explicit*)
    return {data_, static_cast<std::size_t>(size_)};
  }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
