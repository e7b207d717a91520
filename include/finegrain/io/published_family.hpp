// published_family: what all models of a family have in their config.json, and what no network knows of one.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "../base/error.hpp"
#include "tensor_table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Models of one model_type of transformers: one of families:: (published_families.hpp).
struct published_family {
  /// Of a weight, the tensor's name (load_published).
  std::string (*name)(std::string_view);
  /// Its config.json, in which "?" stands where a decoder must say something, and "? or none" where it
  /// may. What every family's has need not stand here (detail::every_config), and whatever
  /// check_published does not know stays as it is.
  std::string_view form;
  /// What its models do that no key says: more of a form, of keys that are not written, or of an
  /// architecture's own: {"moe.bias": true, "attention.norm": "each"}; and what their numbers must be to
  /// each other, where they must: {"hidden_size % num_attention_heads": 0}.
  std::string_view always;

  constexpr published_family(std::string (*own_name)(std::string_view), std::string_view own_form,
                             std::string_view own_always = "{}")
      : name(own_name), form(own_form), always(own_always) {}
};

/// What a config.json says that no network knows.
struct published_facts {
  dtype type = dtype::bf16;  // of the weights: F64, F32, BF16 or F16
  /// max_position_embeddings, the tokens of a text at most; 0: with YaRN its factor times its original,
  /// else 4096.
  int positions = 0;
  int bos = -1, eos = -1, pad = -1;  // token ids; -1: null, there is none
};

namespace detail {

/// What all families' configs have.
inline constexpr std::string_view every_config = R"({
  "attention_dropout": 0.0, "hidden_act": "?", "hidden_size": "?", "initializer_range": 0.02,
  "num_attention_heads": "?", "num_hidden_layers": "?", "num_key_value_heads": "?",
  "rms_norm_eps": "?", "rope_scaling": {"beta_fast": "? or none", "beta_slow": "? or none",
    "factor": "? or none", "mscale": "? or none", "mscale_all_dim": "? or none",
    "original_max_position_embeddings": "? or none", "type": "? or none"},
  "rope_theta": "?", "tie_word_embeddings": "?", "use_cache": true, "vocab_size": "?"})";

/// Throws invalid_argument for a type that weights are not published in.
inline void check_published_type(dtype type) {
  if (type != dtype::f64 && type != dtype::f32 && type != dtype::bf16 && type != dtype::f16)
    throw invalid_argument("weights are published in F64, F32, BF16 or F16");
}
/// How configs name one that they are.
inline char const* published_type_name(dtype type) {
  check_published_type(type);
  return type == dtype::f64    ? "float64"
         : type == dtype::f32  ? "float32"
         : type == dtype::bf16 ? "bfloat16"
                               : "float16";
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
