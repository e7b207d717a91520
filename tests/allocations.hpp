// Every allocation of the program whose one file includes this: that file is told of each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

/// Called ahead of every allocation, and may throw; the file that includes this defines it.
void allocating(std::size_t bytes);

void* allocate(std::size_t bytes, std::size_t border) {
  allocating(bytes);
  std::size_t const size = (bytes + border - 1) / border * border;
  if (void* const at = std::aligned_alloc(border, size > 0 ? size : border)) return at;
  throw std::bad_alloc();
}

}  // namespace

// (Not inlined: g++ would otherwise compare malloc's and new's names and warn.)
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  return allocate(bytes, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t border) {
  return allocate(bytes, static_cast<std::size_t>(border));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept {
  return std::malloc(bytes);  // the standard library's and the test framework's
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::align_val_t) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t, std::align_val_t) noexcept {
  std::free(at);
}
