// config_keys: those of a published config.json, to be compared with what stages say; or of a family's
// form, whose open ones take it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_reader.hpp"
#include "file.hpp"
#include "published_defaults.hpp"
#include "published_family.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// The keys of a file or of a form, by their whole names, "rope_scaling.type", and what was found to differ.
/// What each stage says of which keys is config_comparison's.
class config_keys {
 public:
  FINEGRAIN_LAZY explicit config_keys(std::string const& path)
      : where_("in " + path.substr(path.rfind('/') + 1)),
        values_(of_text_model(config_reader<>(text_of(path, 1), path.c_str()).read())),
        family_(find({"model_type"}).second.text()) {
    defaults_ = config_reader<>(defaults_of(family_), "a family's defaults").read();
    for (auto const& [name, usual] : defaults_)  // in whose place a null is another value
      if (auto const at = values_.find(name); at != values_.end() && at->second == nullptr)
        at->second = "null";
  }
  FINEGRAIN_LAZY explicit config_keys(published_family const& family)
      : writes_(true),
        values_(config_reader<>(family.form, "the form of a published_family").read()),
        always_(config_reader<>(family.always, "what a published_family always does").read()),
        family_(find({"model_type"}).second.text()) {
    where_ = "in " + family_;
    values_.merge(config_reader<>(every_config, "every config").read());
    for (auto at = values_.begin(); at != values_.end();) {
      bool const must = at->second == "?", may = at->second == "? or none";
      if (must || may) open_.emplace(at->first, must);
      at = must || may ? values_.erase(at) : std::next(at);
    }
  }

 protected:
  using names = std::initializer_list<std::string_view>;

  /// The value of the first of these names that has one, and that name, or its family's default; else null
  /// and the first name.
  std::pair<std::string_view, config_value> find(names all) const {
    auto const in = [&](std::initializer_list<config_values const*> known) {
      for (std::string_view name : all)
        for (config_values const* values : known)
          if (auto const at = values->find(name); at != values->end() && at->second != nullptr)
            return &*at;
      return static_cast<config_values::value_type const*>(nullptr);
    };
    if (auto const* said = in({&values_, &always_})) return *said;
    if (auto const* usual = in({&defaults_})) return *usual;
    return {*all.begin(), nullptr};
  }
  /// Whether the config has one of these names, with or without a value, or its family has a default.
  bool knows(names all) const {
    return std::any_of(all.begin(), all.end(), [&](std::string_view name) {
      return values_.contains(name) || always_.contains(name) || open_.contains(name) ||
             defaults_.contains(name);
    });
  }
  /// Notes a difference between ours and what stands under the first of these names; where nothing
  /// does, nothing is compared, but a form must then have a word for what is not nothing.
  void same(names all, config_value const& ours) {
    if (writes_ && ours != nullptr && ours != false && ours != 0 && !knows(all))
      return note(*all.begin(), ours);
    same_or(ours, all, ours);
  }
  /// The same where nothing means `absent`. A list is of values of several layers.
  void same_or(config_value const& absent, names all, config_value const& ours) {
    if (take(all, ours)) return;
    for (std::string_view name : all)
      if (std::string const list = std::string(name) + '.'; values_.contains(list + '0'))
        return all_in(list, ours);
    auto const [name, theirs] = find(all);
    if (theirs == nullptr)
      note(name, absent, ours, "by default");
    else
      note(name, theirs, ours, source(name));
  }
  /// The same where nothing means `absent`, if that is known.
  void same_or_said(std::string_view absent, names all, config_value const& ours) {
    if (absent.empty())
      same(all, ours);
    else
      same_or(absent, all, ours);
  }
  /// Whether the first of these names that a form has is open: it then has this value.
  bool take(names all, config_value const& ours) {
    auto const first =
        std::find_if(all.begin(), all.end(), [&](auto name) { return knows({name}); });
    auto const at = first == all.end() ? open_.end() : open_.find(*first);
    if (at == open_.end()) return false;
    values_.emplace(at->first, ours);
    taken_.insert(at->first);
    open_.erase(at);
    return true;
  }
  /// The same of what all configs say: one of a known family that does not, and has no default, differs.
  void same_and_said(names all, config_value const& ours) {
    bool const silent = !defaults_.empty() && find(all).second == nullptr;
    if (silent)
      return note(std::string(*all.begin()) + " is missing " + where_ + ", " + ours.text() +
                  " here");
    same(all, ours);
  }
  /// Notes what stands under these names that is not the usual, which is not written.
  void no_other(names all, config_value const& usual) {
    auto const [name, theirs] = find(all);
    if (theirs != nullptr) note(name, theirs, usual, source(name));
  }
  /// Where a name's value is from.
  std::string source(std::string_view name) const {
    if (taken_.contains(name)) return "in an earlier stage";
    auto const at = values_.find(name);
    bool const said = at != values_.end() && at->second != nullptr;
    return said || !defaults_.contains(name) ? where_ : "by default";
  }
  /// Of something that tensors tell where a model is read: what a form says of it.
  void in_form(std::string_view name, config_value const& ours) {
    if (writes_) same({name}, ours);
  }
  /// What numbers are to each other, where a form requires something of that.
  void required(std::string_view name, config_value const& ours) {
    if (knows({name})) in_form(name, ours);
  }
  /// The same for a list, whose name ends in a dot, of these values. Where it has none it is not
  /// compared, unless that means that it is empty.
  FINEGRAIN_LAZY void same_list(std::string const& list, std::vector<config_value> const& ours,
                                bool none_is_empty) {
    bool const open = open_.erase(list.substr(0, list.size() - 1)) > 0;
    for (std::size_t i = 0;; ++i) {
      std::string const name = list + std::to_string(i);
      if (open && i < ours.size())
        values_.emplace(name, ours[i]);
      else if (auto const at = values_.find(name); !open && at != values_.end())
        note(name, at->second, i < ours.size() ? ours[i] : config_value(nullptr), where_);
      else {
        if (!open && i < ours.size() && (i > 0 || none_is_empty))
          note(name + " is missing " + where_ + ", " + ours[i].text() + " here");
        return;
      }
    }
  }
  /// The same for everything in a list that has one value.
  void all_in(std::string_view list, config_value const& ours) {
    for (auto at = values_.lower_bound(list); at != values_.end() && at->first.starts_with(list);
         ++at)
      note(at->first, at->second, ours, where_);
  }
  /// What says of a model that it is another kind: what else differs follows from that.
  void in_form_above_all(std::string_view name, config_value const& ours) {
    std::size_t const before = differences_.size();
    in_form(name, ours);
    if (above_all_.empty() && differences_.size() > before) above_all_ = differences_.back();
  }
  void note(std::string_view name, config_value const& theirs, config_value const& ours,
            std::string const& where) {
    if (theirs == ours) return;
    bool const alike = theirs.text() == ours.text();  // "64" and 64
    std::string line(name);
    line += " is " + (alike ? theirs.json() : theirs.text()) + " " + where + ", ";
    line += ours == nullptr ? "which no stage here has" : ours.text() + " here";
    note(std::move(line));
  }
  void note(std::string_view name, config_value const& ours) {
    note(std::string(name) + " is " + ours.text() + " here, which " + family_ + " has no word for");
  }
  void note(std::string line) {
    if (noted_.insert(line).second) differences_.push_back(std::move(line));
  }
  bool is_of(names families) const {
    return std::find(families.begin(), families.end(), family_) != families.end();
  }
  /// What differed, one line for each; open keys that nobody said, too, where nothing else did.
  FINEGRAIN_LAZY std::vector<std::string> const& lines() {
    if (!above_all_.empty()) differences_ = {above_all_};
    if (differences_.empty())
      for (auto const& [name, must] : open_)
        if (must) differences_.push_back(family_ + " has " + name + ", which no stage here has");
    return differences_;
  }
  config_values& values() { return values_; }
  std::string const& family() const { return family_; }
  /// Whether it is a form; and where a file's values, or a form's, are.
  bool writes() const { return writes_; }
  std::string const& where() const { return where_; }

 private:
  std::string where_;    // "in config.json", or a family
  bool writes_ = false;  // a form, of which these keys, and whether they must, are to be said:
  std::map<std::string, bool, std::less<>> open_;
  std::set<std::string, std::less<>> taken_;  // and those that were
  config_values values_;
  config_values always_;    // what is not written
  config_values defaults_;  // of its family, where a file has no word
  std::string family_;
  std::vector<std::string> differences_;
  std::string above_all_;        // one of them
  std::set<std::string> noted_;  // the same lines: equal stages differ in the same
};

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
