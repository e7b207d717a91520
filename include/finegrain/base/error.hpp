// The exceptions of finegrain. Each carries one sentence with the numbers that matter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// A whole number, as %lld takes it.
template <class N>
constexpr long long shown(N n) {
  return static_cast<long long>(n);
}

/// Names out of files may hold anything: what a terminal would obey is shown as ?, U+0080 to U+009F in
/// UTF-8 too.
inline void hide_controls(char* begin, char const* end) noexcept {
  auto const byte = [](char c) { return static_cast<unsigned char>(c); };
  for (; begin != end; ++begin) {
    bool const two = byte(*begin) == 0xc2 && begin + 1 != end && (byte(begin[1]) & 0xe0) == 0x80;
    if (two) *begin++ = '?';
    if (two || byte(*begin) < 0x20 || *begin == 0x7f) *begin = '?';
  }
}

}  // namespace detail

/// Base of every exception that the library throws (std::bad_alloc apart). The text is stored in
/// place, so that throwing allocates nothing beyond the exception itself; it is one line.
class error : public std::exception {
 public:
  FINEGRAIN_PRINTF(2, 3) explicit error(char const* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
  }
  char const* what() const noexcept override { return text_; }

 protected:
  error() noexcept = default;
  void print(char const* format, std::va_list arguments) noexcept {
    std::vsnprintf(text_, sizeof text_, format, arguments);
    detail::hide_controls(text_, text_ + std::strlen(text_));
  }

 private:
  char text_[512] = {};
};

/// A configuration that no layer can have: a compile error where it is constexpr.
struct invalid_config : error {
  explicit invalid_config(char const* sentence) noexcept : error("%s", sentence) {}
};

/// A call whose arguments do not fit: nothing was read or written.
struct invalid_argument : error {
  FINEGRAIN_PRINTF(2, 3) explicit invalid_argument(char const* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
  }
};

/// A file that cannot be read or written, or that does not hold what it should.
struct file_error : error {
  FINEGRAIN_PRINTF(2, 3) explicit file_error(char const* format, ...) noexcept {
    std::va_list arguments;
    va_start(arguments, format);
    print(format, arguments);
    va_end(arguments);
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
