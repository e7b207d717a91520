// cuda: the executor for NVIDIA GPUs from compute capability 8.0.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "../plan/stopwatch.hpp"
#include "blas.hpp"
#include "buffer.hpp"
#include "clock.hpp"
#include "loss.hpp"
#include "products.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace device {

/// What passes need beside their stream and their memory. Made with the executor, and shared by its
/// copies: passes of two copies must not overlap.
struct context {
  device::blas blas;
  device_buffer<double> loss{1}, loss_parts{squared_error_parts};
  device_buffer<std::int64_t> terms{1};  // of a loss, where the device counts them
  device_buffer<float> token_losses;
  device_buffer<std::int32_t> arrivals{arrivals_size};  // of router_state: zeros between passes
  struct released {
    void operator()(double* memory) const { runtime::release_shared(memory); }
  };
  /// Reports of the routers of one pass, one after the other, which kernels write.
  std::unique_ptr<double, released> reports;
  std::int64_t report_size = 0;  // numbers there is room for
  std::int64_t moves = 0;        // how many times any of this was allocated anew
  device::clock clock;           // of timed passes

  void reserve_reports(std::int64_t numbers) {
    if (numbers <= report_size) return;
    reports.reset(static_cast<double*>(runtime::allocate_shared(bytes_of<double>(numbers))));
    report_size = numbers;
    ++moves;
  }
};

/// Kernels read and write rows 16 bytes at a time: throws invalid_argument where those of m do not
/// begin on such borders. What stages hand to one another does; what a caller brings need not.
template <class T>
void check_rows(matrix<T> m, char const* what) {
  auto const askew = [](auto place) { return static_cast<std::uintptr_t>(place) % 16 != 0; };
  if (m.rows > 0 && (askew(reinterpret_cast<std::uintptr_t>(m.data)) ||
                     (m.rows > 1 && askew(bytes_of<T>(m.stride)))))
    throw invalid_argument("on cuda the rows of %s must begin on borders of 16 bytes", what);
}

}  // namespace device

/// Enqueues every pass on a stream of the caller's; nothing waits for the device but a loss, a log or
/// times that the host asks for, and no pass allocates, so that it can be captured in a graph. x, y,
/// weights and gradients are memory of the device; lists of token ids, starts and positions may be
/// the host's, from which they are copied as the pass begins. Weights, activations and gradients
/// are T; sums are f32.
template <class T>
struct basic_cuda {
  using scalar = T;
  CUstream_st* stream = nullptr;
  device::instructions use = device::instructions::all;
  /// Of experts that are frozen in fp8: bf16; or fp8, in which the inputs of their products are
  /// rounded too, where that is faster: on Hopper, for many tokens (cuda/fp8.hpp).
  format activations = format::bf16;
  std::shared_ptr<device::context> context = made();

  /// Throws cuda_error where there is no device, or it has no memory left.
  basic_cuda() = default;
  explicit basic_cuda(CUstream_st* stream) : stream(stream) {}

  /// The same with exact products: here there is one kind.
  basic_cuda const& exact() const { return *this; }

 private:
  static std::shared_ptr<device::context> made() {
    if (device::runtime::devices() == 0)
      throw cuda_error("there is no GPU, or its driver is older than this program's CUDA");
    auto const context = std::make_shared<device::context>();
    device::runtime::fill(context->arrivals.data(), 0, context->arrivals.bytes(), nullptr);
    device::runtime::synchronize(nullptr);
    return context;
  }
};
using cuda = basic_cuda<bf16>;

/// Two events of the stream around each node, which are read, and waited for, when all of a pass is
/// enqueued. So a node's time is the device's, with what the device waits for the host.
template <class T>
struct stopwatch<basic_cuda<T>> {
  using X = basic_cuda<T>;

  static std::size_t begin(pass<X> const& p, std::size_t row) {
    if (!p.batch.times) return 0;
    if (row == 0) {
      if (device::runtime::records(p.on.stream))
        throw invalid_argument("a pass that is recorded takes no times: nothing runs yet");
      p.on.context->clock.clear();
    }
    return p.on.context->clock.mark(p.on.stream);
  }
  static void end(pass<X> const& p, std::size_t row, timings::phase phase, std::size_t begun) {
    if (!p.batch.times) return;
    device::clock& clock = p.on.context->clock;
    clock.add(row, phase, begun, clock.mark(p.on.stream));
    if (row == 0) clock.read(*p.batch.times);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
