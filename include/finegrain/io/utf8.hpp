// UTF-8: where a character ends, and what is none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string_view>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// Bytes of the character that a text begins with; 0 where it is none: no overlong forms, no
/// surrogates, nothing above U+10FFFF.
inline std::size_t character_length(std::string_view text) {
  auto const byte = [&](std::size_t k) {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u;
  };
  if (text.empty()) return 0;
  unsigned const c = byte(0);
  std::size_t const length = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
  unsigned const least = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  // of the second byte
  unsigned const most = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
  bool valid = c <= 0xf4;
  if (length > 1) valid &= byte(1) >= least && byte(1) <= most;
  for (std::size_t k = 2; k < length; ++k) valid &= (byte(k) & 0xc0) == 0x80;
  return valid ? length : 0;
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
