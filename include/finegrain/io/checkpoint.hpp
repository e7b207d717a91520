// checkpoint: what a training run must remember, in a file, to the bit: all of it or none.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../expr/describe.hpp"
#include "../model/network.hpp"
#include "../plan/schedule.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What a training run must remember beside the weights, to go on with the same bits.
template <class S>
struct training_state {
  std::span<S> first, second;  // moments of the gradient, laid out as the weights
  std::int64_t steps = 0;
};

namespace detail {

/// Whether a file holds the weights of a list as save_weights writes them, and nothing else.
FINEGRAIN_LAZY inline bool holds_weights(safetensors_file const& file,
                                         std::vector<weight_entry> const& entries) {
  return file.tensors().size() == entries.size() &&
         std::all_of(entries.begin(), entries.end(), [&](weight_entry const& entry) {
           tensor_entry const* const found = file.find(entry.name);
           return found && found->shape == tensor_shape(entry);
         });
}

/// Reads tensors from a checkpoint that holds them all and no others, in these formats and shapes, of
/// this architecture. Throws mismatch before anything is read if it does not; file_error if reading
/// fails: then some of the tensors have been read.
FINEGRAIN_LAZY inline void read_tensors(safetensors_file const& file,
                                        std::span<tensor_view const> tensors,
                                        std::string const& architecture) {
  std::vector<std::string> differences;
  if (!is_checkpoint(file)) differences.push_back("the file is no checkpoint");
  compare_architectures(file, architecture, differences);
  auto const found = find_tensors(file, tensors, differences);
  if (!differences.empty()) throw mismatch(file.path(), std::move(differences));
  for (std::size_t i = 0; i < tensors.size(); ++i) file.read(*found[i], tensors[i].data);
}

/// A checkpoint's tensors, cut out of these arrays. Throws invalid_argument if one is too short.
template <class S>
std::vector<tensor_view> checkpoint_tensors(std::vector<weight_entry> const& entries,
                                            std::span<S> weights, std::span<S> first,
                                            std::span<S> second, std::int64_t* steps) {
  std::int64_t needed = 0;
  auto const rest_of = [](weight_entry const& entry) {
    return entry.offset + padded(entry.rows * entry.cols);
  };
  for (weight_entry const& entry : entries) {
    std::int64_t const last = in_two<S>(entry.role) ? rest_of(entry) : entry.offset;
    needed = std::max(needed, last + entry.rows * entry.cols);
  }
  std::vector<tensor_view> tensors{{"steps", dtype::i64, {}, steps}};
  auto const list = [&](char const* prefix, std::span<S> numbers) {
    if (std::ssize(numbers) < needed)
      throw invalid_argument("a checkpoint's %s* need %lld numbers, and there are %lld", prefix,
                             shown(needed), shown(numbers.size()));
    list_tensors(entries, prefix, numbers.data(), tensors);
  };
  list(checkpoint_weights, weights);
  for (weight_entry const& entry : entries)
    if (in_two<S>(entry.role))
      tensors.push_back({"rests." + entry.name, dtype_of<S>, tensor_shape(entry),
                         weights.data() + rest_of(entry)});
  list("first_moments.", first);
  list("second_moments.", second);
  return tensors;
}

}  // namespace detail

/// Writes the weights of an expression E and the state of their training, atomically, and a note for
/// whoever reads the file's metadata ("note"). Throws invalid_argument, as load_checkpoint does, where
/// an array is shorter than the entries need.
template <Expr E, class N>
void save_checkpoint(std::vector<weight_entry> const& entries, std::span<N> weights,
                     training_state<N> state, std::string const& path,
                     std::string const& note = {}) {
  std::vector<std::pair<std::string, std::string>> about{{"architecture", describe(E{})},
                                                         {"format", checkpoint_format}};
  if (!note.empty()) about.emplace_back("note", note);
  auto const tensors =
      detail::checkpoint_tensors(entries, weights, state.first, state.second, &state.steps);
  write_safetensors(path, tensors, about);
}

/// Reads both back: weights and moments are overwritten, and the steps returned. Throws file_error,
/// or mismatch if the file is another architecture's; nothing is then changed.
template <Expr E, class N>
std::int64_t load_checkpoint(std::vector<weight_entry> const& entries, std::span<N> weights,
                             training_state<N> state, std::string const& path) {
  std::vector<N> fresh[3];
  std::span<N> const old[3] = {weights, state.first, state.second};
  for (int i = 0; i < 3; ++i) fresh[i].assign(old[i].begin(), old[i].end());
  auto const tensors =
      detail::checkpoint_tensors<N>(entries, fresh[0], fresh[1], fresh[2], &state.steps);
  safetensors_file const file(path);
  if (detail::holds_weights(file, entries))
    throw file_error("%.300s holds weights without the optimiser's moments: load_weights reads it",
                     path.c_str());
  detail::read_tensors(file, tensors, describe(E{}));
  if (state.steps < 0 || state.steps > most_steps)
    throw file_error("%.300s is damaged: its run would have done %lld steps", path.c_str(),
                     detail::shown(state.steps));
  for (int i = 0; i < 3; ++i) std::copy(fresh[i].begin(), fresh[i].end(), old[i].begin());
  return state.steps;
}

/// The same of a network on the host, whose own weights learn.
template <Expr E, class X>
void save_checkpoint(network<E, X>& net, training_state<typename X::scalar> state,
                     std::string const& path, std::string const& note = {}) {
  save_checkpoint<E>(net.entries(), net.parameters(), state, path, note);
}
template <Expr E, class X>
std::int64_t load_checkpoint(network<E, X>& net, training_state<typename X::scalar> state,
                             std::string const& path) {
  return load_checkpoint<E>(net.entries(), net.parameters(), state, path);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
