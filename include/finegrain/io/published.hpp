// Weights as others publish them: their names, their number formats, in one file or in several.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <limits>

#include "checkpoint.hpp"
#include "tensor_files.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The name under which DeepSeek's published models, and those that follow them, hold a weight of a
/// decoder: "layers.1.mixture.experts.3.gate" is "model.layers.1.mlp.experts.3.gate_proj.weight".
/// Empty if there is none.
inline std::string deepseek_name(std::string_view ours) {
  struct pair {
    std::string_view here, there;
  };
  static constexpr pair model[] = {{"embedding.table", "model.embed_tokens.weight"},
                                   {"rmsnorm.gain", "model.norm.weight"},
                                   {"head.weight", "lm_head.weight"}};
  static constexpr pair block[] = {{"rmsnorm.gain", "input_layernorm.weight"},
                                   {"rmsnorm_2.gain", "post_attention_layernorm.weight"},
                                   {"attention.query", "self_attn.q_proj.weight"},
                                   {"attention.key", "self_attn.k_proj.weight"},
                                   {"attention.value", "self_attn.v_proj.weight"},
                                   {"attention.output", "self_attn.o_proj.weight"}};
  static constexpr pair feed_forward[] = {{"gate", "gate_proj.weight"},
                                          {"up", "up_proj.weight"},
                                          {"down", "down_proj.weight"},
                                          {"router", "gate.weight"},
                                          {"bias", "gate.e_score_correction_bias"},
                                          {"shared_gate", "shared_expert_gate.weight"}};
  std::string theirs;
  auto const take = [&](std::string_view part) {
    bool const there = ours.starts_with(part);
    if (there) ours.remove_prefix(part.size());
    return there;
  };
  auto const number = [&] {  // "3." of an expert or a layer
    std::size_t const end = ours.find('.') + 1;
    theirs += ours.substr(0, end);
    ours.remove_prefix(end);
  };
  auto const look_up = [&](auto const& list) {
    for (auto const& [here, there] : list)
      if (here == ours) return theirs.append(there);
    return std::string();
  };
  if (!take("layers.")) return look_up(model);
  theirs = "model.layers.";
  number();
  if (!take("mixture.") && !take("mlp.")) return look_up(block);
  theirs += "mlp.";
  if (take("shared.")) {
    theirs += "shared_experts.";
  } else if (take("experts.")) {
    theirs += "experts.";
    number();
  }
  return look_up(feed_forward);
}

namespace detail {

/// The number of an e4m3 code: no infinities, and a NaN of either sign.
inline float e4m3_number(std::uint8_t code) {
  if ((code & 127) == 127) return std::numeric_limits<float>::quiet_NaN();
  std::uint32_t const exponent = code >> 3 & 15, fraction = code & 7;
  float const size = exponent == 0 ? static_cast<float>(fraction) * 0x1p-9f
                                   : std::bit_cast<float>((exponent + 120) << 23 | fraction << 20);
  return code & 128 ? -size : size;
}

/// Number i of a tensor's bytes.
FINEGRAIN_LAZY inline double number_at(dtype type, std::byte const* bytes, std::int64_t i) {
  auto const as = [&]<class T>(T number) {
    std::memcpy(&number, bytes + i * static_cast<std::int64_t>(sizeof number), sizeof number);
    return number;
  };
  switch (type) {
    case dtype::f64: return as(double());
    case dtype::f32: return static_cast<double>(as(float()));
    case dtype::f16: return static_cast<double>(static_cast<float>(as(fp16())));
    case dtype::bf16: return static_cast<double>(static_cast<float>(as(bf16())));
    default: return static_cast<double>(e4m3_number(as(std::uint8_t())));
  }
}
inline bool is_number(dtype type) {
  return type == dtype::f64 || type == dtype::f32 || type == dtype::f16 || type == dtype::bf16 ||
         type == dtype::f8_e4m3;
}

/// A weight of a file, and where its numbers go.
struct published_weight {
  static constexpr std::int64_t side = 128;  // of a block that shares a scale
  weight_entry const* to = nullptr;
  placed_tensor const* numbers = nullptr;
  placed_tensor const* scales = nullptr;  // (rows / side, cols / side), rounded up, of F8_E4M3

  /// put(i, x) with each number, some at a time.
  template <class Put>
  void read(std::vector<std::byte>& room, Put&& put) const {
    std::vector<double> scale;
    if (scales) {
      each(*scales, room, [&](std::int64_t, double x) { scale.push_back(x); });
      std::int64_t const across = (to->cols + side - 1) / side;
      std::int64_t row = 0, col = 0;
      each(*numbers, room, [&](std::int64_t i, double x) {
        put(i, x * scale[static_cast<std::size_t>(row / side * across + col / side)]);
        if (++col == to->cols) ++row, col = 0;
      });
    } else {
      each(*numbers, room, put);
    }
  }

 private:
  template <class Put>
  static void each(placed_tensor const& t, std::vector<std::byte>& room, Put&& put) {
    constexpr std::int64_t most = 1 << 20;  // bytes, whole numbers of each type
    dtype const type = t.entry->type;
    std::int64_t const all = t.entry->end - t.entry->begin, size = facts(type).bytes;
    room.resize(static_cast<std::size_t>(most));
    for (std::int64_t first = 0; first < all; first += most) {
      std::int64_t const bytes = std::min(most, all - first);
      t.file->read(*t.entry, room.data(), first, bytes);
      for (std::int64_t i = 0; i < bytes / size; ++i)
        put(first / size + i, number_at(type, room.data(), i));
    }
  }
};

/// Finds each weight of a list; names are `name(place + the weight's)`. Throws mismatch.
template <class Name>
std::vector<published_weight> find_published(tensor_files const& files,
                                             std::vector<weight_entry> const& entries,
                                             std::string const& place, Name&& name) {
  std::vector<published_weight> found;
  std::vector<std::string> differences, known;
  auto const compare = [&](placed_tensor const& t, std::vector<std::int64_t> const& shape,
                           std::string const& here) {
    if (is_number(t.entry->type) && t.entry->shape == shape) return;
    std::string sizes;
    for (std::int64_t n : shape) sizes += (sizes.empty() ? "" : ", ") + std::to_string(n);
    differences.push_back(t.entry->name + " is " + form(t.entry->type, t.entry->shape) +
                          " in the file, [" + sizes + "] of numbers for " + here);
  };
  for (weight_entry const& entry : entries) {
    std::string const theirs = name(place + entry.name);
    if (theirs.empty()) {
      differences.push_back(entry.name + " has no published name");
      continue;
    }
    published_weight weight{&entry, files.find(theirs), nullptr};
    known.push_back(theirs);
    if (!weight.numbers) {
      differences.push_back(theirs + ", here " + entry.name + ", is missing");
      continue;
    }
    bool const is_matrix = entry.role == role::projection;
    std::vector<std::int64_t> shape{entry.rows * entry.cols};
    if (is_matrix) shape = {entry.rows, entry.cols};
    compare(*weight.numbers, shape, entry.name);
    if (weight.numbers->entry->type == dtype::f8_e4m3) {
      constexpr std::int64_t side = published_weight::side;
      known.push_back(theirs + "_scale_inv");
      weight.scales = files.find(known.back());
      if (!is_matrix || !weight.scales)
        differences.push_back(theirs + " is F8_E4M3 without " + known.back());
      else
        compare(*weight.scales, {(entry.rows + side - 1) / side, (entry.cols + side - 1) / side},
                "the scales of " + entry.name);
    }
    found.push_back(weight);
  }
  std::sort(known.begin(), known.end());
  std::string_view common = known.empty() ? std::string_view() : known.front();
  if (!known.empty()) {  // what the first and the last begin with, up to a dot, all do
    auto const end =
        std::mismatch(common.begin(), common.end(), known.back().begin(), known.back().end()).first;
    common = common.substr(0, static_cast<std::size_t>(end - common.begin()));
    common = common.substr(0, common.rfind('.') + 1);
  }
  for (placed_tensor const& t : files.tensors())
    if (std::string const& theirs = t.entry->name;
        theirs.starts_with(common) && !theirs.ends_with(".rotary_emb.inv_freq") &&
        !std::binary_search(known.begin(), known.end(), theirs))
      differences.push_back(theirs + " is unknown here");
  if (!differences.empty()) throw mismatch(files.path(), std::move(differences));
  return found;
}

}  // namespace detail

/// Reads a network's weights as a published model has them (tensor_files): in F32, F64, BF16, F16, or
/// F8_E4M3 with a scale for 128 x 128 numbers beside each, NAME_scale_inv; each is rounded once to the
/// network's own numbers. `place` is where the network stands in a decoder, if it is a part of one:
///
///   load_published(model, "deepseek-moe-16b-base");
///   load_published(layer, "deepseek-moe-16b-base", "layers.3.mixture.");
///
/// name(weight) is the tensor's name; an empty one says that it has none. Throws file_error, or
/// mismatch with the list of differences: what is missing, has another shape, or stands in the files
/// among the weights and is unknown here. The network is then as it was.
template <Expr E, class X, class Name = std::string (*)(std::string_view)>
void load_published(network<E, X>& net, std::string const& path, std::string const& place = {},
                    Name&& name = deepseek_name) {
  using S = typename X::scalar;
  tensor_files const files(path);
  auto const found = detail::find_published(files, net.entries(), place, name);
  auto const now = finegrain::place<X>::fetched(net.on(), std::as_const(net).parameters());
  std::vector<S> fresh(now.begin(), now.end());
  std::vector<std::byte> room;
  for (detail::published_weight const& weight : found) {
    S* const to = fresh.data() + weight.to->offset;
    std::int64_t const rest = detail::padded(weight.to->rows * weight.to->cols);
    bool const has_rest = sizeof(S) == 2 && detail::has_rest(weight.to->role);
    weight.read(room, [&](std::int64_t i, double x) {
      if constexpr (sizeof(S) == 2)
        if (has_rest) return summed<S>::write(static_cast<float>(x), to[i], to[rest + i]);
      to[i] = detail::number<S>(x);
    });
  }
  finegrain::place<X>::store(net.on(), fresh, net.parameters());
}

}  // namespace finegrain::inline FINEGRAIN_ABI
