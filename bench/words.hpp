// Words on a command line: flags, and lists of words between commas.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <finegrain/base/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

inline std::vector<std::string> words_of(std::string const& list) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at < list.size();) {
    std::size_t const end = std::min(list.find(',', at), list.size());
    words.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// Whether a list has a word; one that is empty has all.
inline bool in(std::vector<std::string> const& list, std::string_view word) {
  return list.empty() || std::find(list.begin(), list.end(), word) != list.end();
}
/// What is to be measured: words that must be among those `known`.
inline std::vector<std::string> phases_of(std::string const& list,
                                          std::vector<std::string> const& known) {
  std::vector<std::string> const phases = words_of(list);
  for (auto const& phase : phases)
    if (!in(known, phase))
      throw finegrain::invalid_argument("there is no \"%s\" to measure", phase.c_str());
  return phases;
}
inline std::vector<std::int64_t> tokens_of(std::string const& list) {
  std::vector<std::int64_t> tokens;
  for (auto const& word : words_of(list)) {
    tokens.push_back(std::atoll(word.c_str()));
    if (tokens.back() < 1) throw finegrain::invalid_argument("--tokens %s", word.c_str());
  }
  return tokens;
}
/// Takes a flag out of the command line; whether it stood there.
inline bool took(std::string_view flag, int& argc, char** argv) {
  auto const end = std::remove(argv + 1, argv + argc, flag);
  bool const found = end != argv + argc;
  argc = static_cast<int>(end - argv);
  return found;
}

}  // namespace bench
