// Takes the place of cudart: one device, of 8.0 or 9.0, whose streams do all at once.
// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "hopper.hpp"
#include "memory.hpp"

namespace emulator {
namespace {

// Asked for before this file's objects are made.
bool hopper() {
  static bool const is = [] {
    char const* const set = std::getenv("FINEGRAIN_EMULATOR_CAPABILITY");
    return set && std::string_view(set) == "9.0";
  }();
  return is;
}
u32 most_shared() { return hopper() ? shared_bytes_of_90 : shared_bytes_of_80; }
cudaError_t last_error = cudaSuccess;
struct known_kernel {
  std::string name;
  kernel* of = nullptr;  // nothing: there is no PTX of it
  int dynamic_bytes = 48 * 1024;
};
// By what a program calls them by. It tells before this file's objects are made.
std::unordered_map<void const*, known_kernel>& kernels() {
  static auto& all = *new std::unordered_map<void const*, known_kernel>;
  return all;
}

using graph = std::vector<work>;
struct stream {
  bool records = false;
  graph recorded;
};
stream& of(void* s) {
  static stream none;
  return s ? *static_cast<stream*>(s) : none;
}

cudaError_t attempt(work const& now) {
  try {
    ++works;
    now();
    return cudaSuccess;
  } catch (fault const& found) {
    record(found.what());
    return last_error = cudaErrorLaunchFailure;
  }
}
cudaError_t given(void* s, work what) {
  return enqueue(s, std::move(what)) ? cudaSuccess : last_error;
}

cudaError_t launched(void const* function, dim3 grid, dim3 size, void** arguments,
                     std::size_t dynamic_bytes, void* s, bool together, u32 clustered = 1,
                     bool overlaps = false) {
  known_kernel const& known = kernels()[function];
  launch l{known.of, {grid.x, grid.y, grid.z}, {size.x, size.y, size.z}, {}, 0, together, clustered,
           overlaps};
  auto const refuse = [&](char const* why) {
    record(known.name + " " + why);
    return last_error = cudaErrorInvalidConfiguration;
  };
  if (!known.of) return refuse("has no PTX of 8.0 or 9.0a in this program, or it is compressed");
  u64 const threads = l.size.count();
  if (l.grid.count() == 0 || grid.y > 65535 || grid.z > 65535) return refuse("has no such grid");
  if (l.grid.x % clustered) return refuse("has a grid that is no multiple of its clusters");
  if (threads == 0 || threads > 1024 ||
      (known.of->most_threads && threads > known.of->most_threads))
    return refuse("has too many threads, or none");
  if (dynamic_bytes > static_cast<std::size_t>(known.dynamic_bytes))
    return refuse("has more shared memory than was asked for before");
  if (known.of->shared_bytes + dynamic_bytes > most_shared())
    return refuse("wants too much shared memory");
  if (together && l.grid.count() * threads > multiprocessors * 2048)
    return refuse("has too many threads for all to run at once");
  l.dynamic_bytes = static_cast<u32>(dynamic_bytes);
  l.arguments.resize(known.of->parameter_bytes);
  for (std::size_t n = 0; n < known.of->parameters.size(); ++n) {
    parameter const& p = known.of->parameters[n];
    std::memcpy(l.arguments.data() + p.at, arguments[n], p.bytes);
  }
  return given(s, [l = std::move(l)] { run(l); });
}

// Copies what is known of bytes, too: whether they were written.
void copy(void* to, void const* from, std::size_t bytes) {
  array* const target = whole(to, bytes, "is copied to");
  array* const source = whole(from, bytes, "is copied from");
  std::memmove(to, from, bytes);
  if (!target) return;
  u8* const shadow = target->shadow_of(reinterpret_cast<u64>(to));
  if (source)
    std::memmove(shadow, source->shadow_of(reinterpret_cast<u64>(from)), bytes);
  else
    std::memset(shadow, 1, bytes);
}
// All ones are what tests fill memory with that nobody is to read.
void fill(void* at, int value, std::size_t bytes) {
  whole(at, bytes, "is filled");
  std::memset(at, value, bytes);
  mark(at, bytes, (value & 255) != 255);
}

}  // namespace

array* whole(void const* p, u64 bytes, char const* what) {
  auto const at = reinterpret_cast<u64>(p);
  array* const a = find_array(at);  // nothing: memory of the host
  if (a && !a->holds(at, bytes)) throw fault("more than an array " + std::string(what));
  return a;
}
bool enqueue(void* s, work what) {
  if (!of(s).records) return attempt(what) == cudaSuccess;
  of(s).recorded.push_back(std::move(what));
  return true;
}

}  // namespace emulator

using namespace emulator;

extern "C" {

// By this, tests know it.
extern int const finegrain_emulator;
int const finegrain_emulator = 1;

// What nvcc puts in a program: its code, and the names of its kernels.

struct fat_binary {
  int magic, version;
  u8 const* data;
  void* file;
};
void** __cudaRegisterFatBinary(void* wrapper) {
  u8 const* at = static_cast<fat_binary*>(wrapper)->data;
  auto const read = [&](auto x, std::size_t offset) {
    std::memcpy(&x, at + offset, sizeof x);
    return x;
  };
  u8 const* const end = at + read(u16{}, 6) + read(u64{}, 8);
  at += read(u16{}, 6);
  std::string_view text;
  while (at < end) {  // kind 1 is PTX
    std::string_view const one(reinterpret_cast<char const*>(at) + read(u32{}, 4), read(u64{}, 8));
    bool const is_hopper = one.find(".target sm_90a") < 1000;
    if (read(u16{}, 0) == 1 && (is_hopper ? hopper() : text.empty()))
      text = one.substr(0, one.find('\0'));
    at += read(u32{}, 4) + read(u64{}, 8);
  }
  return reinterpret_cast<void**>(read_module(text).release());  // for as long as the program runs
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, char const*, int, std::size_t, int, int) {}
void __cudaRegisterFunction(void** handle, char const* function, char*, char const* name, int,
                            uint3*, uint3*, dim3*, dim3*, int*) {
  auto& all = reinterpret_cast<module*>(handle)->kernels;
  auto const found = all.find(name);
  kernels()[function] = {name, found == all.end() ? nullptr : &found->second};
}

// Launches.

struct configuration {
  dim3 grid, size;
  std::size_t dynamic_bytes;
  void* on;
};
static std::vector<configuration> pushed;  // by launches, one in another
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 size, std::size_t bytes, void* on) {
  pushed.push_back({grid, size, bytes, on});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* size, std::size_t* bytes, void* on) {
  auto const& last = pushed.back();
  *grid = last.grid;
  *size = last.size;
  *bytes = last.dynamic_bytes;
  *static_cast<void**>(on) = last.on;
  pushed.pop_back();
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* found, void const* function) {
  *found = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t function, dim3 grid, dim3 size, void** arguments,
                               std::size_t bytes, cudaStream_t on) {
  return launched(function, grid, size, arguments, bytes, on, false);
}
cudaError_t cudaLaunchKernel(void const* function, dim3 grid, dim3 size, void** arguments,
                             std::size_t bytes, cudaStream_t on) {
  return launched(function, grid, size, arguments, bytes, on, false);
}
cudaError_t cudaLaunchCooperativeKernel(void const* function, dim3 grid, dim3 size,
                                        void** arguments, std::size_t bytes, cudaStream_t on) {
  return launched(function, grid, size, arguments, bytes, on, true);
}
cudaError_t cudaLaunchKernelExC(cudaLaunchConfig_t const* c, void const* function,
                                void** arguments) {
  u32 clustered = 1;
  bool overlaps = false;
  for (unsigned n = 0; n < c->numAttrs; ++n) {
    auto const& one = c->attrs[n];
    if (one.id == cudaLaunchAttributeClusterDimension)
      clustered = one.val.clusterDim.x;
    else if (one.id == cudaLaunchAttributeProgrammaticStreamSerialization)
      overlaps = one.val.programmaticStreamSerializationAllowed != 0;
    else
      return cudaErrorNotSupported;
  }
  return launched(function, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes, c->stream,
                  false, clustered, overlaps);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, void const* function) {
  *a = {};
  if (!kernels().contains(function)) return last_error = cudaErrorInvalidDeviceFunction;
  a->ptxVersion = a->binaryVersion = hopper() ? 90 : 80;
  kernel const* const of =
      kernels()[function].of;  // a kernel is left empty where others replace it
  a->numRegs = of && std::count(of->body.begin(), of->body.end(), ';') > 2 ? 64 : 8;
  a->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(void const* function, cudaFuncAttribute a, int value) {
  if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > static_cast<int>(most_shared())) return last_error = cudaErrorInvalidValue;
  kernels()[function].dynamic_bytes = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void const*, int,
                                                                   std::size_t, unsigned) {
  *blocks = 1;
  return cudaSuccess;
}

// The device.

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  switch (what) {
    case cudaDevAttrMultiProcessorCount: *value = multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = hopper() ? 9 : 8; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(most_shared()); break;
    default:
      record("the emulator does not know attribute " + std::to_string(what) + " of a device");
      return last_error = cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
// The driver's maps of tensors: those that array_3d of tile/tma.cuh asks for.
static CUresult encode(CUtensorMap* made, CUtensorMapDataType type, cuuint32_t rank, void* data,
                       cuuint64_t const* sizes, cuuint64_t const* strides, cuuint32_t const* box,
                       cuuint32_t const* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  u32 const bytes = type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2;
  bool right = rank == 3 && swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * bytes == 128 &&
               (bytes == 1 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) &&
               reinterpret_cast<u64>(data) % 16 == 0;
  for (int n = 0; n < 3; ++n)
    right &= sizes[n] > 0 && sizes[n] <= u64{1} << 32 && box[n] > 0 && box[n] <= 256 &&
             steps[n] == 1 && (n == 2 || (strides[n] % 16 == 0 && strides[n] < u64{1} << 40));
  if (!right) return CUDA_ERROR_INVALID_VALUE;
  tensor_map const map{reinterpret_cast<u64>(data),
                       {sizes[0], sizes[1], sizes[2]},
                       {strides[0], strides[1]},
                       {box[0], box[1], box[2]},
                       bytes,
                       is_tensor_map};
  std::memcpy(made, &map, sizeof map);
  return CUDA_SUCCESS;
}
cudaError_t cudaGetDriverEntryPointByVersion(char const* name, void** found, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  if (!hopper() || std::string_view(name) != "cuTensorMapEncodeTiled") {
    *found = nullptr;
    return last_error = cudaErrorNotSupported;
  }
  *found = reinterpret_cast<void*>(encode);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
char const* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error in the emulator, which says more";
}

// Memory.

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  *p = bytes ? make_array(bytes, false) : nullptr;
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  *p = make_array(bytes, true);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  drop_array(p);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* all) {
  *free = *all = std::size_t{8} << 30;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, void const* p) {
  *a = {};
  array const* const found = find_array(reinterpret_cast<u64>(p));
  a->type = !found        ? cudaMemoryTypeUnregistered
            : found->host ? cudaMemoryTypeHost
                          : cudaMemoryTypeDevice;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t on) {
  if (!of(on).records || find_array(reinterpret_cast<u64>(from)))
    return given(on, [=] { copy(to, from, bytes); });
  auto const* const begin =
      static_cast<u8 const*>(from);  // a graph keeps what pageable memory holds
  return given(on, [to, kept = std::vector<u8>(begin, begin + bytes)] {
    copy(to, kept.data(), kept.size());
  });
}
cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t on) {
  return given(on, [=] { fill(at, value, bytes); });
}
cudaError_t cudaMemset2DAsync(void* at, std::size_t pitch, int value, std::size_t width,
                              std::size_t height, cudaStream_t on) {
  return given(on, [=] {
    for (std::size_t y = 0; y < height; ++y) fill(static_cast<u8*>(at) + y * pitch, value, width);
  });
}

// Streams, events and graphs.

cudaError_t cudaStreamCreate(cudaStream_t* made) {
  *made = reinterpret_cast<cudaStream_t>(new stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* made, unsigned) {
  return cudaStreamCreate(made);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete reinterpret_cast<stream*>(s);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
using moment = std::chrono::steady_clock::time_point;
cudaError_t cudaEventCreate(cudaEvent_t* made) {
  *made = reinterpret_cast<cudaEvent_t>(new moment);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<moment*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *reinterpret_cast<moment*>(event) = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  *ms = std::chrono::duration<float, std::milli>(*reinterpret_cast<moment*>(to) -
                                                 *reinterpret_cast<moment*>(from))
            .count();
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  of(s) = {true, {}};
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* made) {
  *made = reinterpret_cast<cudaGraph_t>(new graph(std::move(of(s).recorded)));
  of(s) = {};
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  *status = of(s).records ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t from, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new graph(*reinterpret_cast<graph*>(from)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
  for (work const& one : *reinterpret_cast<graph*>(g))
    if (cudaError_t const error = given(s, one)) return error;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete reinterpret_cast<graph*>(g);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
  delete reinterpret_cast<graph*>(g);
  return cudaSuccess;
}

}  // extern "C"
