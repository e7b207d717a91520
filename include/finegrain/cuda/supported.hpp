// What the cuda executor cannot do, each in a sentence.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What these kernels cannot do of what a config asks for: a sentence, or null.
constexpr char const* unsupported(config const& c) {
  // clang-format off
  if (c.hidden % 8 != 0 || c.width % 8 != 0) return "on cuda, hidden and width must be multiples of 8";
  if (c.routed > 1024) return "on cuda, a layer has at most 1024 routed experts";
  // clang-format on
  return nullptr;
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
