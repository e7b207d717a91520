// buffer and arena: who owns memory, and how it is cut into views.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

#include "bounds.hpp"
#include "matrix.hpp"
#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Every array starts on such a border: a cache line, and the widest vector register.
inline constexpr std::int64_t alignment = 64;

namespace detail {

inline std::align_val_t border(std::size_t bytes) {
  return std::align_val_t(bytes >= 2 * large_page ? large_page : alignment);
}
/// Memory for numbers of `each` bytes; null for none.
FINEGRAIN_ONE_COPY inline void* allocate(std::int64_t numbers, std::size_t each) {
  if (numbers <= 0) return nullptr;
  if (numbers > INT64_MAX / static_cast<std::int64_t>(each)) throw std::bad_alloc();
  std::size_t const bytes = static_cast<std::size_t>(numbers) * each;
  void* const data = ::operator new(bytes, border(bytes));
  if (bytes >= 2 * large_page) ask_for_large_pages(data, bytes);
  return data;
}
FINEGRAIN_ONE_COPY inline void release(void* data, std::int64_t numbers, std::size_t each) {
  ::operator delete(data, border(static_cast<std::size_t>(numbers) * each));
}

}  // namespace detail

/// Uninitialised memory on a 64-byte border, owned; a large one lies in large pages where the system
/// has them, which are read faster. Throws std::bad_alloc. `std::byte` by default.
template <class T = std::byte>
class buffer {
  static_assert(std::is_trivially_destructible_v<T>, "a buffer holds plain numbers only");

 public:
  buffer() = default;
  explicit buffer(std::int64_t size)
      : data_(static_cast<T*>(detail::allocate(size, sizeof(T)))), size_(size > 0 ? size : 0) {}
  buffer(buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  buffer& operator=(buffer&& other) noexcept {
    buffer taken(std::move(other));  // which is then empty, as what was moved from
    std::swap(data_, taken.data_);
    std::swap(size_, taken.size_);
    return *this;
  }
  ~buffer() {
    if (data_) detail::release(data_, size_, sizeof(T));
  }

  T* data() const { return data_; }
  std::int64_t size() const { return size_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

/// Where an array stands in a block of memory: bytes [at, at + bytes).
struct array_place {
  std::int64_t at = 0, bytes = 0;
};

/// Cuts one block of memory into arrays, first to last. A default-constructed one only counts: that
/// is how sizes are computed, while compiling too, by the very code that later binds the pointers.
class arena {
 public:
  constexpr arena() = default;
  /// One that counts, and lists where each array stands that is not empty: arrays() places.
  constexpr explicit arena(array_place* list) : list_(list) {}
  constexpr arena(std::byte* memory, std::int64_t bytes)
      : memory_(memory), bytes_(bytes), counting_(false) {}

  template <class T>
  constexpr T* take(std::int64_t count) {
    std::byte* const place = take_bytes(count * static_cast<std::int64_t>(sizeof(T)));
    return place ? reinterpret_cast<T*>(place) : nullptr;
  }
  /// rows x cols, each row contiguous: stride == cols.
  template <class T>
  constexpr finegrain::matrix<T> matrix(std::int64_t rows, std::int64_t cols) {
    return {take<T>(rows * cols), rows, cols};
  }

  constexpr std::int64_t used() const { return used_; }
  /// The most that was in use at any time: rewinding to a mark does not lower it.
  constexpr std::int64_t peak() const { return peak_; }
  constexpr void rewind(std::int64_t mark) { used_ = mark; }
  /// Arrays that were taken, but for empty ones.
  constexpr std::int64_t arrays() const { return arrays_; }

 private:
  /// One copy: inlined, the many that a plan takes are more code than its arithmetic.
  FINEGRAIN_ONE_COPY constexpr std::byte* take_bytes(std::int64_t bytes) {
    std::int64_t const at = used_;
    used_ += ceil_div(bytes, alignment) * alignment;
    if (used_ > peak_) peak_ = used_;
    if (bytes > 0) {
      if (list_) list_[arrays_] = {at, bytes};
      ++arrays_;
    }
    if (counting_) return nullptr;
    if (used_ > bytes_)
      throw invalid_argument("the workspace holds %lld bytes and %lld are needed",
                             detail::shown(bytes_), detail::shown(used_));
    return memory_ + at;
  }

  std::byte* memory_ = nullptr;
  std::int64_t bytes_ = 0, used_ = 0, peak_ = 0, arrays_ = 0;
  bool counting_ = true;
  array_place* list_ = nullptr;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
