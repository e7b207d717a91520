// tensor_files: a model's tensors, in one safetensors file or in several that an index lists.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "safetensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Reads an index: {"weight_map": {"tensor": "file", ...}}, and whatever else, which is passed over.
FINEGRAIN_LAZY class index_reader : json_reader {
 public:
  using json_reader::json_reader;

  /// Pairs of a tensor's name and its file's.
  std::vector<std::pair<std::string, std::string>> read() {
    check_utf8();
    bool found = false;
    expect('{', "the index does not begin with {");
    members([&](std::string const& key) {
      if (key != "weight_map") return skip(0);
      found = true;
      expect('{', "weight_map must be an object of strings");
      members([&](std::string tensor) {
        std::size_t const first = at_;
        std::string file = string();
        if (file.find('/') != file.npos)
          fail_at("a file of an index must stand in the same folder", first);
        if (file.find('\0') != file.npos)  // the system would open what is named by the rest
          fail_at("the name of a file of an index has a zero byte", first);
        map_.emplace_back(std::move(tensor), std::move(file));
      });
    });
    finish("the index goes on after its closing }");
    if (!found) fail("the index has no weight_map");
    return std::move(map_);
  }

 private:
  void skip(int depth) {
    if (depth == 32) fail("the index is nested too deeply");
    if (next_is('"')) {
      string();
    } else if (next_is('{')) {
      ++at_;
      members([&](std::string const&) { skip(depth + 1); });
    } else if (next_is('[')) {
      ++at_;
      elements([&] { skip(depth + 1); });
    } else {
      std::size_t const first = at_;
      while (at_ < text_.size() && std::string_view(" \t\n\r,]}").find(text_[at_]) == text_.npos)
        ++at_;
      if (at_ == first) fail("a value is missing");
    }
  }

  std::vector<std::pair<std::string, std::string>> map_;
};

/// What the index of several files is called that stand in the place of one.
inline std::string index_of(std::string const& file) { return file + ".index.json"; }
/// Throws file_error where one file would stand beside an index of several: which of the two is meant
/// then, nobody could tell.
inline void check_no_index(std::string const& file) {
  if (std::string const index = index_of(file); exists(index))
    throw file_error("%.300s is there: the model would stand in one file and in others",
                     index.c_str());
}

}  // namespace detail

/// A tensor of one of several files.
struct placed_tensor {
  safetensors_file const* file;
  tensor_entry const* entry;
};

/// The tensors of a model as it is published: a safetensors file, an index of several (a name that ends
/// in .json), or a folder that has model.safetensors or model.safetensors.index.json.
class tensor_files {
 public:
  /// Throws file_error if a file cannot be read or is not valid, if the index names a tensor that its
  /// file has not, if two files have tensors of one name, or if a folder has none or both of those two.
  FINEGRAIN_LAZY explicit tensor_files(std::string path) : path_(std::move(path)) {
    if (detail::is_folder(path_)) path_ = in_folder(path_);
    if (path_.ends_with(".json"))
      open_listed();
    else
      add(path_);
    auto const name_of = [](placed_tensor const& t) -> std::string const& { return t.entry->name; };
    std::sort(tensors_.begin(), tensors_.end(),
              [&](auto const& a, auto const& b) { return name_of(a) < name_of(b); });
    for (std::size_t i = 1; i < tensors_.size(); ++i)
      if (name_of(tensors_[i - 1]) == name_of(tensors_[i]))
        throw file_error("%.200s is both in %.150s and in %.150s", name_of(tensors_[i]).c_str(),
                         tensors_[i - 1].file->path().c_str(), tensors_[i].file->path().c_str());
  }

  std::string const& path() const { return path_; }
  /// Where the files stand: empty, or with a / at its end.
  std::string folder() const { return path_.substr(0, path_.rfind('/') + 1); }
  std::list<safetensors_file> const& files() const { return files_; }
  /// All of them, sorted by name.
  std::vector<placed_tensor> const& tensors() const { return tensors_; }
  /// The tensor of a name, or null.
  placed_tensor const* find(std::string_view name) const {
    placed_tensor const* const at = from(name);
    return at && at->entry->name == name ? at : nullptr;
  }
  /// Whether the name of any begins so.
  bool any(std::string_view begin) const {
    placed_tensor const* const at = from(begin);
    return at && at->entry->name.starts_with(begin);
  }

 private:
  /// The single file of a folder, or the index.
  static std::string in_folder(std::string const& folder) {
    std::string const single = folder + "/model.safetensors", index = detail::index_of(single);
    bool const listed = detail::exists(index);
    if (listed == detail::exists(single))
      throw file_error(listed ? "%.300s has model.safetensors and an index: give one of the two"
                              : "%.300s has neither model.safetensors nor its index, "
                                "model.safetensors.index.json",
                       folder.c_str());
    return listed ? index : single;
  }
  /// The first whose name is not before this one, or null.
  placed_tensor const* from(std::string_view name) const {
    auto const at = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](placed_tensor const& t, std::string_view wanted) { return t.entry->name < wanted; });
    return at != tensors_.end() ? &*at : nullptr;
  }
  FINEGRAIN_LAZY safetensors_file const& add(std::string const& path) {
    safetensors_file const& file = files_.emplace_back(path);
    for (tensor_entry const& entry : file.tensors()) tensors_.push_back({&file, &entry});
    return file;
  }
  FINEGRAIN_LAZY void open_listed() {
    auto map = detail::index_reader<>(detail::text_of(path_, 100), path_.c_str()).read();
    std::sort(map.begin(), map.end(),
              [](auto const& a, auto const& b) { return a.second < b.second; });
    safetensors_file const* file = nullptr;
    std::string const* opened = nullptr;
    for (auto const& [tensor, name] : map) {
      if (!opened || *opened != name) {
        file = &add(folder() + name);
        opened = &name;
      }
      if (!file->find(tensor))
        throw file_error("%.200s is not in %.150s, where %.150s has it", tensor.c_str(),
                         file->path().c_str(), path_.c_str());
    }
  }

  std::string path_;
  std::list<safetensors_file> files_;
  std::vector<placed_tensor> tensors_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
