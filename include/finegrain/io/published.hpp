// Weights as others publish them, read and written: their names, their number formats, in one file or in
// several.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "atomic_file.hpp"
#include "published_config.hpp"
#include "weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

struct name_pair {
  std::string_view here, there;
};
/// The words in which models name a layer's feed-forward block and its parts.
struct feed_forward_words {
  std::string_view model = "model.", block = "mlp.", shared = "shared_experts.";
  std::string_view gate = "gate_proj.weight", up = "up_proj.weight", down = "down_proj.weight";
  std::string_view bias = "gate.e_score_correction_bias", table = "";
};

inline std::string name_in(std::span<name_pair const> list, std::string_view ours,
                           std::string_view before = {}) {
  for (auto const& [here, there] : list)
    if (here == ours && !there.empty()) return std::string(before).append(there);
  return {};
}
/// "layers.3." of a name, taken off its front; empty if that is not what it begins with.
inline std::string_view take_numbered(std::string_view& name, std::string_view word) {
  if (!name.starts_with(word)) return {};
  std::string_view const taken = name.substr(0, name.find('.', word.size()) + 1);
  name.remove_prefix(taken.size());
  return taken;
}
/// The published name of a part of `mlp` or of a mixture.
inline std::string feed_forward_name(std::string_view ours, feed_forward_words const& words) {
  std::string_view const layer = take_numbered(ours, "layers.");
  if (layer.empty()) return {};
  std::string theirs(words.model);
  theirs.append(layer).append(words.block);
  for (std::string_view stage : {"mixture.", "mlp."})
    if (ours.starts_with(stage)) {
      ours.remove_prefix(stage.size());
      if (ours.starts_with("shared.")) {
        ours.remove_prefix(7);
        theirs.append(words.shared);
      } else {
        theirs.append(take_numbered(ours, "experts."));
      }
      name_pair const parts[] = {{"gate", words.gate},
                                 {"up", words.up},
                                 {"down", words.down},
                                 {"router", "gate.weight"},
                                 {"bias", words.bias},
                                 {"table", words.table},
                                 {"shared_gate", "shared_expert_gate.weight"},
                                 // all a layer's experts in one tensor
                                 {"experts.gate_up", "experts.gate_up_proj"},
                                 {"experts.down", "experts.down_proj"}};
      return name_in(parts, ours, theirs);
    }
  return {};
}

/// The published name of a decoder's weight.
inline std::string decoder_name(std::string_view ours, feed_forward_words const& words) {
  static constexpr name_pair model[] = {{"embedding.table", "model.embed_tokens.weight"},
                                        {"rmsnorm.gain", "model.norm.weight"},
                                        {"head.weight", "lm_head.weight"}};
  static constexpr name_pair block[] = {{"rmsnorm.gain", "input_layernorm.weight"},
                                        {"rmsnorm_2.gain", "post_attention_layernorm.weight"},
                                        {"attention.query", "self_attn.q_proj.weight"},
                                        {"attention.key", "self_attn.k_proj.weight"},
                                        {"attention.value", "self_attn.v_proj.weight"},
                                        {"attention.query_bias", "self_attn.q_proj.bias"},
                                        {"attention.key_bias", "self_attn.k_proj.bias"},
                                        {"attention.value_bias", "self_attn.v_proj.bias"},
                                        {"attention.query_norm", "self_attn.q_norm.weight"},
                                        {"attention.key_norm", "self_attn.k_norm.weight"},
                                        {"attention.q_proj", "self_attn.q_proj.weight"},
                                        {"attention.q_a", "self_attn.q_a_proj.weight"},
                                        {"attention.q_a_norm", "self_attn.q_a_layernorm.weight"},
                                        {"attention.q_b", "self_attn.q_b_proj.weight"},
                                        {"attention.kv_a", "self_attn.kv_a_proj_with_mqa.weight"},
                                        {"attention.kv_a_norm", "self_attn.kv_a_layernorm.weight"},
                                        {"attention.kv_b", "self_attn.kv_b_proj.weight"},
                                        {"attention.output", "self_attn.o_proj.weight"}};
  if (std::string theirs = feed_forward_name(ours, words); !theirs.empty()) return theirs;
  std::string_view const layer = take_numbered(ours, "layers.");
  if (layer.empty()) return name_in(model, ours);
  return name_in(block, ours, "model." + std::string(layer));
}

/// What the config that was asked for, or the one that stands beside files, says otherwise than an
/// expression.
template <Expr E>
std::vector<std::string> config_differences(tensor_files const& files,
                                            std::optional<std::string> const& config) {
  std::string const path = config.value_or(files.folder() + "config.json");
  if (config ? path.empty() : !exists(path)) return {};
  return config_differences<E>(path);
}

template <class L>
inline constexpr bool is_tied_embedding = false;
template <int V, int D>
inline constexpr bool is_tied_embedding<tied_embedding<V, D>> = true;
/// Whether E's head has the embedding's table.
template <Expr E>
constexpr bool is_tied() {
  bool tied = false;
  leaves<E>::visit([&]<class L>(L) { tied |= is_tied_embedding<L>; });
  return tied;
}

/// The tensors that are a network's weights, in the order of `entries`.
template <Expr E, class Name>
std::vector<stored_weight> find_published(tensor_files const& files,
                                          std::vector<weight_entry> const& entries,
                                          std::string const& place, Name&& name,
                                          std::optional<std::string> const& config) {
  return find_weights(files, entries, place, name, config_differences<E>(files, config), nullptr,
                      is_tied<E>());
}

}  // namespace detail

/// The name under which DeepSeek's published models, and those that follow them, hold a weight of a
/// decoder: "layers.1.mixture.experts.3.gate" is "model.layers.1.mlp.experts.3.gate_proj.weight".
/// Empty if there is none. OLMoE's, Qwen3's, GLM's and dots.llm1's models have the same names.
inline std::string deepseek_name(std::string_view ours) { return detail::decoder_name(ours, {}); }
/// The same of Qwen1.5's and Qwen2's mixtures: "layers.1.mixture.shared.up" is
/// "model.layers.1.mlp.shared_expert.up_proj.weight".
inline std::string qwen2_moe_name(std::string_view ours) {
  return detail::decoder_name(ours, {.shared = "shared_expert."});
}
/// And of Mixtral's: "layers.1.mixture.experts.3.gate" is
/// "model.layers.1.block_sparse_moe.experts.3.w1.weight".
inline std::string mixtral_name(std::string_view ours) {
  return detail::decoder_name(
      ours,
      {.block = "block_sparse_moe.", .gate = "w1.weight", .up = "w3.weight", .down = "w2.weight"});
}

/// And of MiniMax-M2's: as Mixtral's, with selection biases.
inline std::string minimax_m2_name(std::string_view ours) {
  return detail::decoder_name(ours, {.block = "block_sparse_moe.",
                                     .gate = "w1.weight",
                                     .up = "w3.weight",
                                     .down = "w2.weight",
                                     .bias = "e_score_correction_bias"});
}

/// And of ERNIE 4.5's: as DeepSeek's, but for the selection bias.
inline std::string ernie_4_5_name(std::string_view ours) {
  return detail::decoder_name(ours, {.bias = "moe_statics.e_score_correction_bias"});
}

/// And of Granite's mixtures, GraniteMoe and GraniteMoeShared, which have all a layer's experts in two
/// tensors and no names for each: "layers.1.mixture.experts.gate_up" is
/// "model.layers.1.block_sparse_moe.input_linear.weight". Gate and up of the shared ones stand in one too.
inline std::string granite_moe_name(std::string_view ours) {
  static constexpr detail::name_pair mixture[] = {
      {"mixture.router", "block_sparse_moe.router.layer.weight"},
      {"mixture.experts.gate_up", "block_sparse_moe.input_linear.weight"},
      {"mixture.experts.down", "block_sparse_moe.output_linear.weight"},
      {"mixture.shared.gate_up", "shared_mlp.input_linear.weight"},
      {"mixture.shared.down", "shared_mlp.output_linear.weight"}};
  std::string_view part = ours;
  std::string_view const layer = detail::take_numbered(part, "layers.");
  if (layer.empty() || !part.starts_with("mixture.")) return deepseek_name(ours);
  return detail::name_in(mixture, part, "model." + std::string(layer));
}

/// And of DeepSeek-V4's mixtures, of which hash layers have tables: "layers.1.mixture.experts.3.gate" is
/// "layers.1.ffn.experts.3.w1.weight". What else its layers are made of has no name here.
inline std::string deepseek_v4_name(std::string_view ours) {
  return detail::feed_forward_name(ours, {.model = "",
                                          .block = "ffn.",
                                          .gate = "w1.weight",
                                          .up = "w3.weight",
                                          .down = "w2.weight",
                                          .bias = "gate.bias",
                                          .table = "gate.tid2eid"});
}

namespace detail {

/// A network's weights as a published model has them: each as a tensor, or, where it has no name of its
/// own, as a part of one that has a name (among_experts).
template <class Name>
std::vector<written_tensor> published_tensors(std::vector<weight_entry> const& entries,
                                              std::string const& place, Name&& name, dtype type) {
  static_cast<void>(published_type_name(type));  // is one
  std::vector<written_tensor> list;
  std::map<std::string, std::size_t> together;  // in the list
  for (weight_entry const& entry : entries) {
    std::string theirs = name(place + entry.name);
    auto const in = theirs.empty() ? among_experts(entry.name) : std::nullopt;
    if (in) theirs = name(place + in->first);
    if (theirs.empty())
      throw invalid_argument("%.200s has no published name at \"%.100s\"", entry.name.c_str(),
                             place.c_str());
    if (in) {
      auto const [at, fresh] = together.emplace(theirs, list.size());
      if (fresh) list.emplace_back();
      written_tensor& all = list[at->second];
      all.form.name = theirs, all.form.type = type;
      auto const room = static_cast<std::size_t>((in->second.expert + 1) * in->second.parts);
      all.weights.resize(std::max(all.weights.size(), room));
      weight_entry const*& own = all.weights[static_cast<std::size_t>(in->second.place())];
      if (own) throw invalid_argument("a part of the tensor %.200s occurs twice", theirs.c_str());
      own = &entry;
      all.form.shape = in->second.shape(std::ssize(all.weights) / in->second.parts, entry);
      continue;
    }
    bool const wide = entry.role == role::selection_bias && facts(type).bytes < 4;
    tensor_view form{std::move(theirs), wide ? dtype::f32 : type, tensor_shape(entry)};
    if (entry.role == role::table) form.type = dtype::i64, form.shape = {entry.rows, entry.cols};
    list.push_back(written_alone(std::move(form), entry));
  }
  for (written_tensor const& tensor : list)
    for (weight_entry const* weight : tensor.weights)
      if (!weight)
        throw invalid_argument("of the weights that %.200s has, some have names of their own",
                               tensor.form.name.c_str());
  return list;
}
template <Expr E, class X>
void write_published(network<E, X> const& net, atomic_file& file,
                     std::vector<written_tensor> const& tensors) {
  // transformers reads no file that does not say whose tensors it has
  std::pair<std::string, std::string> const about[] = {{"format", "pt"}};
  write_weights(net, file, about, tensors);
}

}  // namespace detail

/// Reads a network's weights as a published model has them, as load_weights does, under other names.
/// `place` is where the network stands in a decoder, if it is a part of one:
///
///   load_published(model, "deepseek-moe-16b-base");
///   load_published(layer, "deepseek-moe-16b-base", "layers.3.mixture.");
///   load_published(mixtral, "Mixtral-8x7B-v0.1", "", mixtral_name);
///
/// Throws file_error, mismatch with the list of differences, and invalid_argument where no weight has a
/// name at that place.
///
/// name(weight) is the tensor's name; an empty one says that it has none. A tensor that stands in the
/// files among the weights and is unknown here is a difference too, but for those of layers for
/// multi-token prediction, of images and of sound, which the model does not have, and for the head's of a
/// tied network, "head.weight", where it has the table's bits. So is what
/// a config.json beside the weights says otherwise than the network's stages (check_published); or the
/// file `config`; or none, if that is "". Of experts that stand in two tensors a layer, and not under
/// their own names, "layers.3.mixture.experts.gate_up", [R, 2 F, D], and "layers.3.mixture.experts.down",
/// [R, D, F], are asked for; and for gate and up of shared experts "layers.3.mixture.shared.gate_up".
template <Expr E, class X, class Name = std::string (*)(std::string_view)>
void load_published(network<E, X>& net, std::string const& path, std::string const& place = {},
                    Name&& name = deepseek_name, std::optional<std::string> const& config = {}) {
  tensor_files const files(path);
  detail::read_weights(net, detail::find_published<E>(files, net.entries(), place, name, config));
}

/// Writes a network's weights as a published model has them, for other programs: one safetensors file,
/// atomically, under the names and from the place that load_published reads, each expert's under its own, or
/// in one tensor with the others' where experts have no names of their own.
///
///   save_published(model, "tuned/model.safetensors");
///   save_published(mixtral, "tuned/model.safetensors", "", mixtral_name, dtype::f32);
///
/// Numbers are of `type`, F64, F32, BF16 or F16, each rounded once; but selection biases are F32 at least,
/// and tables I64. Throws file_error, a file that was there is then still there; and invalid_argument
/// for another type, a weight without a name, and a number that is too large for the type.
template <Expr E, class X, class Name = std::string (*)(std::string_view)>
void save_published(network<E, X> const& net, std::string const& path,
                    std::string const& place = {}, Name&& name = deepseek_name,
                    dtype type = dtype::bf16) {
  auto const tensors = detail::published_tensors(net.entries(), place, name, type);
  atomic_file file(path);
  detail::write_published(net, file, tensors);
  file.commit();
}

/// Writes a decoder as one of a family's models, to load in transformers: `folder` then has its
/// model.safetensors and its config.json (published_config). What else it needs is a tokeniser.
///
///   save_published(model, "tuned", families::qwen3_moe, {.positions = 8192, .eos = 2});
///
/// The folder is made if there is none in its place. config.json is put there last, and one that says
/// otherwise is removed before the weights are replaced: a folder that has none is not complete. Throws
/// as save_published of weights and published_config do, before anything is changed but for file_error;
/// and file_error where an index of several files is there, by which load_published would read.
template <Expr E, class X>
void save_published(network<E, X> const& net, std::string const& folder,
                    published_family const& family, published_facts const& facts = {}) {
  std::string const text = published_config<E>(family, facts);
  std::string const index = folder + "/model.safetensors.index.json";
  if (detail::exists(index))
    throw file_error("%.300s is there, which load_published would read in the place of these",
                     index.c_str());
  detail::new_folder made(folder);
  atomic_file config(folder + "/config.json"), weights(folder + "/model.safetensors");
  config.write(text.data(), text.size());
  detail::write_published(net, weights,
                          detail::published_tensors(net.entries(), {}, family.name, facts.type));
  if (detail::has_other_text(config.path(), text)) config.remove_old();
  weights.commit();
  config.commit();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
