// adamw: Adam with decoupled weight decay, and the gradient's norm, over one array of weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../base/names.hpp"
#include "../base/parallel.hpp"
#include "../base/random.hpp"
#include "../base/wide.hpp"
#include "../plan/weights.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// AdamW [Loshchilov, Hutter 2019] with DeepSeekMoE's numbers. Projections decay, gains do not;
/// selection biases are not trained by gradient and stay as they are. Where gradients are not clipped,
/// one above 1.8e19 has an infinite square in f32: its weight has an infinite second moment from then
/// on, and moves no more.
struct adamw {
  double lr = 3e-4;
  double beta1 = 0.9, beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
};

/// Weights by their names, and how they are trained otherwise than the rest; the last group that has
/// a weight decides.
struct weight_group {
  std::string names;  // "layers.*.mixture.router": a star stands for any characters, or none
  double rate = 1;    // times the learning rate; 0: they are held as they are
  double decay = 1;   // times the weight decay, of those that decay
  bool operator==(weight_group const&) const = default;
};

/// The numbers themselves; throws invalid_argument when they make no sense.
inline adamw const& checked(adamw const& a) {
  auto const below_one = [](double beta) { return beta >= 0 && beta < 1; };
  auto const number = [](double x) { return x >= 0 && x <= 1e30; };
  if (!number(a.lr) || !below_one(a.beta1) || !below_one(a.beta2) ||
      !(a.epsilon >= 1e-37 && number(a.epsilon)) || !number(a.weight_decay))
    throw invalid_argument(
        "adamw needs lr and weight_decay from 0 to 1e30, beta1 and beta2 from 0 to below 1, and "
        "epsilon from 1e-37 to 1e30, not lr %g, weight_decay %g, beta1 %g, beta2 %g, epsilon %g",
        a.lr, a.weight_decay, a.beta1, a.beta2, a.epsilon);
  return a;
}

/// Trained weights that lie side by side and are treated alike: the work of one task. The ranges
/// depend on the weights alone, so that results do not depend on the number of threads.
struct trained_range {
  std::int64_t offset = 0, count = 0;
  double rate = 1;        // times the learning rate; 0: held, neither moved nor part of the norm
  double decay = 1;       // times the learning rate and the weight decay
  std::size_t entry = 0;  // of the network's weights, the one that it is of
};

/// The trained weights of a network as groups treat them, in pieces of a size that suits a cache.
/// Throws invalid_argument when a group's pattern has no trained weight, or all are held.
FINEGRAIN_LAZY inline std::vector<trained_range> trained_ranges(
    std::vector<weight_entry> const& entries, std::vector<weight_group> const& groups = {}) {
  constexpr std::int64_t most = 16384;
  for (weight_group const& group : groups) {
    bool const any = std::any_of(entries.begin(), entries.end(), [&](weight_entry const& entry) {
      return is_trained(entry.role) && matches(entry.name, group.names);
    });
    if (!any)
      throw invalid_argument("no weight that is trained has a name like \"%s\"",
                             group.names.c_str());
  }
  std::vector<trained_range> ranges;
  for (weight_entry const& entry : entries) {
    if (!is_trained(entry.role)) continue;
    weight_group how;
    for (weight_group const& group : groups)
      if (matches(entry.name, group.names)) how = group;
    double const decay = entry.role == role::projection ? how.rate * how.decay : 0;
    std::int64_t const size = entry.rows * entry.cols;
    for (std::int64_t at = 0; at < size; at += most)
      ranges.push_back({entry.offset + at, std::min(most, size - at), how.rate, decay,
                        static_cast<std::size_t>(&entry - entries.data())});
  }
  auto const held = [](trained_range const& range) { return range.rate == 0; };
  if (!groups.empty() && std::all_of(ranges.begin(), ranges.end(), held))
    throw invalid_argument("every weight is held, and none is left to train");
  return ranges;
}

/// Where weights that learn in f32 become the bf16 that products read, on a cpu that multiplies in
/// it; on cuda, where weights of 16 bits always are copies, the first two are the same.
enum class weight_rounding {
  in_products,  // as they are read
  nearest,      // as they are written, into a copy of half the bytes: the same bits
  stochastic,   // the same by chance (rounded_by): what is read is right in the mean
};

/// Where weights are written in bf16 too, laid out alike. What is written depends on the weight, its
/// place and the seed alone.
struct rounded_weights {
  bf16* to = nullptr;
  bool by_chance = false;
  std::uint64_t seed = 0;
};

inline namespace FINEGRAIN_ISA {
namespace kernel {

/// The numbers of one step, as its formula needs them. `size` is the learning rate over what the first
/// moment's bias leaves, `unbiased` what makes a root of the second one's.
template <class S>
struct adamw_step {
  S beta1, beta2, rest1, rest2;  // rest1 = 1 - beta1
  S scale, size, unbiased, epsilon;
};

/// AdamW on whole registers; `keep` is what weight decay leaves. Moments of weights without gradients shrink
/// until they are subnormal, and would stay so: with such numbers Intel's machines take 20 times as long. So
/// the first one becomes 0 then, and beside it the second; where there is a gradient, however small, both stay.
template <class S>
FINEGRAIN_ONE_COPY void adamw_registers(adamw_step<S> const& a, S keep, std::int64_t count,
                                        S const* g, S* w, S* m, S* v) {
  using V = wide::vec<S>;
  V const rest1 = wide::broadcast(a.rest1), unbiased = wide::broadcast(a.unbiased);
  V const epsilon = wide::broadcast(a.epsilon), kept = wide::broadcast(keep);
  V const least = wide::broadcast(std::numeric_limits<S>::min());
  for (std::int64_t i = 0; i < count; i += wide::lanes<S>) {
    V const x = a.scale * wide::load(g + i);
    V first = a.beta1 * wide::load(m + i), second = a.beta2 * wide::load(v + i);
    wide::add_product(rest1, x, first);
    wide::add_product(a.rest2 * x, x, second);
    auto const gone = (x == V{}) & (first < least) & (first > -least);
    first = gone ? V{} : first;
    second = (gone & (second < least)) ? V{} : second;
    V below = epsilon;
    wide::add_product(wide::square_root(second), unbiased, below);
    V weight = -a.size * first / below;
    wide::add_product(kept, wide::load(w + i), weight);
    wide::store(m + i, first);
    wide::store(v + i, second);
    wide::store(w + i, weight);
  }
}

/// The same on any count. The last numbers take the same instructions, in a register of their own,
/// so that it does not matter where an array is cut.
template <class S>
void adamw_range(adamw_step<S> const& a, S keep, std::int64_t count, S const* g, S* w, S* m, S* v) {
  std::int64_t const rest = count % wide::lanes<S>, whole = count - rest;
  adamw_registers(a, keep, whole, g, w, m, v);
  if (rest == 0) return;
  S last[4][wide::lanes<S>] = {};
  std::copy_n(g + whole, rest, last[0]);
  std::copy_n(w + whole, rest, last[1]);
  std::copy_n(m + whole, rest, last[2]);
  std::copy_n(v + whole, rest, last[3]);
  adamw_registers(a, keep, wide::lanes<S>, last[0], last[1], last[2], last[3]);
  std::copy_n(last[1], rest, w + whole);
  std::copy_n(last[2], rest, m + whole);
  std::copy_n(last[3], rest, v + whole);
}

/// Rounds weights [first, first + count): a random word is of four of them.
template <class S>
FINEGRAIN_ONE_COPY void round_range(rounded_weights const& made, S const* w, std::int64_t first,
                                    std::int64_t count) {
  std::int64_t const end = first + count;
  if (!made.by_chance) {
    for (std::int64_t i = first; i < end; ++i) made.to[i] = bf16(static_cast<float>(w[i]));
    return;
  }
  std::uint64_t word = 0;
  for (std::int64_t i = first; i < end; ++i, word >>= 16) {
    auto const n = static_cast<std::uint64_t>(i);
    if (i == first || n % 4 == 0) word = random_word(made.seed, n / 4) >> n % 4 * 16;
    made.to[i] = rounded_by(static_cast<float>(w[i]), static_cast<std::uint32_t>(word & 0xffff));
  }
}

/// The sum of squares in double: 16 sums side by side whatever the machine, then their sum.
template <class S>
double sum_of_squares(S const* p, std::int64_t count) {
  constexpr std::int64_t lanes = wide::lanes<double>, columns = 16;
  wide::vec<double> sums[columns / lanes] = {};
  auto const add = [&](S const* row) {
    FINEGRAIN_UNROLL
    for (std::int64_t j = 0; j < columns; j += lanes) {
      wide::vec<double> const x = wide::load_doubles(row + j);
      wide::add_product(x, x, sums[j / lanes]);
    }
  };
  std::int64_t const rest = count % columns, whole = count - rest;
  for (std::int64_t i = 0; i < whole; i += columns) add(p + i);
  S last[columns] = {};
  std::copy_n(p + whole, rest, last);
  add(last);
  double of_column[columns], sum = 0;
  FINEGRAIN_UNROLL
  for (std::int64_t j = 0; j < columns; j += lanes) wide::store(of_column + j, sums[j / lanes]);
  for (double const s : of_column) sum += s;
  return sum;
}

}  // namespace kernel
}  // namespace FINEGRAIN_ISA

/// f(range, its number) for each range, several at a time.
template <class Function>
void for_ranges(parallel threads, std::span<trained_range const> ranges, Function const& f) {
  threads(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t task, int) {
    f(ranges[static_cast<std::size_t>(task)], static_cast<std::size_t>(task));
  });
}

/// The Euclidean norm of a gradient, but for weights that are held, summed in double and always in the
/// same order. `partial` has room for one number a range.
template <class S>
double gradient_norm(parallel threads, std::span<trained_range const> ranges, S const* g,
                     double* partial) {
  for_ranges(threads, ranges, [&](trained_range const& r, std::size_t i) {
    partial[i] = r.rate > 0 ? kernel::sum_of_squares(g + r.offset, r.count) : 0;
  });
  double total = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) total += partial[i];
  return std::sqrt(total);
}

/// Rounds all weights of the ranges.
template <class S>
void round_weights(parallel threads, std::span<trained_range const> ranges, S const* w,
                   rounded_weights const& made) {
  for_ranges(threads, ranges, [&](trained_range const& r, std::size_t) {
    kernel::round_range(made, w, r.offset, r.count);
  });
}

/// A step of an optimiser: the arrays that it reads and moves, laid out alike, and how far it goes.
template <class S>
struct update_step {
  std::int64_t number = 1;  // of the step, from 1 on
  double rate = 0;          // the learning rate, times the schedule
  double scale = 1;         // of the gradient
  S const* gradient = nullptr;
  S *weights = nullptr, *first = nullptr, *second = nullptr;  // and their moments
};

/// AdamW's, of the weights in these ranges; which are rounded too, where that is asked for.
template <class S>
void adamw_update(parallel threads, adamw const& how, update_step<S> const& step,
                  std::span<trained_range const> ranges, rounded_weights const& made = {}) {
  double const t = static_cast<double>(step.number);
  kernel::adamw_step<S> const a{.beta1 = S(how.beta1),
                                .beta2 = S(how.beta2),
                                .rest1 = S(1 - how.beta1),
                                .rest2 = S(1 - how.beta2),
                                .scale = S(step.scale),
                                .size = S(step.rate / (1 - std::pow(how.beta1, t))),
                                .unbiased = S(1 / std::sqrt(1 - std::pow(how.beta2, t))),
                                .epsilon = S(how.epsilon)};
  for_ranges(threads, ranges, [&](trained_range const& r, std::size_t) {
    kernel::adamw_step<S> mine = a;
    mine.size *= S(r.rate);
    S const keep = S(1 - step.rate * how.weight_decay * r.decay);
    std::int64_t const at = r.offset;
    if (r.rate > 0)
      kernel::adamw_range(mine, keep, r.count, step.gradient + at, step.weights + at,
                          step.first + at, step.second + at);
    if (made.to) kernel::round_range(made, step.weights, at, r.count);
  });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
