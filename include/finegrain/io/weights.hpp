// Weights in files: a network's own, under its names, in whatever number format they stand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>

#include "../base/throwing_tasks.hpp"
#include "../model/network.hpp"
#include "stored_weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Reads a weight to its place in an array of a network's weights, in numbers of type S: to the bit if it
/// stands in these. Throws file_error if it cannot be read, or is too large for them.
template <class S>
void read_weight(stored_weight const& weight, std::vector<std::byte>& room, S* to) {
  std::int64_t const rest = padded(weight.to->rows * weight.to->cols);
  bool const in_two = sizeof(S) == 2 && has_rest(weight.to->role);
  placed_tensor const& from = *weight.numbers;
  constexpr std::int64_t size = sizeof(S);
  if (from.entry->type == dtype_of<S> && !in_two)
    return from.file->read(*from.entry, to, weight.first() * size,
                           weight.to->rows * weight.to->cols * size);
  double too_large = 0;
  weight.read(room, [&](std::int64_t i, double x) {
    to[i] = nearest<S>(x);
    if (std::isfinite(x) && !std::isfinite(to_double(to[i]))) too_large = x;
    if (in_two) to[rest + i] = nearest<S>(x - to_double(to[i]));  // as summed::write, of a double
  });
  if (too_large != 0)
    throw file_error("%.200s has %g, and %s has no number so large: %.150s",
                     from.entry->name.c_str(), too_large, facts(dtype_of<S>).name.data(),
                     from.file->path().c_str());
}

/// Reads weights to their places in an array that begins with number `first` of a network's, several at
/// a time, and calls check(weight, numbers) for each. Throws what the first of them throws.
template <class S, class Check>
void read_each(parallel const& threads, std::span<stored_weight const> weights, std::int64_t first,
               S* array, Check&& check) {
  std::vector<std::vector<std::byte>> room(static_cast<std::size_t>(threads.workers()));
  run_throwing(threads, std::ssize(weights), [&](std::int64_t i, int worker) {
    stored_weight const& weight = weights[static_cast<std::size_t>(i)];
    S* const to = array + (weight.to->offset - first);
    read_weight(weight, room[static_cast<std::size_t>(worker)], to);
    check(*weight.to, to);
  });
}

/// Reads weights that were found. The network is as it was if one cannot be read.
template <Expr E, class X>
void read_weights(network<E, X>& net, std::vector<stored_weight> const& found) {
  auto const now = place<X>::fetched(net.on(), std::as_const(net).parameters());
  std::vector<typename X::scalar> fresh(now.begin(), now.end());
  read_each(place<X>::threads(net.on()), found, 0, fresh.data(), [](auto const&, auto) {});
  place<X>::store(net.on(), fresh, net.parameters());
}

/// A weight's numbers in another type, each rounded once; where they stand, or in `room`.
template <class S>
void const* numbers_as(dtype type, weight_entry const& weight, S const* numbers,
                       std::vector<std::byte>& room) {
  std::int64_t const count = weight.rows * weight.cols;
  bool const in_two = sizeof(S) == 2 && has_rest(weight.role);
  if (type == dtype_of<S> && !in_two) return numbers;
  room.resize(static_cast<std::size_t>(count * facts(type).bytes));
  auto const make = [&]<class T>(T number) {
    summed<S> const sums = with_rest(numbers, count);
    for (std::int64_t i = 0; i < count; ++i) {
      double const x = in_two ? static_cast<double>(sums[i]) : to_double(numbers[i]);
      if constexpr (std::is_same_v<T, std::int64_t>) {
        if (!(std::abs(x) < 0x1p62) || x != std::trunc(x))
          throw invalid_argument("%.200s has %g, which is no integer", weight.name.c_str(), x);
        number = static_cast<T>(x);
      } else {
        number = nearest<T>(x);
        if (std::isfinite(x) && !std::isfinite(to_double(number)))
          throw invalid_argument("%.200s has %g, and %s has no number so large",
                                 weight.name.c_str(), x, facts(type).name.data());
      }
      std::memcpy(room.data() + i * static_cast<std::int64_t>(sizeof number), &number,
                  sizeof number);
    }
  };
  switch (type) {
    case dtype::f64: make(double()); break;
    case dtype::f32: make(float()); break;
    case dtype::bf16: make(bf16()); break;
    case dtype::f16: make(fp16()); break;
    default: make(std::int64_t());
  }
  return room.data();
}

/// A tensor to be written, and the weights whose numbers it has, one after the other.
struct written_tensor {
  tensor_view form;  // its name, type and shape
  std::vector<weight_entry const*> weights;
};
/// One of one weight. (Where braces stand in braces and the inner ones throw, g++ 12 destroys twice.)
inline written_tensor written_alone(tensor_view form, weight_entry const& weight) {
  written_tensor tensor;
  tensor.form = std::move(form);
  tensor.weights.push_back(&weight);
  return tensor;
}

/// Writes tensors made of a network's weights to a file that is then to be committed.
template <Expr E, class X>
void write_weights(network<E, X> const& net, atomic_file& file,
                   std::span<std::pair<std::string, std::string> const> metadata,
                   std::vector<written_tensor> const& list) {
  std::vector<tensor_view> tensors;
  for (written_tensor const& tensor : list) tensors.push_back(tensor.form);
  auto const weights = place<X>::fetched(net.on(), net.parameters());
  std::vector<std::byte> room, all;
  write_safetensors(file, tensors, metadata, [&](std::size_t i) -> void const* {
    dtype const type = tensors[i].type;
    auto const numbers = [&](weight_entry const& weight) {
      return numbers_as(type, weight, weights.data() + weight.offset, room);
    };
    if (list[i].weights.size() == 1) return numbers(*list[i].weights[0]);
    all.clear();
    for (weight_entry const* weight : list[i].weights) {
      auto const* const from = static_cast<std::byte const*>(numbers(*weight));
      all.insert(all.end(), from, from + weight->rows * weight->cols * facts(type).bytes);
    }
    return all.data();
  });
}

/// Finds weights in a file that has exactly these under their own names, or a trainer's checkpoint.
inline std::vector<stored_weight> find_own(tensor_files const& files,
                                           std::vector<weight_entry> const& entries) {
  auto const& all = files.tensors();
  char const* const place = !all.empty() && is_checkpoint(*all[0].file) ? checkpoint_weights : "";
  return find_weights(
      files, entries, place, [](std::string n) { return n; }, {}, place);
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
    bool const in_two = facts(own).bytes == 2 && detail::has_rest(entry.role);
    tensor_view form{entry.name, in_two ? dtype::f32 : own, tensor_shape(entry)};
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
