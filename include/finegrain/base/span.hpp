// span: a pointer and a count as a std::span.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// `count` things from `first` on. Of std::span a compiler chooses a constructor wherever one is written,
/// which takes it as long as a file of ours; here, only where this is called.
template <class T>
constexpr std::span<T> span_of(T* first, std::int64_t count) {
  return {first, static_cast<std::size_t>(count)};
}

}  // namespace finegrain::inline FINEGRAIN_ABI
