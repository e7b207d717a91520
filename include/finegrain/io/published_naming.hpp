// published_naming: under which names published files have a network's weights, and what they have beside.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "weight_finder.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// What the names of a published model's decoder begin with; a model of images or sound too has those of
/// the decoder behind the second, and others behind the first.
inline constexpr std::string_view model_prefix = "model.", text_prefix = "model.language_model.";

/// What all names of a list begin with, up to a dot.
inline std::string_view common_prefix(std::set<std::string> const& names) {
  if (names.empty()) return {};
  std::string_view const first = *names.begin(), last = *names.rbegin();
  auto const end = std::mismatch(first.begin(), first.end(), last.begin(), last.end()).first;
  auto const common = first.substr(0, static_cast<std::size_t>(end - first.begin()));
  return common.substr(0, common.rfind('.') + 1);
}

/// Whether a tensor is of a layer that predicts a token beyond the next, as V3 publishes one behind its
/// others: none of the network's, and it has a matrix that no other layer has. Others have them apart.
inline bool predicts_further(tensor_files const& files, std::set<std::string> const& known,
                             std::string const& name) {
  if (name.starts_with("mtp.") || name.starts_with("model.mtp_")) return true;
  for (std::string_view const prefix : {model_prefix, text_prefix}) {
    std::string const layers = std::string(prefix) + "layers.";
    std::size_t const end = name.find('.', layers.size());
    if (!name.starts_with(layers) || end == name.npos) continue;
    std::string const layer = name.substr(0, end + 1);
    auto const ours = known.lower_bound(layer);
    return (ours == known.end() || !ours->starts_with(layer)) &&
           files.find(layer + "eh_proj.weight");
  }
  return false;
}

/// A family's names, of a network that stands at a prefix in a decoder.
template <class Name>
class published_naming : public tensor_naming {
 public:
  /// Of a network whose head, `tied`, has the embedding's table, files may have the head's weight too.
  published_naming(tensor_files const& files, std::vector<weight_entry> const& entries,
                   std::string const& prefix, Name& name, bool tied)
      : files_(files),
        entries_(entries),
        prefix_(prefix),
        name_(name),
        tied_(tied),
        has_text_(files.any(text_prefix)) {}

  /// Throws invalid_argument where no weight has a name.
  void check_prefix() const {
    auto const has_name = [&](weight_entry const& entry) {
      auto const in = among_experts(entry.name);
      return !name(entry.name).empty() || (in && !name(in->first).empty());
    };
    if (!entries_.empty() && std::none_of(entries_.begin(), entries_.end(), has_name))
      throw invalid_argument(
          "no name is known for the weights of a network at \"%.100s\": of a part of a decoder say "
          "where it stands there, in this library's names, as \"layers.3.mixture.\"",
          prefix_.c_str());
  }

  std::string name(std::string const& ours) const override {
    std::string theirs = name_(prefix_ + ours);
    if (has_text_ && theirs.starts_with(model_prefix) && !files_.find(theirs))
      theirs.replace(0, model_prefix.size(), text_prefix);
    return theirs;
  }
  /// Of a table, "language.embedding.table", the head that has it too: one in its scope without a weight.
  std::string copy_of(std::string const& ours) const override {
    std::string_view const table = "embedding.table";
    if (!tied_ || !("." + ours).ends_with("." + std::string(table))) return {};
    std::string const head = ours.substr(0, ours.size() - table.size()) + "head.weight";
    bool const apart = std::any_of(entries_.begin(), entries_.end(),
                                   [&](weight_entry const& entry) { return entry.name == head; });
    return apart ? std::string() : name(head);
  }
  bool may_hold(std::string const& theirs, std::set<std::string> const& known) const override {
    bool const of_images_or_sound =
        has_text_ && theirs.starts_with(model_prefix) && !theirs.starts_with(text_prefix);
    return !theirs.starts_with(common_prefix(known)) || of_images_or_sound ||
           theirs.ends_with(".rotary_emb.inv_freq") || predicts_further(files_, known, theirs);
  }

 private:
  tensor_files const& files_;
  std::vector<weight_entry> const& entries_;
  std::string const& prefix_;
  Name& name_;
  bool tied_, has_text_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
