// limits: what a device can do in a second, measured, for `explain`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/explain.hpp"
#include "executor.hpp"
#include "linear.hpp"
#include "random.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The operations of a cuBLAS product of random (side, side) matrices of T in a second, and the
/// bytes that a copy of so many reads and writes: of each the fastest of five, behind one that is not
/// counted. It takes memory for that while it runs, and waits for the device. Throws cuda_error.
template <class T>
machine_limits measured_limits(basic_cuda<T> const& on, std::int64_t side = 4096,
                               std::int64_t bytes = std::int64_t{256} << 20) {
  auto const fastest = [&](auto const& enqueue) {
    double least = 0;
    for (int run = 0; run < 6; ++run) {
      on.context->clock.clear();
      std::size_t const begin = on.context->clock.mark(on.stream);
      enqueue();
      double const seconds = on.context->clock.seconds(begin, on.context->clock.mark(on.stream));
      if (run == 1 || (run > 1 && seconds < least)) least = seconds;
    }
    return least;
  };
  machine_limits found;
  {
    device_buffer<> const from(bytes), to(bytes);
    device::runtime::fill(from.data(), 0, bytes, on.stream);
    auto const copy = [&] {
      device::runtime::enqueue_copy(to.data(), from.data(), bytes, on.stream);
    };
    found.bytes = 2 * static_cast<double>(bytes) / fastest(copy);
  }
  std::int64_t const count = side * side;
  device_buffer<T> const numbers(3 * count);
  device_buffer<device::random_range> const list(1);
  device::random_range const range{.count = 2 * count, .seed = 1, .value = 1};
  device::runtime::copy(list.data(), &range, sizeof range, on.stream);
  device::random_numbers<T>::fill(list.data(), 1, numbers.data(), on.stream);
  auto const product = [&] {
    T* const at = numbers.data();
    device::linear<T>::forward(on.context->blas, {at, side, side}, {at + count, side, side},
                               gradients::overwrite, {at + 2 * count, side, side}, on.stream);
  };
  found.flops = 2 * static_cast<double>(count) * static_cast<double>(side) / fastest(product);
  return found;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
