// Memory of the device, and the CUDA runtime's errors as exceptions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include "code.cuh"
#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Throws cuda_error when a call failed, or when a launch before it did.
FINEGRAIN_ONE_COPY inline void check(cudaError_t result, char const* what) {
  if (result == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // the error is told once
  throw cuda_error("%s: %s", what, cudaGetErrorString(result));
}
/// After each launch of a kernel.
inline void check_launch(char const* kernel) { check(cudaGetLastError(), kernel); }

template <class Tag>
void* basic_runtime<Tag>::allocate(std::int64_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, static_cast<std::size_t>(bytes)), "allocating memory of the device");
  return memory;
}
template <class Tag>
void basic_runtime<Tag>::release(void* memory) noexcept {
  static_cast<void>(cudaFree(memory));
}
template <class Tag>
void basic_runtime<Tag>::enqueue_copy(void* to, void const* from, std::int64_t bytes,
                                      CUstream_st* stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream),
        "copying");
}
template <class Tag>
void basic_runtime<Tag>::copy(void* to, void const* from, std::int64_t bytes, CUstream_st* stream) {
  enqueue_copy(to, from, bytes, stream);
  synchronize(stream);
}
template <class Tag>
void basic_runtime<Tag>::fill(void* memory, int byte, std::int64_t bytes, CUstream_st* stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(memory, byte, static_cast<std::size_t>(bytes), stream), "filling memory");
}
template <class Tag>
void basic_runtime<Tag>::synchronize(CUstream_st* stream) {
  check(cudaStreamSynchronize(stream), "waiting for the device");
}
template <class Tag>
int basic_runtime<Tag>::devices() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return count;
}

template <class Tag>
bool basic_runtime<Tag>::readable(void const* memory) noexcept {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return true;
  }
  return attributes.type != cudaMemoryTypeDevice;
}
template <class Tag>
void* basic_runtime<Tag>::allocate_shared(std::int64_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, static_cast<std::size_t>(bytes)),
        "allocating memory that host and device share");
  return memory;
}
template <class Tag>
void basic_runtime<Tag>::release_shared(void* memory) noexcept {
  static_cast<void>(cudaFreeHost(memory));
}

template <class Tag>
CUstream_st* basic_runtime<Tag>::begin_recording() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  cudaError_t const begun = cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
  if (begun != cudaSuccess) static_cast<void>(cudaStreamDestroy(stream));
  check(begun, "recording a graph");
  return stream;
}
template <class Tag>
CUgraphExec_st* basic_runtime<Tag>::end_recording(CUstream_st* stream, bool wanted) {
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t graph = nullptr;
  cudaError_t result = cudaStreamEndCapture(stream, &recorded);
  static_cast<void>(cudaStreamDestroy(stream));
  if (result == cudaSuccess && wanted) result = cudaGraphInstantiate(&graph, recorded, 0);
  if (recorded) static_cast<void>(cudaGraphDestroy(recorded));
  if (wanted)
    check(result, "recording a graph");
  else
    static_cast<void>(cudaGetLastError());
  return graph;
}
template <class Tag>
void basic_runtime<Tag>::replay(CUgraphExec_st* graph, CUstream_st* stream) {
  check(cudaGraphLaunch(graph, stream), "replaying a graph");
}
template <class Tag>
void basic_runtime<Tag>::release_graph(CUgraphExec_st* graph) noexcept {
  static_cast<void>(cudaGraphExecDestroy(graph));
}

template <class Tag>
bool basic_runtime<Tag>::records(CUstream_st* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "asking whether a stream is recorded");
  return status != cudaStreamCaptureStatusNone;
}

template <class Tag>
CUevent_st* basic_runtime<Tag>::make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "making an event");
  return event;
}
template <class Tag>
void basic_runtime<Tag>::record_event(CUevent_st* event, CUstream_st* stream) {
  check(cudaEventRecord(event, stream), "recording an event");
}
template <class Tag>
double basic_runtime<Tag>::seconds_between(CUevent_st* begin, CUevent_st* end) {
  float milliseconds = 0;
  check(cudaEventSynchronize(end), "waiting for the device");
  check(cudaEventElapsedTime(&milliseconds, begin, end), "reading the device's clock");
  return 1e-3 * static_cast<double>(milliseconds);
}
template <class Tag>
void basic_runtime<Tag>::release_event(CUevent_st* event) noexcept {
  static_cast<void>(cudaEventDestroy(event));
}

/// What host code calls, so that a .cu file holds it: see instantiate.cuh.
template <class Tag>
using runtime_code =
    code<&basic_runtime<Tag>::allocate, &basic_runtime<Tag>::release, &basic_runtime<Tag>::copy,
         &basic_runtime<Tag>::fill, &basic_runtime<Tag>::synchronize, &basic_runtime<Tag>::devices,
         &basic_runtime<Tag>::readable, &basic_runtime<Tag>::enqueue_copy,
         &basic_runtime<Tag>::allocate_shared, &basic_runtime<Tag>::release_shared,
         &basic_runtime<Tag>::begin_recording, &basic_runtime<Tag>::end_recording,
         &basic_runtime<Tag>::replay, &basic_runtime<Tag>::release_graph,
         &basic_runtime<Tag>::records, &basic_runtime<Tag>::make_event,
         &basic_runtime<Tag>::record_event, &basic_runtime<Tag>::seconds_between,
         &basic_runtime<Tag>::release_event>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
