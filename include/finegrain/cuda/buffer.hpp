// Memory of the device, owned.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Uninitialised memory of the device.
template <class T = std::byte>
class device_buffer {
  static_assert(std::is_trivially_destructible_v<T>, "a buffer holds plain numbers only");

 public:
  device_buffer() = default;
  explicit device_buffer(std::int64_t size)
      : data_(size > 0 ? static_cast<T*>(device::runtime::allocate(device::bytes_of<T>(size)))
                       : nullptr),
        size_(size > 0 ? size : 0) {}
  device_buffer(device_buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  device_buffer& operator=(device_buffer&& other) noexcept {
    device_buffer taken(std::move(other));  // which is then empty, as what was moved from
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    return *this;
  }
  ~device_buffer() {
    if (data_) device::runtime::release(data_);
  }

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  std::int64_t bytes() const { return device::bytes_of<T>(size_); }
  /// So that it can be a batch's list.
  operator std::span<T const>() const {  // NOLINT(*explicit*)
    return {data_, static_cast<std::size_t>(size_)};
  }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
