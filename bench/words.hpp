// Lists on a command line: words between commas.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
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

}  // namespace bench
