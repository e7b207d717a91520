// weight_tensors: a network's weights as tensors of a file, and how a file's differ from them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../plan/weights.hpp"
#include "safetensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A file that holds something else than was to be loaded: what differs, one line for each tensor,
/// and of a published model for each number of its config. The sentence of the error shows the first few,
/// and says what the file holds.
struct mismatch : file_error {
  std::shared_ptr<std::vector<std::string> const> differences;

  FINEGRAIN_LAZY mismatch(std::string const& path, std::vector<std::string> list,
                          char const* held = "another model")
      : mismatch(path, std::make_shared<std::vector<std::string> const>(shown(std::move(list))),
                 held) {}

 private:
  mismatch(std::string const& path, std::shared_ptr<std::vector<std::string> const> list,
           char const* held)
      : file_error("%.150s holds %s (differences: %lld): %s", path.c_str(), held,
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

/// What the metadata of a checkpoint has as its format, and where the weights stand in it; and that of a
/// frozen network's file.
inline constexpr char const* checkpoint_format = "finegrain checkpoint 1";
inline constexpr char const* checkpoint_weights = "weights.";
inline constexpr char const* packed_format = "finegrain packed weights 1";

namespace detail {

/// Whether a file's metadata has a format, but for its version. Throws mismatch if that is another.
FINEGRAIN_LAZY inline bool has_format(safetensors_file const& file, char const* wanted) {
  std::string const* const format = file.metadata("format");
  std::string_view const name(wanted, std::string_view(wanted).rfind(' '));
  if (!format || !format->starts_with(name)) return false;
  if (*format == wanted) return true;
  throw mismatch(file.path(),
                 {"\"" + format->substr(0, 100) + "\" in the file, \"" + wanted + "\" here"},
                 "another version's numbers");
}
/// Whether a file is a checkpoint, or has packed weights. Throws mismatch if it is one of another version.
FINEGRAIN_LAZY inline bool is_checkpoint(safetensors_file const& file) {
  return has_format(file, checkpoint_format);
}
FINEGRAIN_LAZY inline bool is_packed(safetensors_file const& file) {
  return has_format(file, packed_format);
}

/// A line of a text, without its indentation, columns one space apart.
struct text_line {
  std::size_t indentation = 0;
  std::string words;
  bool operator==(text_line const&) const = default;
};
/// Takes the first line off a text; of an empty one, an empty line.
FINEGRAIN_LAZY inline text_line take_line(std::string_view& text) {
  text_line line;
  std::size_t const end = std::min(text.find('\n'), text.size());
  for (char const c : text.substr(0, end)) {
    if (c == ' ' && line.words.empty())
      ++line.indentation;
    else if (c != ' ' || line.words.back() != ' ')
      line.words += c;
  }
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

/// Where two descriptions differ, in a sentence: in the innermost stage. Empty if they do not. A file's
/// may have any number of lines: none is kept that is not shown.
FINEGRAIN_LAZY inline std::string difference(std::string_view file, std::string_view here) {
  std::optional<std::pair<text_line, text_line>> innermost;
  while (!file.empty() || !here.empty()) {
    text_line theirs = take_line(file), ours = take_line(here);
    if (theirs != ours && (!innermost || theirs.indentation > innermost->first.indentation))
      innermost.emplace(std::move(theirs), std::move(ours));
  }
  if (!innermost) return {};
  return "the architecture has \"" + innermost->first.words + "\" in the file, \"" +
         innermost->second.words + "\" here";
}

/// Adds to a list where the architecture that a file's metadata describes differs from one here.
FINEGRAIN_LAZY inline void compare_architectures(safetensors_file const& file,
                                                 std::string const& architecture,
                                                 std::vector<std::string>& differences) {
  std::string const* const theirs = file.metadata("architecture");
  std::string sentence =
      theirs ? difference(*theirs, architecture) : "the file names no architecture";
  if (!sentence.empty()) differences.push_back(std::move(sentence));
}

/// The tensors of these names in a file that has them all, of these formats and shapes, and no others; or
/// else how it differs, which is added to a list.
FINEGRAIN_LAZY inline std::vector<tensor_entry const*> find_tensors(
    safetensors_file const& file, std::span<tensor_view const> tensors,
    std::vector<std::string>& differences) {
  std::vector<bool> known(file.tensors().size());
  std::vector<tensor_entry const*> found;
  for (tensor_view const& tensor : tensors) {
    tensor_entry const* const entry = file.find(tensor.name);
    found.push_back(entry);
    if (entry) known[std::size_t(entry - file.tensors().data())] = true;
    if (!entry)
      differences.push_back(tensor.name + " is missing");
    else if (entry->type != tensor.type || entry->shape != tensor.shape)
      differences.push_back(tensor.name + " is " + form(*entry) + " in the file, " +
                            form(tensor.type, tensor.shape) + " here");
  }
  for (std::size_t i = 0; i < known.size(); ++i)
    if (!known[i]) differences.push_back(file.tensors()[i].name + " is unknown here");
  return found;
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
