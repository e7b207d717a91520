// Arrays of the device compared there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/base/number.hpp>

#include "memory.hpp"

namespace on_device {

/// How many 16 bytes of some pairs of arrays are not the same, counted on the device (device.cu).
class differences {
 public:
  differences();
  void add(device_buffer<fg::bf16> const& a, device_buffer<fg::bf16> const& b);
  std::int64_t count() const;

 private:
  device_buffer<unsigned long long> count_;
};

}  // namespace on_device
