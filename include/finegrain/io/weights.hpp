// weights: a network's own in files, under its names, in whatever number format they stand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "../model/network.hpp"
#include "weight_finder.hpp"
#include "written_weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Reads weights that were found. The network is as it was if one cannot be read.
template <Expr E, class X>
void read_weights(network<E, X>& net, std::vector<stored_weight> const& found) {
  auto const now = place<X>::fetched(net.on(), std::as_const(net).parameters());
  std::vector<typename X::scalar> fresh(now.begin(), now.end());
  read_each(place<X>::threads(net.on()), found, 0, fresh.data());
  place<X>::store(net.on(), fresh, net.parameters());
}

/// A network's own names behind a prefix, and no other tensor that begins with it.
struct own_naming : tensor_naming {
  std::string prefix;

  explicit own_naming(std::string before) : prefix(std::move(before)) {}
  std::string name(std::string const& ours) const override { return prefix + ours; }
  bool may_hold(std::string const& theirs, std::set<std::string> const&) const override {
    return !theirs.starts_with(prefix);
  }
};
/// Finds weights in a file that has exactly these under their own names, or a trainer's checkpoint.
FINEGRAIN_LAZY inline std::vector<stored_weight> find_own(
    tensor_files const& files, std::vector<weight_entry> const& entries) {
  auto const& all = files.tensors();
  bool const checkpoint = !all.empty() && is_checkpoint(*all[0].file);
  own_naming const naming(checkpoint ? checkpoint_weights : "");
  return weight_finder<>(files, entries, naming, {}).find();
}

}  // namespace detail

/// Writes a network's weights under their names, "layers.0.mixture.experts.3.gate", atomically: in its
/// own numbers, and in f32 where it has sums of two. Throws file_error; a file that was there is then
/// still there.
template <Expr E, class X>
void save_weights(network<E, X> const& net, std::string const& path) {
  constexpr dtype own = dtype_of<typename X::scalar>;
  std::vector<detail::written_tensor> list;
  for (weight_entry const& entry : net.entries()) {
    bool const sums = detail::in_two<typename X::scalar>(entry.role);
    tensor_view form{entry.name, sums ? dtype::f32 : own, tensor_shape(entry)};
    list.push_back(detail::written_alone(std::move(form), entry));
  }
  atomic_file file(path);
  detail::write_weights(net, file, {}, list);
  file.commit();
}

/// Reads a network's weights from a file that holds exactly these, or from a trainer's checkpoint; in
/// one file or several (tensor_files). Numbers may be F32, F64, BF16, F16, F8_E4M3 with a scale for
/// 128 x 128 of them beside each matrix, NAME_scale_inv, or FP4, two e2m1 codes in a byte of I8 or U8, with
/// an F8_E8M0 scale for 32 of a row [OCP Microscaling Formats 1.0], and are rounded once to the network's own.
/// Throws file_error, or mismatch with the list of differences: what is missing, unknown or of another
/// shape. The network is then as it was.
template <Expr E, class X>
void load_weights(network<E, X>& net, std::string const& path) {
  tensor_files const files(path);
  detail::read_weights(net, detail::find_own(files, net.entries()));
}

}  // namespace finegrain::inline FINEGRAIN_ABI
