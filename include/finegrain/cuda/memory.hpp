// What host code asks of the CUDA runtime, memory first of all. Defined in memory.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>

#include "../base/error.hpp"

struct CUstream_st;     // what a cudaStream_t points to
struct CUgraphExec_st;  // a cudaGraphExec_t
struct CUevent_st;      // and a cudaEvent_t

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

/// Of so many numbers.
template <class T>
constexpr std::int64_t bytes_of(std::int64_t count) {
  return count * static_cast<std::int64_t>(sizeof(T));
}

/// The CUDA runtime, for code that nvcc does not see. Tag is void: a template, so that any number of
/// .cu files may hold its definitions. `copy`, `synchronize` and `seconds_between` wait, no other.
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
  /// Whether what is enqueued on a stream is recorded now, and not run.
  static bool records(CUstream_st* stream);
  /// Moments of a stream; and the time from one that has been to another, for which it waits.
  static CUevent_st* make_event();
  static void record_event(CUevent_st* event, CUstream_st* stream);
  static double seconds_between(CUevent_st* begin, CUevent_st* end);
  static void release_event(CUevent_st* event) noexcept;
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

}  // namespace finegrain::inline FINEGRAIN_ABI
