// weight_tensors: a network's weights as tensors of a file, and how a file's differ from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../plan/weights.hpp"
#include "safetensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A file that holds something else than was to be loaded: what differs, one line for each tensor,
/// and of a published model for each number of its config. The sentence of the error shows the first few.
struct mismatch : file_error {
  std::shared_ptr<std::vector<std::string> const> differences;

  FINEGRAIN_LAZY mismatch(std::string const& path, std::vector<std::string> list)
      : mismatch(path, std::make_shared<std::vector<std::string> const>(shown(std::move(list)))) {}

 private:
  mismatch(std::string const& path, std::shared_ptr<std::vector<std::string> const> list)
      : file_error("%.150s holds another model (differences: %lld): %s", path.c_str(),
                   detail::shown(list->size()), first_of(*list).c_str()),
        differences(std::move(list)) {}
  static std::string first_of(std::vector<std::string> const& list) {
    std::string text;
    for (std::size_t i = 0; i < list.size() && text.size() < 300; ++i)
      text += (i > 0 ? "; " : "") + list[i];
    return text;
  }
  static std::vector<std::string> shown(std::vector<std::string> list) {
    for (std::string& line : list) detail::hide_controls(line.data(), line.data() + line.size());
    return list;
  }
};

namespace detail {

/// As a difference has it: F32 [64, 32].
FINEGRAIN_LAZY inline std::string form(dtype type, std::vector<std::int64_t> const& shape) {
  return std::string(facts(type).name) + " [" + joined(shape, ", ") + "]";
}
FINEGRAIN_LAZY inline std::string form(tensor_entry const& entry) {
  return entry.word + form(entry.type, entry.shape);
}

}  // namespace detail

/// The shape of a weight's tensor in a file: a matrix [out, in], a gain or a bias [n].
inline std::vector<std::int64_t> tensor_shape(weight_entry const& weight) {
  if (weight.role == role::projection) return {weight.rows, weight.cols};
  return {weight.rows * weight.cols};
}

/// Appends the weights of a list as tensors, cut out of the array that holds them.
template <class S>
void list_tensors(std::vector<weight_entry> const& weights, char const* prefix, S* numbers,
                  std::vector<tensor_view>& tensors) {
  for (weight_entry const& weight : weights)
    tensors.push_back({prefix + weight.name, dtype_of<std::remove_const_t<S>>, tensor_shape(weight),
                       const_cast<std::remove_const_t<S>*>(numbers) + weight.offset});
}

/// What the metadata of a checkpoint has as its format, and where the weights stand in it.
inline constexpr char const* checkpoint_format = "finegrain checkpoint 1";
inline constexpr char const* checkpoint_weights = "weights.";

namespace detail {

/// Whether a file is a checkpoint. Throws file_error if it is one of another version.
FINEGRAIN_LAZY inline bool is_checkpoint(safetensors_file const& file) {
  std::string const* const format = file.metadata("format");
  if (!format || !format->starts_with("finegrain checkpoint")) return false;
  if (*format == checkpoint_format) return true;
  throw file_error("%.200s is a \"%.100s\", and only \"%s\" can be read", file.path().c_str(),
                   format->c_str(), checkpoint_format);
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
