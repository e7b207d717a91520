// Whether a drawing is XML whose tags are balanced, with no number that is none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

/// "" or what is wrong.
inline std::string wellformed(std::string const& text) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while (at < text.size()) {
    if (text[at] == '&') {
      std::size_t const end = text.find(';', at);
      if (end == text.npos || end - at > 5) return "a bare &";
    }
    if (text[at] != '<') {
      ++at;
      continue;
    }
    std::size_t end = at + 1;
    for (bool quoted = false; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return "< inside a tag";
    }
    if (end == text.size()) return "a tag without an end";
    std::string const tag = text.substr(at + 1, end - at - 1);
    for (char const* bad : {"nan", "inf"})
      if (tag.find(bad) != tag.npos) return "a number that is none: " + tag;
    std::string const name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return "unbalanced: " + tag;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    at = end + 1;
  }
  return open.empty() ? "" : "left open: " + open.back();
}
