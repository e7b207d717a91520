// config_reader: the values of a published model's config.json, each by its name.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "json_reader.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// A value of a config: null, true or false, a number, a text.
struct config_value : std::variant<std::nullptr_t, bool, double, std::string> {
  using variant::variant;
  config_value(int number) : variant(static_cast<double>(number)) {}   // NOLINT(*-explicit*)
  config_value(std::string_view text) : variant(std::string(text)) {}  // NOLINT(*-explicit*)
  config_value(char const* text) : variant(std::string(text)) {}       // NOLINT(*-explicit*)
  config_value(float number) : config_value(0) {                       // NOLINT(*-explicit*)
    char digits[32];  // 0.707, not the f32 nearest to it
    std::from_chars(digits, std::to_chars(digits, std::end(digits), number).ptr,
                    std::get<double>(*this));
  }

  std::string text() const {
    if (auto const* const word = std::get_if<std::string>(this)) return *word;
    if (auto const* const truth = std::get_if<bool>(this)) return *truth ? "true" : "false";
    auto const* const number = std::get_if<double>(this);
    char digits[32];
    return number ? std::string(digits, std::to_chars(digits, std::end(digits), *number).ptr)
                  : "null";
  }
  /// Numbers are the same to the digits of an f32.
  friend bool operator==(config_value const& a, config_value const& b) {
    auto const *const x = std::get_if<double>(&a), *const y = std::get_if<double>(&b);
    if (x && y) return std::abs(*x - *y) <= 1e-7 * std::abs(*y);
    return a.index() == b.index() && a.text() == b.text();
  }
};
/// By name; within an object "rope_scaling.factor", within a list "layer_types.0".
using config_values = std::map<std::string, config_value, std::less<>>;

FINEGRAIN_LAZY class config_reader : json_reader {
 public:
  using json_reader::json_reader;

  config_values read() {
    check_utf8();
    expect('{', "the config does not begin with {");
    object(0);
    finish("the config goes on after its closing }");
    return std::move(values_);
  }

 private:
  void object(int depth) {
    members([&](std::string const& key) { value(key, depth); });
  }
  /// The value of what has this name within what name_ is.
  void value(std::string_view name, int depth) {
    if (depth == 32) fail("the config is nested too deeply");
    std::size_t const first = at_, outside = name_.size();
    if (depth > 0) name_ += '.';
    name_ += name;
    if (next_is('{')) {
      ++at_;
      object(depth + 1);
    } else if (next_is('[')) {
      ++at_;
      std::size_t i = 0;
      elements([&] { value(std::to_string(i++), depth + 1); });
    } else {
      stored_ += name_.size() + sizeof(config_values::value_type);
      if (stored_ > most_) fail_at("the names of the config's values take over 16 MB", first);
      if (!values_.emplace(name_, single()).second) fail_at("a name occurs twice", first);
    }
    name_.resize(outside);
  }
  config_value single() {
    if (next_is('"')) return string();
    for (auto const& [word, value] : {std::pair<std::string_view, config_value>{"null", nullptr},
                                      {"true", true},
                                      {"false", false},
                                      {"NaN", "NaN"},  // as Python writes what JSON has not
                                      {"Infinity", "Infinity"},
                                      {"-Infinity", "-Infinity"}})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    return real();
  }

  /// Bytes of values with their names: a long name stands again before each value of a list.
  static constexpr std::size_t most_ = 16'000'000;
  config_values values_;
  std::string name_;  // of the value that is read
  std::size_t stored_ = 0;
};

/// The values of the text's model in one of images or sound too, whose config holds its config: they
/// stand in the place of the whole's.
FINEGRAIN_LAZY inline config_values of_text_model(config_values whole) {
  config_values text;
  for (std::string_view const whose : {"text_config.", "language_config."})
    for (auto at = whole.lower_bound(whose); at != whole.end() && at->first.starts_with(whose);) {
      auto value = whole.extract(at++);
      value.key().erase(0, whose.size());
      text.insert(std::move(value));
    }
  text.merge(whole);
  return text;
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
