// Files of named tensors in the safetensors format: a strict reader, and an atomic writer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/number.hpp"
#include "atomic_file.hpp"
#include "tensor_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// The dtype of a scalar.
template <class S>
inline constexpr dtype dtype_of = [] {
  if constexpr (std::is_same_v<S, double>)
    return dtype::f64;
  else if constexpr (std::is_same_v<S, float>)
    return dtype::f32;
  else if constexpr (std::is_same_v<S, bf16>)
    return dtype::bf16;
  else if constexpr (std::is_same_v<S, fp16>)
    return dtype::f16;
  else {
    static_assert(std::is_same_v<S, std::int64_t>, "no dtype for this type");
    return dtype::i64;
  }
}();

/// A tensor in memory, its numbers side by side: to be written to a file, or read from one.
struct tensor_view {
  std::string name;
  finegrain::dtype type = finegrain::dtype::f32;
  std::vector<std::int64_t> shape;
  void* data = nullptr;
};

namespace detail {
/// The bytes of a header at most; of other readers too.
inline constexpr std::uint64_t most_header = 100'000'000;
}

/// An open file whose header has been checked. Numbers are read when asked for, by pread: a file
/// that changes meanwhile gives an error or other numbers, never a crash.
class safetensors_file {
 public:
  /// Throws file_error if the file cannot be read, or is not a valid safetensors file.
  FINEGRAIN_LAZY explicit safetensors_file(std::string path)
      : path_(std::move(path)), file_(path_) {
    std::int64_t const size = file_.size();
    if (size < 8)
      throw file_error("no safetensors file: %.300s has %lld bytes", path_.c_str(),
                       detail::shown(size));
    std::uint64_t length = 0;
    read_at(0, &length, 8);
    if (length > detail::most_header)
      throw file_error("no safetensors file: %.300s would have a header of %llu bytes",
                       path_.c_str(), static_cast<unsigned long long>(length));
    if (length > static_cast<std::uint64_t>(size - 8))
      throw file_error("cut short, or no safetensors file: %.300s has %lld bytes, its header %llu",
                       path_.c_str(), detail::shown(size), static_cast<unsigned long long>(length));
    begin_ = 8 + static_cast<std::int64_t>(length);
    std::string header(length, '\0');
    read_at(8, header.data(), begin_ - 8);
    table_ = read_table(header, size - begin_, path_.c_str());
  }

  std::string const& path() const { return path_; }
  std::vector<tensor_entry> const& tensors() const { return table_.tensors; }
  /// The tensor of a name, or null.
  tensor_entry const* find(std::string_view name) const {
    auto const& all = table_.tensors;
    auto const at = std::lower_bound(
        all.begin(), all.end(), name,
        [](tensor_entry const& entry, std::string_view wanted) { return entry.name < wanted; });
    return at != all.end() && at->name == name ? &*at : nullptr;
  }
  /// The text that __metadata__ holds under a name, or null.
  FINEGRAIN_LAZY std::string const* metadata(std::string_view name) const {
    for (auto const& [key, value] : table_.metadata)
      if (key == name) return &value;
    return nullptr;
  }
  /// All of a tensor's bytes, or so many from the first-th on.
  void read(tensor_entry const& entry, void* to) const {
    read(entry, to, 0, entry.end - entry.begin);
  }
  void read(tensor_entry const& entry, void* to, std::int64_t first, std::int64_t bytes) const {
    read_at(begin_ + entry.begin + first, to, bytes);
  }

 private:
  void read_at(std::int64_t offset, void* to, std::int64_t bytes) const {
    constexpr std::int64_t most = std::int64_t(1) << 30;  // Linux reads no more at a time
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      ssize_t const got =
          ::pread(file_, at, static_cast<std::size_t>(bytes < most ? bytes : most), offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_file_error("cannot read", path_, errno);
      if (got == 0)
        throw file_error("the file has become shorter, at byte %lld of %.300s",
                         detail::shown(offset), path_.c_str());
      at += got;
      offset += got;
      bytes -= got;
    }
  }

  std::string path_;
  input_file file_;
  std::int64_t begin_ = 0;  // of the data
  tensor_table table_;
};

namespace detail {

/// The header of a file with these tensors, in their order. Throws file_error where no file can have it:
/// names are UTF-8 and all different.
FINEGRAIN_LAZY inline std::string safetensors_header(
    std::string const& path, std::span<tensor_view const> tensors,
    std::span<std::pair<std::string, std::string> const> metadata) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (auto const& [key, value] : metadata) {
      if (&key != &metadata.front().first) header += ',';
      append_json(header, key);
      header += ':';
      append_json(header, value);
    }
    header += '}';
  }
  std::int64_t end = 0;
  for (tensor_view const& tensor : tensors) {
    if (header.size() > 1) header += ',';
    append_json(header, tensor.name);
    header += ":{\"dtype\":\"" + std::string(facts(tensor.type).name) + "\",\"shape\":[" +
              joined(tensor.shape, ",") + "],\"data_offsets\":[" + std::to_string(end) + ",";
    end += tensor_bytes(tensor.type, tensor.shape);
    header += std::to_string(end) + "]}";
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data starts on a border of 8 bytes
  if (header.size() > most_header)
    throw file_error("a header of %lld bytes, which is too long to be read again: %.300s",
                     shown(header.size()), path.c_str());
  static_cast<void>(read_table(header, end, path.c_str()));  // what is written can be read
  return header;
}

}  // namespace detail

/// Writes tensors in their order to a file that is then to be committed. Names are UTF-8 and all
/// different. numbers(i) is where those of tensor i are, when it is their turn.
template <class Numbers>
void write_safetensors(atomic_file& file, std::span<tensor_view const> tensors,
                       std::span<std::pair<std::string, std::string> const> metadata,
                       Numbers&& numbers) {
  std::string const header = detail::safetensors_header(file.path(), tensors, metadata);
  std::uint64_t const length = header.size();
  file.write(&length, 8);
  file.write(header.data(), header.size());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    file.write(numbers(i),
               static_cast<std::size_t>(tensor_bytes(tensors[i].type, tensors[i].shape)));
}
/// The same of a whole file, atomically: see atomic_file.
template <class Numbers>
void write_safetensors(std::string const& path, std::span<tensor_view const> tensors,
                       std::span<std::pair<std::string, std::string> const> metadata,
                       Numbers&& numbers) {
  atomic_file file(path);
  write_safetensors(file, tensors, metadata, numbers);
  file.commit();
}
/// The same of numbers that are all there.
FINEGRAIN_LAZY inline void write_safetensors(
    std::string const& path, std::span<tensor_view const> tensors,
    std::span<std::pair<std::string, std::string> const> metadata = {}) {
  write_safetensors(path, tensors, metadata, [&](std::size_t i) { return tensors[i].data; });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
