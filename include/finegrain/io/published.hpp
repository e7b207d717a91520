// published: weights as others publish them, read and written.
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
#include "published_names.hpp"
#include "published_naming.hpp"
#include "weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// The config that was asked for, or the one beside the files; empty if there is none to compare with.
FINEGRAIN_LAZY inline std::string config_path(tensor_files const& files,
                                              std::optional<std::string> const& asked) {
  if (asked) return *asked;
  std::string beside = files.folder() + "config.json";
  return exists(beside) ? beside : std::string();
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
                                          std::string const& prefix, Name& name,
                                          std::optional<std::string> const& config) {
  std::vector<std::string> differences;
  if (auto const path = config_path(files, config); !path.empty())
    differences = config_differences<E>(path);
  published_naming<Name> const naming(files, entries, prefix, name, is_tied<E>());
  weight_finder<> finder(files, entries, naming, std::move(differences));
  naming.check_prefix();
  return std::move(finder).find();
}

/// Puts a weight in its place among those of a tensor.
FINEGRAIN_LAZY inline void put_part(written_tensor& whole, tensor_part const& part,
                                    weight_entry const& entry) {
  auto const room = static_cast<std::size_t>((part.expert + 1) * part.parts);
  whole.weights.resize(std::max(whole.weights.size(), room));
  weight_entry const*& own = whole.weights[static_cast<std::size_t>(part.place())];
  if (own)
    throw invalid_argument("a part of the tensor %.200s occurs twice", whole.form.name.c_str());
  own = &entry;
  whole.form.shape = part.shape(std::ssize(whole.weights) / part.parts, entry);
}
/// A network's weights as a published model has them: each as a tensor, or, where it has no name of its
/// own, as a part of one that has a name (among_experts).
template <class Name>
std::vector<written_tensor> published_tensors(std::vector<weight_entry> const& entries,
                                              std::string const& prefix, Name&& name, dtype type) {
  check_published_type(type);
  std::vector<written_tensor> list;
  std::map<std::string, std::size_t> together;  // in the list
  for (weight_entry const& entry : entries) {
    std::string theirs = name(prefix + entry.name);
    auto const in = theirs.empty() ? among_experts(entry.name) : std::nullopt;
    if (in) theirs = name(prefix + in->first);
    if (theirs.empty())
      throw invalid_argument("%.200s has no published name at \"%.100s\"", entry.name.c_str(),
                             prefix.c_str());
    if (in) {
      auto const [at, fresh] = together.emplace(theirs, list.size());
      if (fresh) list.emplace_back();
      written_tensor& whole = list[at->second];
      whole.form.name = theirs, whole.form.type = type;
      put_part(whole, in->second, entry);
      continue;
    }
    bool const wide = entry.role == role::selection_bias && facts(type).bytes < 4;
    tensor_view form{std::move(theirs), wide ? dtype::f32 : type, tensor_shape(entry)};
    if (form.name.ends_with(one_row_bias)) form.shape.insert(form.shape.begin(), 1);
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
/// `prefix` is what the names of its weights have before them in a decoder, if it is a part of one:
///
///   load_published(model, "deepseek-moe-16b-base");
///   load_published(layer, "deepseek-moe-16b-base", "layers.3.mixture.");
///   load_published(mixtral, "Mixtral-8x7B-v0.1", "", mixtral_name);
///
/// Throws file_error, mismatch with the list of differences, and invalid_argument where no weight has a
/// name behind that prefix.
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
void load_published(network<E, X>& net, std::string const& path, std::string const& prefix = {},
                    Name&& name = deepseek_name, std::optional<std::string> const& config = {}) {
  tensor_files const files(path);
  detail::read_weights(net, detail::find_published<E>(files, net.entries(), prefix, name, config));
}

/// Writes a network's weights as a published model has them, for other programs: one safetensors file,
/// atomically, under the names and behind the prefix that load_published reads, each expert's under its own, or
/// in one tensor with the others' where experts have no names of their own.
///
///   save_published(model, "tuned/model.safetensors");
///   save_published(mixtral, "tuned/model.safetensors", "", mixtral_name, dtype::f32);
///
/// Numbers are of `type`, F64, F32, BF16 or F16, each rounded once; but selection biases are F32 at least,
/// and tables I64. Throws file_error, a file that was there is then still there, also where an index of
/// several stands beside it (model.safetensors.index.json); and invalid_argument for another type, a
/// weight without a name, and a number that is too large for the type.
template <Expr E, class X, class Name = std::string (*)(std::string_view)>
void save_published(network<E, X> const& net, std::string const& path,
                    std::string const& prefix = {}, Name&& name = deepseek_name,
                    dtype type = dtype::bf16) {
  auto const tensors = detail::published_tensors(net.entries(), prefix, name, type);
  detail::check_no_index(path);
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
/// and file_error where an index of several files is there.
template <Expr E, class X>
void save_published(network<E, X> const& net, std::string const& folder,
                    published_family const& family, published_facts const& facts = {}) {
  std::string const text = published_config<E>(family, facts);
  detail::check_no_index(folder + "/model.safetensors");
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
