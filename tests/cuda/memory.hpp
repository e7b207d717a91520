// Numbers to and from the device, waiting for both; and memory there that nobody wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <finegrain/cuda/buffer.hpp>
#include <initializer_list>
#include <span>
#include <type_traits>
#include <vector>

/// Skips where there is no GPU.
#define NEED_GPU() \
  if (finegrain::device::runtime::devices() == 0) SKIP("there is no GPU")
/// Or none that these products are for.
#define NEED_HOPPER(products) \
  NEED_GPU();                 \
  if (!products::available()) SKIP("there is no GPU of compute capability 9.0")

/// The emulator that may be in the place of a device (tests/emulator) defines this.
extern "C" __attribute__((weak)) int const finegrain_emulator;

namespace on_device {

namespace fg = finegrain;
inline bool emulated() { return &finegrain_emulator != nullptr; }
/// Sizes, of a batch above all, without the large ones where the device is emulated.
inline std::vector<std::int64_t> sizes_here(std::initializer_list<std::int64_t> all) {
  std::vector<std::int64_t> here(all);
  if (emulated()) std::erase_if(here, [](std::int64_t size) { return size > 70; });
  return here;
}

/// Whether to run again what must leave the same bits each time. An emulated device has one order for
/// all that it does, and is told of each byte that nobody wrote: it would show nothing.
inline bool order_varies() { return !emulated(); }
/// Whether products of so many rows are too much where the device is emulated.
inline bool too_large_here(std::int64_t rows, std::int64_t D, std::int64_t F) {
  return emulated() && rows * D * F > 25'000'000;
}

using fg::device_buffer;

template <class T>
device_buffer<T> upload(std::vector<T> const& from) {
  device_buffer<T> to(static_cast<std::int64_t>(from.size()));
  fg::device::runtime::copy(to.data(), from.data(), to.bytes(), nullptr);
  return to;
}
template <class T>
std::vector<T> download(T const* from, std::int64_t count) {
  std::vector<T> to(static_cast<std::size_t>(count));
  fg::device::runtime::copy(to.data(), from, count * static_cast<std::int64_t>(sizeof(T)), nullptr);
  return to;
}
template <class T>
std::vector<T> download(device_buffer<T> const& from, std::int64_t count) {
  return download(from.data(), count);
}
template <class T>
std::vector<T> download(device_buffer<T> const& from) {
  return download(from.data(), from.size());
}
template <class T>
std::vector<std::remove_const_t<T>> download(std::span<T> from) {
  return download<std::remove_const_t<T>>(from.data(), static_cast<std::int64_t>(from.size()));
}
/// Every bit is set: NaN in all formats.
template <class T>
device_buffer<T> unwritten(std::int64_t count) {
  device_buffer<T> made(count);
  fg::device::runtime::fill(made.data(), 0xff, made.bytes(), nullptr);
  return made;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace on_device
