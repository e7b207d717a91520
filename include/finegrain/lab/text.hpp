// Numbers as text, the same in every locale; texts measured, fingerprinted and escaped.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

#include "../base/platform.hpp"
#include "../io/utf8.hpp"

namespace finegrain::inline FINEGRAIN_ABI::text {

/// With so many digits after the point: fixed(2.5, 2) is "2.50". What would be very long is in powers
/// of ten.
inline std::string fixed(double value, int digits) {
  char text[64];
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (std::fabs(value) < 1e30) {
    auto const end =
        std::to_chars(text, text + sizeof text, value, std::chars_format::fixed, digits);
    if (end.ec == std::errc{}) return {text, end.ptr};
  }
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

/// With so many significant digits, 17 at most, and in powers of ten where that is shorter:
/// significant(1.5e-9, 2) is "1.5e-09".
inline std::string significant(double value, int digits) {
  char text[64];
  return {text, std::to_chars(text, text + sizeof text, value, std::chars_format::general,
                              digits < 17 ? digits : 17)
                    .ptr};
}

/// The shortest text that reads back as the same bits; NaN has no sign.
inline std::string shortest(double value) {
  char text[64];
  if (std::isnan(value)) return "nan";
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

/// In three digits and a unit: 1.57 M, 842, 12.3 G.
inline std::string rounded(double value) {
  char const* const units[] = {"", " k", " M", " G", " T", " P"};
  int unit = 0;
  value += 0.0;  // no "-0"
  while (std::fabs(value) >= 999.5 && unit < 5) value /= 1000, ++unit;
  if (unit == 0 && value == std::floor(value)) return fixed(value, 0);
  double const size = std::fabs(value);
  return fixed(value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0) + units[unit];
}

/// The same without zeros that end it: 5 k, 2.5 k.
inline std::string shortened(double value) {
  std::string text = rounded(value);
  std::size_t const unit = std::min(text.find(' '), text.size());
  if (text.find('.') > unit) return text;
  std::size_t const last = text.find_last_not_of('0', unit - 1);
  return text.erase(text[last] == '.' ? last : last + 1, unit - last - (text[last] != '.'));
}

/// A time as a person says it: 7 s, 2 min 05 s, 3 h 10 min.
inline std::string duration(double seconds) {
  auto const s = static_cast<std::int64_t>(seconds < 0 ? 0 : seconds + 0.5);
  auto const two = [](std::int64_t n) {
    return std::string(n < 10 ? "0" : "") + std::to_string(n);
  };
  if (s < 60) return std::to_string(s) + " s";
  if (s < 3600) return std::to_string(s / 60) + " min " + two(s % 60) + " s";
  return std::to_string(s / 3600) + " h " + two(s / 60 % 60) + " min";
}

/// Characters that a reader sees in UTF-8: bytes that do not continue one.
inline std::size_t width(std::string_view text) {
  std::size_t n = 0;
  for (char c : text) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return n;
}

/// 64 bits that stand for a text (FNV-1a, mixed): equal texts, equal numbers, on every machine.
constexpr std::uint64_t fingerprint(std::string_view text) {
  std::uint64_t bits = 0xcbf29ce484222325u;
  for (char c : text) bits = (bits ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  return bits ^ (bits >> 31);
}

/// 16 hexadecimal digits.
inline std::string hex(std::uint64_t bits) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, bits >>= 4)
    text[static_cast<std::size_t>(i)] = "0123456789abcdef"[bits & 15];
  return text;
}

/// Words as HTML and XML may have them: without controls, and U+FFFD in the place of what is no character.
inline std::string escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    std::size_t const length = detail::character_length(text);
    std::string_view const c = text.substr(0, std::max<std::size_t>(length, 1));
    if (length == 0 || c == "\xef\xbf\xbe" || c == "\xef\xbf\xbf")
      out += "\xef\xbf\xbd";
    else if (c == "&")
      out += "&amp;";
    else if (c == "<")
      out += "&lt;";
    else if (c == ">")
      out += "&gt;";
    else if (c == "\"")
      out += "&quot;";
    else if (c == "\n" || c == "\t" || c == "\r")
      out += ' ';  // it stood between words
    else if (static_cast<unsigned char>(c[0]) >= 0x20)
      out += c;
    text.remove_prefix(c.size());
  }
  return out;
}

}  // namespace finegrain::inline FINEGRAIN_ABI::text
