// config_reader: the values of a published model's config.json, each by its name; and as such a text.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <climits>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "json_reader.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// A value of a config: null, true or false, a number, a text.
struct config_value : std::variant<std::nullptr_t, bool, int, double, std::string> {
  using variant::variant;
  config_value(std::string_view text) : variant(std::string(text)) {}  // NOLINT(*-explicit*)
  config_value(char const* text) : variant(std::string(text)) {}       // NOLINT(*-explicit*)
  config_value(float number) : config_value(0.0) {                     // NOLINT(*-explicit*)
    char digits[32];  // 0.707, not the f32 nearest to it
    std::from_chars(digits, std::to_chars(digits, std::end(digits), number).ptr,
                    std::get<double>(*this));
  }

  std::optional<double> number() const {
    if (auto const* const whole = std::get_if<int>(this)) return *whole;
    if (auto const* const real = std::get_if<double>(this)) return *real;
    return {};
  }
  std::string text() const {
    if (auto const* const word = std::get_if<std::string>(this)) return *word;
    if (auto const* const truth = std::get_if<bool>(this)) return *truth ? "true" : "false";
    auto const real = number();
    char digits[32];
    return real ? std::string(digits, std::to_chars(digits, std::end(digits), *real).ptr) : "null";
  }
  /// The same as JSON: the fewest digits that are read as this number.
  std::string json() const {
    if (auto const* const whole = std::get_if<int>(this)) return std::to_string(*whole);
    std::string value = text();
    if (std::holds_alternative<std::string>(*this)) {
      std::string quoted;
      append_json(quoted, value);
      return quoted;
    }
    bool const real = std::holds_alternative<double>(*this);
    if (real && value.find_first_not_of("-0123456789") == value.npos) value += ".0";
    return value;
  }
  /// Numbers are the same to the digits of an f32.
  friend bool operator==(config_value const& a, config_value const& b) {
    auto const x = a.number(), y = b.number();
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
    std::size_t const first = at_;
    double const number = real();
    bool const whole =
        text_.substr(first, at_ - first).find_first_not_of("-0123456789") == text_.npos;
    if (whole && std::abs(number) <= INT_MAX) return static_cast<int>(number);
    return number;
  }

  /// Bytes of values with their names: a long name stands again before each value of a list.
  static constexpr std::size_t most_ = 16'000'000;
  config_values values_;
  std::string name_;  // of the value that is read
  std::size_t stored_ = 0;
};

/// Appends the values within an object, or a list, of that name, which ends in a dot; of the whole
/// config it is empty. A list has single values.
FINEGRAIN_LAZY inline void append_values(std::string& text, config_values const& values,
                                         std::string const& within = {}) {
  std::string const line =
      "\n" + std::string(2 + 2 * std::count(within.begin(), within.end(), '.'), ' ');
  char const* between = "";
  if (values.contains(within + "0")) {
    text += '[';
    for (int i = 0; values.contains(within + std::to_string(i)); ++i, between = ", ")
      text.append(between).append(values.at(within + std::to_string(i)).json());
    text += ']';
    return;
  }
  text += '{';
  for (auto at = values.lower_bound(within); at != values.end() && at->first.starts_with(within);
       between = ",") {
    std::string_view const rest = std::string_view(at->first).substr(within.size());
    std::string_view const name = rest.substr(0, rest.find('.'));
    text.append(between).append(line);
    append_json(text, name);
    text += ": ";
    if (name == rest) {
      text += at++->second.json();
      continue;
    }
    std::string const inner = within + std::string(name) + '.';
    append_values(text, values, inner);
    while (at != values.end() && at->first.starts_with(inner)) ++at;
  }
  text.append(line, 0, line.size() - 2).append("}");
}
/// The text that config_reader reads these values from, names in their order.
FINEGRAIN_LAZY inline std::string config_text(config_values const& values) {
  std::string text;
  append_values(text, values);
  return text += '\n';
}

/// Puts the values within an object, whose name ends in a dot, in the place of those within another.
FINEGRAIN_LAZY inline void put_within(config_values& values, std::string_view from,
                                      std::string_view to) {
  config_values moved;
  for (auto at = values.lower_bound(from); at != values.end() && at->first.starts_with(from);) {
    auto value = values.extract(at++);
    value.key().replace(0, from.size(), to);
    moved.insert(std::move(value));
  }
  moved.merge(values);
  values = std::move(moved);
}
/// The values of the text's model in one of images or sound too, whose config holds its config: they
/// stand in the place of the whole's. So do those of positions of the layers without a window.
FINEGRAIN_LAZY inline config_values of_text_model(config_values values) {
  put_within(values, "language_config.", "");
  put_within(values, "text_config.", "");
  put_within(values, "rope_scaling.full_attention.", "rope_scaling.");
  put_within(values, "rope_parameters.full_attention.", "rope_parameters.");
  return values;
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
