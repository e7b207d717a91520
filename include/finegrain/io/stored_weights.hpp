// stored_weights: where weights stand in files, each a tensor or a part of one, and their numbers read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base/bounds.hpp"
#include "../base/throwing_tasks.hpp"
#include "../plan/weights.hpp"
#include "stored_numbers.hpp"
#include "tensor_files.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// Which part of a tensor a weight is: all of it; one of matrices below one another, [parts * rows,
/// cols]; or such of an expert's in one that has those of all a layer's experts, [experts, parts * rows,
/// cols].
struct tensor_part {
  std::int64_t expert = 0, part = 0, parts = 1;
  bool of_experts = false;

  /// Among the tensor's matrices.
  std::int64_t place() const { return expert * parts + part; }
  /// The tensor's shape, for a weight of this one.
  std::vector<std::int64_t> shape(std::int64_t experts, weight_entry const& weight) const {
    std::vector<std::int64_t> all{parts * weight.rows, weight.cols};
    if (of_experts) all.insert(all.begin(), experts);
    return all;
  }
};

/// A weight in a file, and the one of a network that it is.
struct stored_weight {
  weight_entry const* to = nullptr;
  placed_tensor const* numbers = nullptr;
  placed_tensor const* scales = nullptr;  // of F8_E4M3 and FP4: blocks() for each expert
  tensor_part of{};

  /// Where it begins among its tensor's numbers.
  std::int64_t first() const { return of.place() * to->rows * to->cols; }
  struct grid {
    std::int64_t down, across;
  };
  /// The numbers that share a scale: 128 x 128 of F8_E4M3, 32 of a row of FP4.
  grid block() const { return is_fp4(numbers->entry->type) ? grid{1, 32} : grid{128, 128}; }
  /// The blocks of the matrices that stand together; what is left has a block too.
  grid blocks() const {
    return {ceil_div(of.parts * to->rows, block().down), ceil_div(to->cols, block().across)};
  }
  /// put(i, x) with each number, some at a time.
  template <class Put>
  void read(std::vector<std::byte>& room, Put&& put) const {
    std::vector<double> scale;
    std::int64_t const count = to->rows * to->cols;
    if (!scales) return each(*numbers, first(), count, room, put);
    grid const side = block(), shared = blocks();
    std::int64_t const all = shared.down * shared.across;
    each(*scales, of.expert * all, all, room, [&](std::int64_t, double x) {
      if (scales->entry->type == dtype::f8_e8m0 && std::isnan(x))
        throw file_error("%.200s has a scale that is no number: %.150s",
                         scales->entry->name.c_str(), scales->file->path().c_str());
      scale.push_back(x);
    });
    std::int64_t row = of.part * to->rows, col = 0;
    each(*numbers, first(), count, room, [&](std::int64_t i, double x) {
      put(i,
          x * scale[static_cast<std::size_t>(row / side.down * shared.across + col / side.across)]);
      if (++col == to->cols) ++row, col = 0;
    });
  }

 private:
  /// The same with so many numbers of a tensor, from the first-th on.
  template <class Put>
  static void each(placed_tensor const& t, std::int64_t first, std::int64_t count,
                   std::vector<std::byte>& room, Put&& put) {
    constexpr std::int64_t most = 1 << 20;  // bytes, whole numbers of each type
    dtype const type = t.entry->type;
    std::int64_t const size = facts(type).bytes, together = is_fp4(type) ? 2 : 1;
    room.resize(static_cast<std::size_t>(most));
    for (std::int64_t i = 0; i < count / together; i += most / size) {
      std::int64_t const some = std::min(most / size, count / together - i);
      t.file->read(*t.entry, room.data(), (first / together + i) * size, some * size);
      each_number(type, room.data(), some,
                  [&](std::int64_t n, double x) { put(i * together + n, x); });
    }
  }
};

/// Reads a weight to its place in an array of a network's weights, in numbers of type S: to the bit if it
/// stands in these. Throws file_error if it cannot be read, or is too large for them.
template <class S>
void read_weight(stored_weight const& weight, std::vector<std::byte>& room, S* to) {
  std::int64_t const rest = padded(weight.to->rows * weight.to->cols);
  bool const sums = in_two<S>(weight.to->role);
  placed_tensor const& from = *weight.numbers;
  constexpr std::int64_t size = sizeof(S);
  if (from.entry->type == dtype_of<S> && !sums)
    return from.file->read(*from.entry, to, weight.first() * size,
                           weight.to->rows * weight.to->cols * size);
  double too_large = 0;
  weight.read(room, [&](std::int64_t i, double x) {
    to[i] = nearest<S>(x);
    if (std::isfinite(x) && !std::isfinite(to_double(to[i]))) too_large = x;
    if (sums) to[rest + i] = nearest<S>(x - to_double(to[i]));  // as summed::write, of a double
  });
  if (too_large != 0)
    throw file_error("%.200s has %g, and %s has no number so large: %.150s",
                     from.entry->name.c_str(), too_large, facts(dtype_of<S>).name.data(),
                     from.file->path().c_str());
}

/// Reads weights to their places in an array that begins with number `first` of a network's, several at
/// a time. Throws what the first of them throws.
template <class S>
void read_each(parallel const& threads, std::span<stored_weight const> weights, std::int64_t first,
               S* array) {
  std::vector<std::vector<std::byte>> room(static_cast<std::size_t>(threads.workers()));
  run_throwing(threads, std::ssize(weights), [&](std::int64_t i, int worker) {
    stored_weight const& weight = weights[static_cast<std::size_t>(i)];
    read_weight(weight, room[static_cast<std::size_t>(worker)],
                array + (weight.to->offset - first));
  });
}

/// The tensor that an expert's weight may be a part of, in our words, and that part: of
/// "experts.3.up", "experts.gate_up" and its second half for expert 3; of "shared.up", the second half of
/// "shared.gate_up".
inline std::optional<std::pair<std::string, tensor_part>> among_experts(std::string_view ours) {
  auto const after = [&](std::string_view word) {
    std::size_t const at = ours.rfind(word);
    return at == ours.npos || (at > 0 && ours[at - 1] != '.') ? ours.npos : at + word.size();
  };
  if (std::size_t const at = after("shared."); at != ours.npos) {
    std::string const all = std::string(ours.substr(0, at)) + "gate_up";
    if (ours.substr(at) == "gate") return {{all, {0, 0, 2}}};
    if (ours.substr(at) == "up") return {{all, {0, 1, 2}}};
  }
  std::size_t const at = after("experts.");
  if (at == ours.npos) return {};
  std::string const all(ours.substr(0, at));
  ours.remove_prefix(at);
  std::int64_t expert = 0;
  auto const [end, error] = std::from_chars(ours.data(), ours.data() + ours.size(), expert);
  if (error != std::errc()) return {};
  ours.remove_prefix(static_cast<std::size_t>(end - ours.data()));
  if (ours == ".gate") return {{all + "gate_up", {expert, 0, 2, true}}};
  if (ours == ".up") return {{all + "gate_up", {expert, 1, 2, true}}};
  if (ours == ".down") return {{all + "down", {expert, 0, 1, true}}};
  return {};
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
