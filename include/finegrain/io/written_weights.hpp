// written_weights: tensors of a file, each made of one of a network's weights or of several.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../model/network.hpp"
#include "stored_numbers.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// A weight's numbers in another type, each rounded once; where they stand, or in `room`.
template <class S>
void const* numbers_as(dtype type, weight_entry const& weight, S const* numbers,
                       std::vector<std::byte>& room) {
  std::int64_t const count = weight.rows * weight.cols;
  bool const both = in_two<S>(weight.role);
  if (type == dtype_of<S> && !both) return numbers;
  room.resize(static_cast<std::size_t>(count * facts(type).bytes));
  auto const make = [&]<class T>(T number) {
    summed<S> const sums = with_rest(numbers, count);
    for (std::int64_t i = 0; i < count; ++i) {
      double const x = both ? static_cast<double>(sums[i]) : to_double(numbers[i]);
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

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
