// weight_finder: which tensors of files a network's weights are, and how the files differ from these.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stored_weights.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// What a tensor's scales may be called: of "x.weight", V3's "x.weight_scale_inv" or V4's "x.scale".
inline std::vector<std::string> names_of_scales(std::string const& theirs) {
  std::string_view const weight = "weight";
  std::vector<std::string> names{theirs + "_scale_inv"};
  if (theirs.ends_with(weight))
    names.push_back(theirs.substr(0, theirs.size() - weight.size()) + "scale");
  return names;
}
/// The scales beside a tensor, or null.
inline placed_tensor const* scales_of(tensor_files const& files, std::string const& theirs) {
  for (std::string const& name : names_of_scales(theirs))
    if (auto const* const scales = files.find(name)) return scales;
  return nullptr;
}

/// Whether two tensors have the same numbers, in the same type.
inline bool same_numbers(placed_tensor const& a, placed_tensor const& b) {
  if (a.entry->type != b.entry->type || a.entry->shape != b.entry->shape) return false;
  constexpr std::int64_t most = 1 << 20;  // bytes at a time
  std::vector<std::byte> left(most), right(most);
  std::int64_t const bytes = a.entry->end - a.entry->begin;
  for (std::int64_t first = 0; first < bytes; first += most) {
    std::int64_t const some = std::min(most, bytes - first);
    a.file->read(*a.entry, left.data(), first, some);
    b.file->read(*b.entry, right.data(), first, some);
    if (!std::equal(left.begin(), left.begin() + some, right.begin())) return false;
  }
  return true;
}

/// The file, if it has packed weights, or null. Throws file_error where one that has them is one of several.
FINEGRAIN_LAZY inline safetensors_file const* packed_file(tensor_files const& files) {
  for (safetensors_file const& file : files.files()) {
    if (!is_packed(file)) continue;
    if (files.files().size() == 1) return &file;
    throw file_error(
        "%.150s holds packed weights, which stand in one file, and is one of %lld that %.150s "
        "lists",
        file.path().c_str(), shown(files.files().size()), files.path().c_str());
  }
  return nullptr;
}

/// How the tensors of files are called, and what may stand among those of a network's weights.
struct tensor_naming {
  virtual ~tensor_naming() = default;
  /// Of a weight, "experts.3.up", or of all that it may be a part of, "experts.gate_up" (among_experts). Empty
  /// if it has no name.
  virtual std::string name(std::string const& ours) const = 0;
  /// Of a tensor that may have a weight's numbers once more. Empty if there is none.
  virtual std::string copy_of(std::string const&) const { return {}; }
  /// Whether a tensor that is not known may be there.
  virtual bool may_hold(std::string const& theirs, std::set<std::string> const& known) const = 0;
};

/// Finds the weights of a list in files. It goes on where something differs, to say all that does.
FINEGRAIN_LAZY class weight_finder {
 public:
  /// What is said to differ begins with the differences known before. Throws file_error for packed weights.
  weight_finder(tensor_files const& files, std::vector<weight_entry> const& entries,
                tensor_naming const& naming, std::vector<std::string> differences)
      : files_(files), entries_(entries), naming_(naming), differences_(std::move(differences)) {
    if (safetensors_file const* const packed = packed_file(files))
      throw file_error(
          "%.300s holds packed weights: load_weights<N>(path) reads it, N the type of the frozen "
          "network that was saved",
          packed->path().c_str());
    for (weight_entry const& entry : entries)
      if (auto const in = among_experts(entry.name)) {
        std::int64_t& count = experts_[in->first];
        count = std::max(count, in->second.expert + 1);
      }
  }

  /// All weights, in the list's order. Throws mismatch.
  std::vector<stored_weight> find() && {
    std::size_t const before = differences_.size();
    for (weight_entry const& entry : entries_) {
      candidate const at = locate(entry);
      if (!is_there(at)) continue;
      check_form(at);
      check_scales(at);
      check_copy(at);
      found_.push_back(at.weight);
    }
    if (found_.empty() && !entries_.empty() && !files_.tensors().empty())
      differences_[before] += ", and none of the others is there: the file has, for example, " +
                              files_.tensors()[0].entry->name;
    report_unknown();
    if (!differences_.empty()) throw mismatch(files_.path(), std::move(differences_));
    return std::move(found_);
  }

 private:
  /// A tensor that has a weight, or should: its names in the file and here.
  struct candidate {
    stored_weight weight;
    std::string theirs, ours;

    bool is_part() const { return ours != weight.to->name; }
    dtype type() const { return weight.numbers->entry->type; }
    bool is_fp4_matrix() const {
      return is_fp4(type()) && weight.to->role == role::projection && weight.to->cols % 2 == 0 &&
             weight.scales && weight.scales->entry->type == dtype::f8_e8m0;
    }
    bool is_integer_table() const {
      return weight.to->role == role::table && (type() == dtype::i64 || type() == dtype::i32);
    }
  };

  /// The weight's own tensor, or, where there is none, the one of which it would be a part.
  candidate locate(weight_entry const& entry) const {
    candidate at;
    at.weight.to = &entry;
    at.ours = entry.name;
    at.theirs = naming_.name(at.ours);
    at.weight.numbers = files_.find(at.theirs);
    if (auto const in = among_experts(entry.name); in && !at.weight.numbers) {
      std::string all = naming_.name(in->first);
      at.weight.numbers = files_.find(all);
      if (at.weight.numbers || at.theirs.empty()) {
        at.theirs = std::move(all);
        at.ours = in->first;
        at.weight.of = in->second;
      }
    }
    if (at.weight.numbers && (at.type() == dtype::f8_e4m3 || is_fp4(at.type())))
      at.weight.scales = scales_of(files_, at.theirs);
    return at;
  }

  bool is_there(candidate const& at) {
    if (at.theirs.empty()) {
      differs(at.weight.to->name + " has no published name");
      return false;
    }
    known_.insert(at.theirs);
    if (!at.weight.numbers)
      differs(at.theirs + (at.ours == at.theirs ? "" : ", here " + at.ours + ",") + " is missing");
    return at.weight.numbers != nullptr;
  }

  void check_form(candidate const& at) {
    bool const fp4 = at.is_fp4_matrix();
    bool const readable = fp4 || at.is_integer_table() || is_number(at.type());
    compare(*at.weight.numbers, shape_of(at), at.ours, readable,
            fp4 ? "two numbers each" : "numbers");
  }
  /// The shape that a weight's tensor must have.
  std::vector<std::int64_t> shape_of(candidate const& at) const {
    weight_entry const& entry = *at.weight.to;
    if (at.is_integer_table()) return {entry.rows, entry.cols};
    auto shape =
        at.is_part() ? at.weight.of.shape(experts_.at(at.ours), entry) : tensor_shape(entry);
    if (at.is_fp4_matrix()) shape.back() /= 2;
    // a gain or a bias may be a matrix of one row, as ERNIE 4.5's
    auto const& theirs = at.weight.numbers->entry->shape;
    if (shape.size() == 1 && theirs.size() == 2 && theirs[0] == 1) shape.insert(shape.begin(), 1);
    return shape;
  }

  void check_scales(candidate const& at) {
    placed_tensor const* const scales = at.weight.scales;
    bool const fp8 = at.type() == dtype::f8_e4m3;
    if (fp8 && at.weight.to->role != role::projection) {
      differs(at.theirs + " is F8_E4M3, which is read of matrices alone");
    } else if (fp8 && !scales) {
      auto const names = names_of_scales(at.theirs);
      differs(at.theirs + " is F8_E4M3 without scales: there is no " + names[0] +
              (names.size() > 1 ? " or " + names[1] : ""));
    } else if (scales) {
      std::vector<std::int64_t> shape;
      if (at.weight.of.of_experts) shape.push_back(experts_.at(at.ours));
      auto const [down, across] = at.weight.blocks();
      shape.insert(shape.end(), {down, across});
      compare(*scales, shape, "the scales of " + at.ours, is_number(scales->entry->type));
      known_.insert(scales->entry->name);
    }
  }

  void check_copy(candidate const& at) {
    std::string const name = naming_.copy_of(at.weight.to->name);
    if (name.empty()) return;
    known_.insert(name);
    placed_tensor const* const copy = files_.find(name);
    if (copy && !same_numbers(*copy, *at.weight.numbers))
      differs(name + " is not " + at.theirs + " in the file, and here they are one");
  }

  void report_unknown() {
    for (placed_tensor const& t : files_.tensors())
      if (std::string const& theirs = t.entry->name;
          !known_.contains(theirs) && !naming_.may_hold(theirs, known_))
        differs(theirs + " is unknown here");
  }

  void compare(placed_tensor const& t, std::vector<std::int64_t> const& shape,
               std::string const& here, bool readable, char const* what = "numbers") {
    if (readable && t.entry->shape == shape) return;
    differs(t.entry->name + " is " + form(*t.entry) + " in the file, [" + joined(shape, ", ") +
            "] of " + what + (here == t.entry->name ? " here" : " for " + here));
  }
  void differs(std::string line) {
    if (noted_.insert(line).second) differences_.push_back(std::move(line));
  }

  tensor_files const& files_;
  std::vector<weight_entry> const& entries_;
  tensor_naming const& naming_;
  std::vector<std::string> differences_;
  std::set<std::string> noted_;                  // the same lines: experts may stand in one tensor
  std::set<std::string> known_;                  // tensors
  std::map<std::string, std::int64_t> experts_;  // in each tensor that may have all of a layer's
  std::vector<stored_weight> found_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
