// The model of examples 03 and 05: a small decoder that reads and writes bytes.
#pragma once

#include <finegrain/lab.hpp>

inline constexpr finegrain::architecture small_reader{
    .hidden = 64,
    .layers = 2,
    .vocabulary = 256,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 16,
    .dense_layers = 1,  // as in DeepSeekMoE, the first layer is dense
    .dense_width = 256,
    .moe = {.hidden = 64, .width = 32, .routed = 15, .top_k = 3, .shared = 1},
};
using byte_model = finegrain::decoder<small_reader>;

/// A text to read: the file that was named, or one that is there.
inline finegrain::corpus some_text(std::string const& named) {
  if (!named.empty()) return finegrain::corpus::read({named});
  return finegrain::corpus::first_of(
      {{"out/corpus/jargon.txt"}, {"/usr/share/common-licenses/GPL-3"}, {__FILE__}});
}
