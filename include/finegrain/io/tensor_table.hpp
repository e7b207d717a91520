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

#include "json_reader.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Number formats of safetensors files; others are what the library reads nothing of.
enum class dtype {
  boolean,
  u8,
  i8,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64,
  other
};

/// A format's name in a file, and the bytes of one number; of others both are unknown.
struct dtype_facts {
  std::string_view name;
  std::int64_t bytes;
};
constexpr dtype_facts facts(dtype type) {
  constexpr dtype_facts of[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
      {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"", 0}};
  return of[static_cast<int>(type)];
}

/// One tensor of a file: its bytes are [begin, end) of the file's data, as many as its shape and dtype
/// say, where that is known.
struct tensor_entry {
  std::string name;
  finegrain::dtype type = finegrain::dtype::f32;
  std::string word{};  // the file's for a dtype of others
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

/// The sizes of a shape, with this between them.
FINEGRAIN_LAZY inline std::string joined(std::vector<std::int64_t> const& shape,
                                         char const* between) {
  std::string text;
  for (std::int64_t size : shape) {
    if (!text.empty()) text += between;  // g++ 12 warns of a sum that begins with a pointer
    text += std::to_string(size);
  }
  return text;
}

/// Reads the header's grammar, which is fixed: no recursion, no document in memory.
FINEGRAIN_LAZY class table_reader : json_reader {
 public:
  table_reader(std::string_view text, std::int64_t data_bytes, char const* path)
      : json_reader(text, path, 8), data_bytes_(data_bytes) {}

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
    finish("the header goes on after its closing }");
    check_places();
    sort_names();
    return std::move(table_);
  }

 private:
  void metadata() {
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
    int fields = 0;
    expect('{', "a tensor must be an object");
    members([&](std::string const& field) {
      if (field == "dtype") {
        entry.type = type(entry.word);
      } else if (field == "shape") {
        entry.shape = numbers(16, "shape must be a list of numbers");
      } else if (field == "data_offsets") {
        auto const place = numbers(2, "data_offsets must be a list of two numbers");
        if (place.size() != 2) fail("data_offsets must be a list of two numbers");
        entry.begin = place[0];
        entry.end = place[1];
      } else {
        fail("a tensor has a field that is not dtype, shape or data_offsets");
      }
      ++fields;
    });
    if (fields < 3) fail_at("a tensor needs dtype, shape and data_offsets", first);
    if (entry.begin > entry.end) fail_at("a tensor's data_offsets end before they begin", first);
    if (entry.end > data_bytes_)
      fail_at("cut short or damaged: the file ends before a tensor's data_offsets do", first);
    std::int64_t const bytes = tensor_bytes(entry.type, entry.shape);
    if (bytes < 0) fail_at("a tensor's shape is too large", first);
    if (bytes != entry.end - entry.begin && entry.type != dtype::other)
      fail_at("a tensor's shape and dtype do not give the bytes that it has", first);
    places_.push_back(first);
    table_.tensors.push_back(std::move(entry));
  }
  finegrain::dtype type(std::string& word) {
    std::size_t const first = at_;
    std::string name = string();
    if (name.empty()) fail_at("the dtype is empty", first);
    for (int i = 0; i < static_cast<int>(dtype::other); ++i)
      if (facts(static_cast<finegrain::dtype>(i)).name == name)
        return static_cast<finegrain::dtype>(i);
    word = std::move(name);
    return dtype::other;
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
      return table.tensors[a].name < table.tensors[b].name;
    });
    arrange(table_.tensors, order);

    order = in_order(table_.metadata.size(), [](auto& table, auto a, auto b) {
      return table.metadata[a].first < table.metadata[b].first;
    });
    arrange(table_.metadata, order);
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

  std::int64_t data_bytes_;
  tensor_table table_;
  std::vector<std::size_t> places_;  // where each tensor's object begins
};

}  // namespace detail

/// The table that a header describes, for a file whose data has so many bytes. Throws file_error
/// with the first thing that is wrong and its byte in the file, which is named `path` there.
FINEGRAIN_LAZY inline tensor_table read_table(std::string_view header, std::int64_t data_bytes,
                                              char const* path = "a header") {
  return detail::table_reader<>(header, data_bytes, path).read();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
