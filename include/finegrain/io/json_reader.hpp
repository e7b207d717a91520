// json_reader: the tokens of JSON texts whose grammar is known, read strictly; and texts as JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../base/error.hpp"
#include "utf8.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace detail {

/// Appends a value as JSON: in quotes, with what must be escaped escaped.
inline void append_json(std::string& text, std::string_view value) {
  constexpr char digits[] = "0123456789abcdef";
  text += '"';
  for (char const c : value) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      text += "\\u00";
      text += digits[c >> 4];
      text += digits[c & 15];
    } else {
      text += c;
    }
  }
  text += '"';
}

/// A text, and a place in it. Whatever is wrong throws file_error with its byte in the file `path`, in
/// which the text begins at byte `first`.
class json_reader {
 public:
  json_reader(std::string_view text, char const* path, std::int64_t first = 0)
      : text_(text), path_(path), first_(first) {}

 protected:
  [[noreturn]] void fail(char const* reason) const { fail_at(reason, at_); }
  [[noreturn]] void fail_at(char const* reason, std::size_t at) const {
    throw file_error("%s, at byte %lld of %.300s", reason, shown(at) + first_, path_);
  }

  bool next_is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  void blank() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != text_.npos) ++at_;
  }
  void expect(char c, char const* otherwise) {
    blank();
    if (!next_is(c)) fail(otherwise);
    ++at_;
  }
  /// Nothing but blanks follows.
  void finish(char const* otherwise) {
    blank();
    if (at_ != text_.size()) fail(otherwise);
  }
  /// The members of an object whose { has been read, all of different names: f(key) reads each value.
  template <class F>
  void members(F&& f) {
    std::set<std::string> keys;
    listed('}', "a , or } is missing", [&] {
      std::size_t const first = at_;
      std::string key = string();
      if (!keys.insert(key).second) fail_at("a name occurs twice", first);
      expect(':', "a : is missing after a name");
      blank();
      f(std::move(key));
    });
  }
  /// The elements of an array whose [ has been read: f() reads each.
  template <class F>
  void elements(F&& f) {
    listed(']', "a , or ] is missing", f);
  }
  /// The numbers of an array, at most `most`.
  FINEGRAIN_LAZY std::vector<std::int64_t> numbers(std::size_t most, char const* otherwise) {
    std::vector<std::int64_t> list;
    expect('[', otherwise);
    elements([&] {
      if (list.size() == most) fail("the list of numbers is too long");
      list.push_back(number());
    });
    return list;
  }
  FINEGRAIN_LAZY std::int64_t number() {
    static_cast<void>(end_of_whole(at_, "a whole number from 0 up is missing"));
    return take<std::int64_t>("a number is too large");  // who expects , or ] finds a fraction
  }
  double real() {
    std::size_t const end = end_of_whole(at_ + next_is('-'), "a number is missing");
    if (text_.substr(end).starts_with('.') && !digit_at(end + 1))
      fail_at("a digit is missing after a point", end + 1);  // from_chars would do without
    return take<double>("a number is none that an f64 holds");
  }
  FINEGRAIN_LAZY std::string string() {
    if (!next_is('"')) fail("a \" is missing");
    ++at_;
    std::string value;
    for (;;) {
      if (at_ == text_.size()) fail("a string does not end");
      char const c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character stands in a string");
      ++at_;
      if (c == '"') return value;
      if (c == '\\')
        escape(value);
      else
        value += c;
    }
  }
  FINEGRAIN_LAZY void escape(std::string& value) {
    constexpr std::string_view codes = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    char const c = at_ < text_.size() ? text_[at_] : '\0';
    if (auto const which = codes.find(c); c != '\0' && which != codes.npos) {
      ++at_;
      value += meanings[which];
      return;
    }
    if (c != 'u') fail("an unknown escape stands in a string");
    ++at_;
    unsigned point = hexadecimal();
    if (point >= 0xdc00 && point < 0xe000) fail("half a surrogate pair stands in a string");
    if (point >= 0xd800 && point < 0xdc00) {
      if (text_.substr(at_, 2) != "\\u") fail("half a surrogate pair stands in a string");
      at_ += 2;
      unsigned const low = hexadecimal();
      if (low < 0xdc00 || low >= 0xe000) fail("half a surrogate pair stands in a string");
      point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(value, point);
  }
  FINEGRAIN_LAZY unsigned hexadecimal() {
    std::string_view const digits = text_.substr(at_, 4);
    unsigned value = 0;
    auto const read = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    auto const found = static_cast<std::size_t>(read.ptr - digits.data());
    if (found < 4) fail_at("four hexadecimal digits must follow \\u", at_ + found);
    at_ += 4;
    return value;
  }
  static void append_utf8(std::string& value, unsigned point) {
    auto const more = [&](unsigned shift) {
      value += static_cast<char>(0x80 | ((point >> shift) & 0x3f));
    };
    if (point < 0x80) {
      value += static_cast<char>(point);
    } else if (point < 0x800) {
      value += static_cast<char>(0xc0 | (point >> 6));
      more(0);
    } else if (point < 0x10000) {
      value += static_cast<char>(0xe0 | (point >> 12));
      more(6), more(0);
    } else {
      value += static_cast<char>(0xf0 | (point >> 18));
      more(12), more(6), more(0);
    }
  }
  /// The whole text is UTF-8.
  void check_utf8() const {
    for (std::size_t i = 0; i < text_.size();) {
      std::size_t const length = detail::character_length(text_.substr(i));
      if (length == 0) fail_at("the text is not UTF-8", i);
      i += length;
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;

 private:
  bool digit_at(std::size_t i) const {
    return i < text_.size() && text_[i] >= '0' && text_[i] <= '9';
  }
  /// Where a number's digits end that begin at `first`, without its fraction.
  std::size_t end_of_whole(std::size_t first, char const* otherwise) const {
    if (!digit_at(first)) fail(otherwise);
    if (text_[first] == '0' && digit_at(first + 1)) fail_at("a number begins with 0", first);
    std::size_t end = first;
    while (digit_at(end)) ++end;
    return end;
  }
  template <class N>
  N take(char const* otherwise) {
    N value = 0;
    char const* const from = text_.data() + at_;
    auto const read = std::from_chars(from, text_.data() + text_.size(), value);
    if (read.ec != std::errc{}) fail(otherwise);
    at_ += static_cast<std::size_t>(read.ptr - from);
    return value;
  }
  template <class F>
  void listed(char end, char const* otherwise, F&& f) {
    blank();
    if (next_is(end)) {
      ++at_;
      return;
    }
    do {
      blank();
      f();
      blank();
    } while (next_is(',') && ++at_);
    expect(end, otherwise);
  }

  char const* path_;
  std::int64_t first_;
};

}  // namespace detail
}  // namespace finegrain::inline FINEGRAIN_ABI
