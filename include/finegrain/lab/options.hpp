// options: what stands on a command line, as --name value.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Ask for each option with its default, then call done(), which throws invalid_argument for what
/// nobody asked for.
class options {
 public:
  options(int count, char** words) : words_(words + (count > 0 ? 1 : 0), words + count) {}

  std::string text(std::string const& name, std::string otherwise) {
    return find(name).value_or(std::move(otherwise));
  }
  /// A whole number from 0 on.
  long long number(std::string const& name, long long otherwise) {
    return read(name, otherwise, "a whole number", [](long long n) { return n >= 0; });
  }
  /// A finite number.
  double real(std::string const& name, double otherwise) {
    return read(name, otherwise, "a number", [](double x) { return std::isfinite(x); });
  }
  void done() const {
    if (!words_.empty())
      throw invalid_argument("\"%s\" is no option here; there are %s", words_[0].c_str(),
                             known_.c_str());
  }

 private:
  std::optional<std::string> find(std::string const& name) {
    known_ += known_.empty() ? name : ", " + name;
    std::optional<std::string> found;
    for (std::size_t i = 0; i < words_.size();) {
      if (words_[i] != name) {
        i += 2;
        continue;
      }
      if (i + 1 == words_.size()) throw invalid_argument("%s needs a value", name.c_str());
      if (found) throw invalid_argument("%s is given twice", name.c_str());
      found = words_[i + 1];
      words_.erase(words_.begin() + static_cast<std::ptrdiff_t>(i),
                   words_.begin() + static_cast<std::ptrdiff_t>(i) + 2);
    }
    return found;
  }
  template <class N, class Allowed>
  N read(std::string const& name, N otherwise, char const* what, Allowed const& allowed) {
    std::optional<std::string> const word = find(name);
    if (!word) return otherwise;
    N value{};
    char const* const end = word->data() + word->size();
    auto const read = std::from_chars(word->data(), end, value);
    if (read.ec != std::errc{} || read.ptr != end || !allowed(value))
      throw invalid_argument("%s needs %s, not \"%s\"", name.c_str(), what, word->c_str());
    return value;
  }

  std::vector<std::string> words_;
  std::string known_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
