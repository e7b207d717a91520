// Weights as they stand in files: which tensor each one is, or is a part of, and the numbers in it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "../base/bounds.hpp"
#include "../plan/weights.hpp"
#include "stored_numbers.hpp"
#include "tensor_files.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Which part of a tensor a weight is: all of it; one of matrices below one another, [parts * rows,
/// cols]; or such of an expert's in one that has those of all a layer's experts, [experts, parts * rows,
/// cols].
struct tensor_part {
  std::int64_t expert = 0, part = 0, parts = 1;
  bool of_experts = false;

  /// Among the tensor's matrices.
  std::int64_t place() const { return expert * parts + part; }
  /// The tensor's shape, for a weight of this one.
  std::vector<std::int64_t> shape(std::int64_t experts, weight_entry const& weight) const {
    std::vector<std::int64_t> all{parts * weight.rows, weight.cols};
    if (of_experts) all.insert(all.begin(), experts);
    return all;
  }
};

/// A weight in a file, and the one of a network that it is.
struct stored_weight {
  weight_entry const* to = nullptr;
  placed_tensor const* numbers = nullptr;
  placed_tensor const* scales = nullptr;  // of F8_E4M3 and FP4: blocks() for each expert
  tensor_part of{};

  /// Where it begins among its tensor's numbers.
  std::int64_t first() const { return of.place() * to->rows * to->cols; }
  struct grid {
    std::int64_t down, across;
  };
  /// The numbers that share a scale: 128 x 128 of F8_E4M3, 32 of a row of FP4.
  grid block() const { return is_fp4(numbers->entry->type) ? grid{1, 32} : grid{128, 128}; }
  /// The blocks of the matrices that stand together; what is left has a block too.
  grid blocks() const {
    return {ceil_div(of.parts * to->rows, block().down), ceil_div(to->cols, block().across)};
  }
  /// put(i, x) with each number, some at a time.
  template <class Put>
  void read(std::vector<std::byte>& room, Put&& put) const {
    std::vector<double> scale;
    std::int64_t const count = to->rows * to->cols;
    if (!scales) return each(*numbers, first(), count, room, put);
    grid const side = block(), shared = blocks();
    std::int64_t const all = shared.down * shared.across;
    each(*scales, of.expert * all, all, room, [&](std::int64_t, double x) {
      if (scales->entry->type == dtype::f8_e8m0 && std::isnan(x))
        throw file_error("%.200s has a scale that is no number: %.150s",
                         scales->entry->name.c_str(), scales->file->path().c_str());
      scale.push_back(x);
    });
    std::int64_t row = of.part * to->rows, col = 0;
    each(*numbers, first(), count, room, [&](std::int64_t i, double x) {
      put(i,
          x * scale[static_cast<std::size_t>(row / side.down * shared.across + col / side.across)]);
      if (++col == to->cols) ++row, col = 0;
    });
  }

 private:
  /// The same with so many numbers of a tensor, from the first-th on.
  template <class Put>
  static void each(placed_tensor const& t, std::int64_t first, std::int64_t count,
                   std::vector<std::byte>& room, Put&& put) {
    constexpr std::int64_t most = 1 << 20;  // bytes, whole numbers of each type
    dtype const type = t.entry->type;
    std::int64_t const size = facts(type).bytes, together = is_fp4(type) ? 2 : 1;
    room.resize(static_cast<std::size_t>(most));
    for (std::int64_t i = 0; i < count / together; i += most / size) {
      std::int64_t const some = std::min(most / size, count / together - i);
      t.file->read(*t.entry, room.data(), (first / together + i) * size, some * size);
      each_number(type, room.data(), some,
                  [&](std::int64_t n, double x) { put(i * together + n, x); });
    }
  }
};

/// The tensor that an expert's weight may be a part of, in our words, and that part: of
/// "experts.3.up", "experts.gate_up" and its second half for expert 3; of "shared.up", the second half of
/// "shared.gate_up".
inline std::optional<std::pair<std::string, tensor_part>> among_experts(std::string_view ours) {
  auto const after = [&](std::string_view word) {
    std::size_t const at = ours.rfind(word);
    return at == ours.npos || (at > 0 && ours[at - 1] != '.') ? ours.npos : at + word.size();
  };
  if (std::size_t const at = after("shared."); at != ours.npos) {
    std::string const all = std::string(ours.substr(0, at)) + "gate_up";
    if (ours.substr(at) == "gate") return {{all, {0, 0, 2}}};
    if (ours.substr(at) == "up") return {{all, {0, 1, 2}}};
  }
  std::size_t const at = after("experts.");
  if (at == ours.npos) return {};
  std::string const all(ours.substr(0, at));
  ours.remove_prefix(at);
  std::int64_t expert = 0;
  auto const [end, error] = std::from_chars(ours.data(), ours.data() + ours.size(), expert);
  if (error != std::errc()) return {};
  ours.remove_prefix(static_cast<std::size_t>(end - ours.data()));
  if (ours == ".gate") return {{all + "gate_up", {expert, 0, 2, true}}};
  if (ours == ".up") return {{all + "gate_up", {expert, 1, 2, true}}};
  if (ours == ".down") return {{all + "down", {expert, 0, 1, true}}};
  return {};
}

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

/// What all names of a list, at least one, begin with, up to a dot.
inline std::string common_place(std::set<std::string> const& names) {
  std::string const &first = *names.begin(), &last = *names.rbegin();
  auto const end = std::mismatch(first.begin(), first.end(), last.begin(), last.end()).first;
  std::string const common(first.begin(), end);
  return common.substr(0, common.rfind('.') + 1);
}

/// Where a published model has its decoder: one of images or sound too has theirs beside it.
inline constexpr std::string_view model_place = "model.", text_place = "model.language_model.";

/// Whether a tensor is of a layer that predicts a token beyond the next, as V3 publishes one behind its
/// others: none of the network's, and it has a matrix that no other layer has. Others have them apart.
inline bool predicts_further(tensor_files const& files, std::set<std::string> const& known,
                             std::string const& name) {
  if (name.starts_with("mtp.")) return true;
  for (std::string_view const place : {model_place, text_place}) {
    std::string const layers = std::string(place) + "layers.";
    std::size_t const end = name.find('.', layers.size());
    if (!name.starts_with(layers) || end == name.npos) continue;
    std::string const layer = name.substr(0, end + 1);
    auto const ours = known.lower_bound(layer);
    return (ours == known.end() || !ours->starts_with(layer)) &&
           files.find(layer + "eh_proj.weight");
  }
  return false;
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

/// Finds each weight of a list; names are `name(place + the weight's)`. Tensors whose names begin with
/// `scope`, or if there is none with what all found have in common, must be known. In a model that is
/// `tied` a head's weight, "head.weight", may stand beside an embedding's table, "embedding.table", if it
/// is the same. Throws mismatch, also where there were differences before, and invalid_argument where no
/// weight has a name.
template <class Name>
std::vector<stored_weight> find_weights(tensor_files const& files,
                                        std::vector<weight_entry> const& entries,
                                        std::string const& place, Name&& name,
                                        std::vector<std::string> differences,
                                        char const* scope = nullptr, bool tied = false) {
  if (safetensors_file const* const packed = packed_file(files))
    throw file_error(
        "%.300s holds packed weights: load_weights<N>(path) reads it, N the type of the frozen "
        "network that was saved",
        packed->path().c_str());
  std::vector<stored_weight> found;
  std::set<std::string> known, noted;
  std::size_t nameless = 0;
  auto const differs = [&](std::string line) {  // once: experts may stand in one tensor
    if (noted.insert(line).second) differences.push_back(std::move(line));
  };
  auto const compare = [&](placed_tensor const& t, std::vector<std::int64_t> const& shape,
                           std::string const& here, bool readable, char const* what = "numbers") {
    if (readable && t.entry->shape == shape) return;
    differs(t.entry->name + " is " + form(*t.entry) + " in the file, [" + joined(shape, ", ") +
            "] of " + what + (here == t.entry->name ? " here" : " for " + here));
  };
  bool const has_text = files.any(text_place);
  auto const named = [&](std::string const& ours) {
    std::string theirs = name(place + ours);
    if (has_text && theirs.starts_with(model_place) && !files.find(theirs))
      theirs.replace(0, model_place.size(), text_place);
    return theirs;
  };
  // Of a table, "language.embedding.table", the head that has it too: one in its scope without a weight.
  auto const tied_head = [&](std::string const& table) -> std::string {
    std::string const own = "embedding.table";
    if (!tied || !("." + table).ends_with("." + own)) return {};
    std::string const head = table.substr(0, table.size() - own.size()) + "head.weight";
    bool const apart = std::any_of(entries.begin(), entries.end(),
                                   [&](weight_entry const& entry) { return entry.name == head; });
    return apart ? std::string() : named(head);
  };
  std::map<std::string, std::int64_t> experts;  // in each tensor that may have all of a layer's
  for (weight_entry const& entry : entries)
    if (auto const in = among_experts(entry.name)) {
      std::int64_t& count = experts[in->first];
      count = std::max(count, in->second.expert + 1);
    }

  for (weight_entry const& entry : entries) {
    std::string theirs = named(entry.name), ours = entry.name;
    stored_weight weight{&entry, files.find(theirs)};
    std::vector<std::int64_t> shape = tensor_shape(entry), several;
    if (auto const in = among_experts(entry.name); in && !weight.numbers) {
      std::string const all = named(in->first);
      weight.numbers = files.find(all);
      if (weight.numbers || theirs.empty()) {
        theirs = all;
        ours = in->first;
        weight.of = in->second;
        if (weight.of.of_experts) several = {experts[ours]};
        shape = weight.of.shape(experts[ours], entry);
      }
    }
    if (theirs.empty()) {
      differs(entry.name + " has no published name");
      ++nameless;
      continue;
    }
    known.insert(theirs);
    if (!weight.numbers) {
      differs(theirs + (ours == theirs ? "" : ", here " + ours + ",") + " is missing");
      continue;
    }
    dtype const type = weight.numbers->entry->type;
    if (type == dtype::f8_e4m3 || is_fp4(type)) weight.scales = scales_of(files, theirs);
    bool const fp4 = is_fp4(type) && entry.role == role::projection &&
                     entry.cols % 2 == 0 && weight.scales &&
                     weight.scales->entry->type == dtype::f8_e8m0;
    bool const whole = entry.role == role::table && (type == dtype::i64 || type == dtype::i32);
    if (fp4) shape.back() /= 2;
    if (whole) shape = {entry.rows, entry.cols};
    // a gain or a bias may be a matrix of one row, as ERNIE 4.5's
    if (auto const& theirs_shape = weight.numbers->entry->shape;
        shape.size() == 1 && theirs_shape.size() == 2 && theirs_shape[0] == 1)
      shape.insert(shape.begin(), 1);
    compare(*weight.numbers, shape, ours, fp4 || whole || is_number(type),
            fp4 ? "two numbers each" : "numbers");
    if (type == dtype::f8_e4m3 && entry.role != role::projection) {
      differs(theirs + " is F8_E4M3, which is read of matrices alone");
    } else if (type == dtype::f8_e4m3 && !weight.scales) {
      auto const names = names_of_scales(theirs);
      differs(theirs + " is F8_E4M3 without scales: there is no " + names[0] +
              (names.size() > 1 ? " or " + names[1] : ""));
    } else if (weight.scales) {
      auto const [down, across] = weight.blocks();
      several.insert(several.end(), {down, across});
      compare(*weight.scales, several, "the scales of " + ours,
              is_number(weight.scales->entry->type));
      known.insert(weight.scales->entry->name);
    }
    if (std::string const head = tied_head(entry.name); !head.empty()) {
      known.insert(head);
      if (auto const* const other = files.find(head);
          other && !same_numbers(*other, *weight.numbers))
        differs(head + " is not " + theirs + " in the file, and here they are one");
    }
    found.push_back(weight);
  }
  if (nameless > 0 && nameless == entries.size())
    throw invalid_argument(
        "no name is known for the weights of a network at \"%.100s\": of a part of a decoder say "
        "where it stands there, in this library's names, as \"layers.3.mixture.\"",
        place.c_str());
  std::string const begin = scope ? scope : known.empty() ? "" : common_place(known);
  auto const is_beside = [&](std::string const& theirs) {  // of images, of sound
    return has_text && theirs.starts_with(model_place) && !theirs.starts_with(text_place);
  };
  auto const is_left_out = [&](std::string const& theirs) {
    return theirs.ends_with(".rotary_emb.inv_freq") ||
           (!scope && (is_beside(theirs) || predicts_further(files, known, theirs)));
  };
  for (placed_tensor const& t : files.tensors())
    if (std::string const& theirs = t.entry->name;
        theirs.starts_with(begin) && !known.contains(theirs) && !is_left_out(theirs))
      differs(theirs + " is unknown here");
  if (!differences.empty()) throw mismatch(files.path(), std::move(differences));
  return found;
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
