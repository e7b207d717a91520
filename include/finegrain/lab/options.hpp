// options: what stands on a command line, as --name value.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <charconv>
#include <string>
#include <vector>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Ask for each option with its default, then call done(), which throws invalid_argument for what
/// nobody asked for.
class options {
 public:
  options(int count, char** words) : words_(words + (count > 0 ? 1 : 0), words + count) {}

  std::string text(std::string const& name, std::string otherwise) {
    known_ += known_.empty() ? name : ", " + name;
    bool found = false;
    for (std::size_t i = 0; i < words_.size();) {
      if (words_[i] != name) {
        i += 2;
        continue;
      }
      if (i + 1 == words_.size()) throw invalid_argument("%s needs a value", name.c_str());
      if (found) throw invalid_argument("%s is given twice", name.c_str());
      found = true;
      otherwise = words_[i + 1];
      words_.erase(words_.begin() + static_cast<std::ptrdiff_t>(i),
                   words_.begin() + static_cast<std::ptrdiff_t>(i) + 2);
    }
    return otherwise;
  }
  long long number(std::string const& name, long long otherwise) {
    std::string const word = text(name, std::to_string(otherwise));
    long long value = 0;
    auto const end = std::from_chars(word.data(), word.data() + word.size(), value);
    if (end.ec != std::errc{} || end.ptr != word.data() + word.size() || value < 0)
      throw invalid_argument("%s needs a whole number, not \"%s\"", name.c_str(), word.c_str());
    return value;
  }
  void done() const {
    if (!words_.empty())
      throw invalid_argument("\"%s\" is no option here; there are %s", words_[0].c_str(),
                             known_.c_str());
  }

 private:
  std::vector<std::string> words_;
  std::string known_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
