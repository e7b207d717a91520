// What cudart's and cuBLAS's stand-ins share: work on streams, and memory that is looked at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "checks.hpp"
#include "memory.hpp"

namespace emulator {

using work = std::function<void()>;
/// How many were done until now.
inline u64 works = 0;
/// Does it now, or when what the stream records is replayed; false if there was a fault.
bool enqueue(void* stream, work what);
/// The array that p is in, nothing for other memory of the host. A fault if it ends before.
array* whole(void const* p, u64 bytes, char const* what);

}  // namespace emulator
