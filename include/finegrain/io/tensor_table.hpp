// tensor_table: what a safetensors file says it holds, read strictly.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Number formats of safetensors files.
enum class dtype {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64
};

struct dtype_facts {
  std::string_view name;
  std::int64_t bytes;
};
constexpr dtype_facts facts(dtype type) {
  constexpr dtype_facts of[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
                                {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  return of[static_cast<int>(type)];
}

/// One tensor of a file: its bytes are [begin, end) of the file's data.
struct tensor_entry {
  std::string name;
  finegrain::dtype type = finegrain::dtype::f32;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;
};

/// A file's header, sorted by name. Together the tensors are the file's data, without a hole, an
/// overlap or a tail.
struct tensor_table {
  std::vector<tensor_entry> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;
};

/// Bytes that a tensor needs, or -1 if an int64 cannot hold the number.
inline std::int64_t tensor_bytes(dtype type, std::vector<std::int64_t> const& shape) {
  std::int64_t bytes = facts(type).bytes;
  for (std::int64_t size : shape) {
    if (size != 0 && bytes > std::numeric_limits<std::int64_t>::max() / size) return -1;
    bytes *= size;
  }
  return bytes;
}

namespace detail {

/// Reads the header's grammar, which is fixed: no recursion, no document in memory.
class table_reader {
 public:
  table_reader(std::string_view text, std::int64_t data_bytes, char const* path)
      : text_(text), data_bytes_(data_bytes), path_(path) {}

  tensor_table read() {
    if (text_.empty() || text_[0] != '{') fail("the header does not begin with {");
    check_utf8();
    ++at_;
    members([&](std::string name) {
      if (name == "__metadata__")
        metadata();
      else
        tensor(std::move(name));
    });
    blank();
    if (at_ != text_.size()) fail("the header goes on after its closing }");
    check_places();
    sort_names();
    return std::move(table_);
  }

 private:
  [[noreturn]] void fail(char const* reason) const { fail_at(reason, at_); }
  [[noreturn]] void fail_at(char const* reason, std::size_t at) const {
    throw file_error("%s, at byte %lld of %.300s", reason, static_cast<long long>(at) + 8, path_);
  }

  // ---- tokens ----------------------------------------------------------------------------------

  bool next_is(char c) const { return at_ < text_.size() && text_[at_] == c; }
  void blank() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != text_.npos) ++at_;
  }
  void expect(char c, char const* otherwise) {
    blank();
    if (!next_is(c)) fail(otherwise);
    ++at_;
  }
  /// The members of an object whose { has been read: f(key) reads each value.
  template <class F>
  void members(F&& f) {
    blank();
    if (next_is('}')) {
      ++at_;
      return;
    }
    for (;;) {
      blank();
      std::string key = string();
      expect(':', "a : is missing after a name");
      blank();
      f(std::move(key));
      blank();
      if (!next_is(',')) break;
      ++at_;
    }
    expect('}', "a , or } is missing");
  }
  /// The numbers of an array, at most `most`.
  std::vector<std::int64_t> numbers(std::size_t most, char const* otherwise) {
    std::vector<std::int64_t> list;
    expect('[', otherwise);
    blank();
    if (next_is(']')) {
      ++at_;
      return list;
    }
    for (;;) {
      blank();
      if (list.size() == most) fail("the list of numbers is too long");
      list.push_back(number());
      blank();
      if (!next_is(',')) break;
      ++at_;
    }
    expect(']', "a , or ] is missing");
    return list;
  }
  std::int64_t number() {
    std::size_t const first = at_;
    std::int64_t value = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      int const digit = text_[at_] - '0';
      if (value > (std::numeric_limits<std::int64_t>::max() - digit) / 10)
        fail_at("a number is too large", first);
      value = value * 10 + digit;
    }
    if (at_ == first) fail("a whole number from 0 up is missing");
    if (text_[first] == '0' && at_ > first + 1) fail_at("a number begins with 0", first);
    return value;  // a fraction or an exponent is found by whoever expects , or ]
  }
  std::string string() {
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
  void escape(std::string& value) {
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
  unsigned hexadecimal() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      char const c = at_ < text_.size() ? text_[at_] : '\0';
      unsigned const digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                             : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a' + 10)
                             : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                                                    : 16;
      if (digit == 16) fail("four hexadecimal digits must follow \\u");
      value = value * 16 + digit;
    }
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
  /// The whole header is UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
  void check_utf8() const {
    for (std::size_t i = 0; i < text_.size();) {
      auto const byte = [&](std::size_t k) {
        return i + k < text_.size() ? static_cast<unsigned char>(text_[i + k]) : 0u;
      };
      unsigned const c = byte(0);
      std::size_t const length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
      unsigned const least = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  // of the second byte
      unsigned const most = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
      bool valid = length > 0 && c <= 0xf4;
      if (length > 1) valid &= byte(1) >= least && byte(1) <= most;
      for (std::size_t k = 2; k < length; ++k) valid &= (byte(k) & 0xc0) == 0x80;
      if (!valid) fail_at("the header is not UTF-8", i);
      i += length;
    }
  }

  // ---- members ---------------------------------------------------------------------------------

  void metadata() {
    if (metadata_place_ > 0) fail("__metadata__ occurs twice");
    metadata_place_ = at_;
    expect('{', "__metadata__ must be an object of strings");
    members([&](std::string key) {
      if (!next_is('"')) fail("__metadata__ must be an object of strings");
      table_.metadata.emplace_back(std::move(key), string());
    });
  }
  void tensor(std::string name) {
    std::size_t const first = at_;
    tensor_entry entry;
    entry.name = std::move(name);
    bool has_type = false, has_shape = false, has_place = false;
    auto const once = [&](bool& has) {
      if (std::exchange(has, true)) fail("a tensor's field occurs twice");
    };
    expect('{', "a tensor must be an object");
    members([&](std::string const& field) {
      if (field == "dtype") {
        once(has_type);
        entry.type = type();
      } else if (field == "shape") {
        once(has_shape);
        entry.shape = numbers(16, "shape must be a list of numbers");
      } else if (field == "data_offsets") {
        once(has_place);
        auto const place = numbers(2, "data_offsets must be a list of two numbers");
        if (place.size() != 2) fail("data_offsets must be a list of two numbers");
        entry.begin = place[0];
        entry.end = place[1];
      } else {
        fail("a tensor has a field that is not dtype, shape or data_offsets");
      }
    });
    if (!has_type || !has_shape || !has_place)
      fail_at("a tensor needs dtype, shape and data_offsets", first);
    if (entry.begin > entry.end || entry.end > data_bytes_)
      fail_at("a tensor's data_offsets lie outside the file", first);
    std::int64_t const bytes = tensor_bytes(entry.type, entry.shape);
    if (bytes < 0) fail_at("a tensor's shape is too large", first);
    if (bytes != entry.end - entry.begin)
      fail_at("a tensor's shape and dtype do not give the bytes that it has", first);
    places_.push_back(first);
    table_.tensors.push_back(std::move(entry));
  }
  finegrain::dtype type() {
    std::size_t const first = at_;
    std::string const name = string();
    for (int i = 0; i <= static_cast<int>(dtype::f64); ++i)
      if (facts(static_cast<finegrain::dtype>(i)).name == name)
        return static_cast<finegrain::dtype>(i);
    fail_at("the dtype is unknown", first);
  }

  // ---- the table as a whole --------------------------------------------------------------------

  /// No hole, no overlap, no tail.
  void check_places() const {
    auto const order = in_order(table_.tensors.size(), [](auto& table, auto a, auto b) {
      tensor_entry const &left = table.tensors[a], &right = table.tensors[b];
      return left.begin != right.begin ? left.begin < right.begin : left.end < right.end;
    });
    std::int64_t end = 0;
    for (std::size_t i : order) {
      if (table_.tensors[i].begin < end) fail_at("two tensors overlap", places_[i]);
      if (table_.tensors[i].begin > end) fail_at("a hole lies before a tensor", places_[i]);
      end = table_.tensors[i].end;
    }
    if (end != data_bytes_)
      fail_at("bytes that no tensor owns follow the tensors",
              text_.size() + static_cast<std::size_t>(end));
  }
  void sort_names() {
    auto order = in_order(table_.tensors.size(), [](auto& table, auto a, auto b) {
      int const names = table.tensors[a].name.compare(table.tensors[b].name);
      return names != 0 ? names < 0 : a < b;
    });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (table_.tensors[order[i]].name == table_.tensors[order[i - 1]].name)
        fail_at("a tensor's name occurs twice", places_[order[i]]);
    arrange(table_.tensors, order);

    order = in_order(table_.metadata.size(), [](auto& table, auto a, auto b) {
      return table.metadata[a].first < table.metadata[b].first;
    });
    arrange(table_.metadata, order);
    for (std::size_t i = 1; i < table_.metadata.size(); ++i)
      if (table_.metadata[i].first == table_.metadata[i - 1].first)
        fail_at("a name occurs twice in __metadata__", metadata_place_);
  }
  /// The numbers below `count`, in an order that the table gives them.
  std::vector<std::size_t> in_order(std::size_t count,
                                    bool (*before)(tensor_table const&, std::size_t,
                                                   std::size_t)) const {
    std::vector<std::size_t> order(count);
    for (std::size_t i = 0; i < count; ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return before(table_, a, b); });
    return order;
  }
  template <class T>
  static void arrange(std::vector<T>& list, std::vector<std::size_t> const& order) {
    std::vector<T> arranged;
    arranged.reserve(order.size());
    for (std::size_t i : order) arranged.push_back(std::move(list[i]));
    list = std::move(arranged);
  }

  std::string_view text_;
  std::int64_t data_bytes_;
  char const* path_;
  std::size_t at_ = 0;
  tensor_table table_;
  std::vector<std::size_t> places_;  // where each tensor's object begins
  std::size_t metadata_place_ = 0;
};

}  // namespace detail

/// The table that a header describes, for a file whose data has so many bytes. Throws file_error
/// with the first thing that is wrong and its byte in the file, which is named `path` there.
inline tensor_table read_table(std::string_view header, std::int64_t data_bytes,
                               char const* path = "a header") {
  return detail::table_reader(header, data_bytes, path).read();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
