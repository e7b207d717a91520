// An expression on the device under test: weights and inputs that bf16 holds, and memory that is NaN
// wherever nobody wrote. The specification computes the same in double.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/cuda/cuda.hpp>
#include <finegrain/model/network.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../cpu/layer.hpp"
#include "memory.hpp"

namespace under_test {

using fg::bf16;
using on_device::upload, on_device::download, on_device::unwritten, on_device::same_bits;
using device_matrix = fg::matrix<bf16>;

/// Layers that are tried in every type of number: narrow; wide, with GELU; with ReLU; with a limit;
/// one expert a token.
struct layers {
  static constexpr fg::config small{
      .hidden = 72, .width = 40, .routed = 8, .top_k = 3, .shared = 1};
  static constexpr fg::config wide{.hidden = 136,
                                   .width = 264,
                                   .routed = 16,
                                   .top_k = 4,
                                   .shared = 2,
                                   .act = fg::activation::geglu};
  static constexpr fg::config relu{.hidden = 72,
                                   .width = 40,
                                   .routed = 4,
                                   .top_k = 2,
                                   .shared = 1,
                                   .act = fg::activation::reglu};
  // (its gradients not in bf16: a gate that rounding brings across the limit has another one)
  static constexpr fg::config limited{.hidden = 72,
                                      .width = 40,
                                      .routed = 4,
                                      .top_k = 2,
                                      .shared = 1,
                                      .act = {fg::activation::swiglu, 0.5f}};
  static constexpr fg::config alone{.hidden = 128, .width = 64, .routed = 4, .top_k = 1};
};
/// A config of the family in widths that the device has.
constexpr fg::config widened(fg::config c) {
  c.hidden = 64, c.width = 24;
  return c;
}

template <class T>
std::vector<T> as(numbers const& from) {
  std::vector<T> made;
  for (float x : from) made.emplace_back(x);
  return made;
}
inline std::vector<bf16> as_bf16(numbers const& from) { return as<bf16>(from); }
template <class T>
numbers as_numbers(std::vector<T> const& from) {
  numbers made;
  for (T x : from) made.push_back(static_cast<float>(x));
  return made;
}
template <class T = bf16>
numbers rounded(numbers const& from) {
  return as_numbers(as<T>(from));
}
template <fg::Expr E, class T = bf16>
struct device_layer {
  using X = fg::basic_cuda<T>;
  using plan = fg::plan<X, E>;
  static constexpr int in = fg::in_width<E>(), out = fg::out_width<E>();

  X on;
  fg::device_buffer<T> w{fg::weights_size<E>()}, dw{fg::weights_size<E>()};
  fg::device_buffer<T> x, y, dy, dx;
  fg::gradients mode = fg::gradients::overwrite;
  float before = poison;  // what gradients hold when backward begins

  device_layer() { set_weights(random_numbers(fg::weights_size<E>(), 1, 0.3)); }
  void set_weights(numbers const& from) { w = upload(as<T>(from)); }

  numbers forward(numbers const& input, fg::batch b = {}, bool training = false,
                  fg::cache_of<X>* cache = nullptr) {
    if constexpr (in > 0) b.tokens = static_cast<std::int64_t>(input.size()) / in;
    x = upload(as<T>(input));
    y = unwritten<T>(b.tokens * out);
    extent = {b.tokens, 1, training};
    saved_memory = unwritten<std::byte>(fg::saved_bytes<X, E>(extent));
    scratch_memory = unwritten<std::byte>(fg::scratch_bytes<X, E>(extent));
    lists = unwritten<std::byte>(fg::place<X>::staging_bytes(b.tokens));
    batch = fg::place<X>::staged(on, b, {lists.data(), lists.size()}, cache);
    if (batch.log) batch.log->next = 0;
    batch.taken = 0;
    if (cache) cache->used = 0;
    plan::forward({on, batch, scratch(), extent, mode, cache}, weights(), saved(),
                  {x.data(), b.tokens, in}, {y.data(), b.tokens, out});
    if (cache) cache->grow(b);
    if (batch.log) fg::place<X>::read_log(on, *batch.log, batch.tokens);
    return as_numbers(download(y));
  }
  /// Forward, then backward. Outputs are read with read_y and the like.
  void train(numbers const& input, numbers const& output_gradient, fg::batch const& b = {}) {
    forward(input, b, true);
    dy = upload(as<T>(output_gradient));
    dw = upload(as<T>(numbers(static_cast<std::size_t>(w.size()), before)));
    dx = unwritten<T>(x.size());
    scratch_memory = unwritten<std::byte>(fg::scratch_bytes<X, E>(extent));
    plan::backward({on, batch, scratch(), extent, mode, nullptr}, weights(), saved(),
                   {x.data(), extent.tokens, in}, {dy.data(), extent.tokens, out},
                   fg::bind_weights<E, T>(dw.data()), {dx.data(), extent.tokens, in});
  }
  numbers read_y() const { return as_numbers(download(y)); }
  numbers read_dx() const { return as_numbers(download(dx)); }
  numbers read_dw() const { return as_numbers(download(dw)); }
  /// What the last forward kept.
  typename plan::saved saved() {
    fg::arena memory(saved_memory.data(), saved_memory.size());
    return typename plan::saved(memory, extent);
  }

 private:
  fg::weights<E, T const> weights() { return fg::bind_weights<E, T const>(w.data()); }
  fg::arena scratch() { return {scratch_memory.data(), scratch_memory.size()}; }

  fg::batch batch;
  fg::extent extent;
  fg::device_buffer<> saved_memory, scratch_memory, lists;
};

/// The part of a weight, or of its gradient, in an array of all of them.
template <class Numbers>
Numbers part(Numbers const& all, fg::weight_entry const& entry) {
  return Numbers(all.begin() + entry.offset, all.begin() + entry.offset + entry.rows * entry.cols);
}

/// |a - b| / |a|, which bf16 leaves at 2 to 10 thousandths; infinite with a NaN.
inline double off(std::vector<double> const& exact, numbers const& got) {
  if (exact.size() != got.size()) return infinity;
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (exact[i] - double(got[i])) * (exact[i] - double(got[i]));
    size += exact[i] * exact[i];
  }
  double const ratio = std::sqrt(error / (size > 0 ? size : 1));
  return ratio == ratio ? ratio : double{infinity};
}

/// Sequences of 90, 40 and 7 tokens in a cache, some at rest in a pass, the last one replaced: how far
/// off outputs are from those of each alone.
template <fg::Expr E, class T>
double off_in_sequences(device_layer<E, T>& fast, exact_layer<E>& exact) {
  constexpr int in = fg::in_width<E>(), out = fg::out_width<E>();
  constexpr std::int64_t passes[][3] = {{70, 0, 7}, {1, 1, 0}, {17, 30, 0}, {1, 1, 0}, {1, 8, 0}},
                         again = 5;
  fg::cache_of<fg::basic_cuda<T>> cache(fg::cache_width(E{}), 90, 3);
  cache.numbers = unwritten<T>(cache.numbers.size());
  numbers x[3];
  std::vector<double> right[3];
  for (int s = 0; s < 3; ++s) {
    x[s] = rounded<T>(random_numbers(90 * in, 70 + std::uint64_t(s)));
    right[s] = exact.forward(x[s]);
  }
  double worst = 0;
  auto const pass = [&](std::int64_t const(&counts)[3]) {
    numbers all;
    std::vector<std::int64_t> starts{0};
    std::vector<double> expected;
    for (int s = 0; s < 3; ++s) {
      std::int64_t const first = cache.lengths[std::size_t(s)], last = first + counts[s];
      all.insert(all.end(), x[s].begin() + first * in, x[s].begin() + last * in);
      expected.insert(expected.end(), right[s].begin() + first * out,
                      right[s].begin() + last * out);
      starts.push_back(starts.back() + counts[s]);
    }
    worst = std::max(worst, off(expected, fast.forward(all, {.starts = starts}, false, &cache)));
  };
  for (auto const& counts : passes) pass(counts);
  cache.reset(2);
  pass({0, 0, again});
  pass({0, 1, 1});
  return worst;
}

/// Weights of about the size that layers begin with; `seed` moves on.
template <fg::Expr E>
numbers random_weights(std::uint64_t& seed) {
  numbers w(static_cast<std::size_t>(fg::weights_size<E>()));
  for (auto const& entry : fg::list_weights<E>()) {
    double const deviation = entry.role == fg::role::selection_bias
                                 ? 0.1
                                 : 1.0 / std::sqrt(static_cast<double>(entry.cols));
    numbers fresh = random_numbers(entry.rows * entry.cols, ++seed, deviation);
    if (entry.role == fg::role::table)
      for (std::size_t i = 0; i < fresh.size(); ++i)
        fresh[i] = static_cast<float>(fg::random_word(seed, i) >> 56);
    std::copy(fresh.begin(), fresh.end(), w.begin() + entry.offset);
  }
  return w;
}

/// How far off y is, with a gradient and without, dx, and the worst of all weights' gradients.
struct comparison {
  double y = 0, dx = 0, dw = 0;
  std::string worst;
};

/// A training pass of both, of random x and dy; and that what must be the same again is.
template <fg::Expr E, class T>
comparison compare(device_layer<E, T>& fast, exact_layer<E>& exact, std::int64_t tokens,
                   std::uint64_t seed, fg::batch const& b, fg::gradients mode) {
  fast.mode = exact.mode = mode;
  exact.before = fast.before = mode == fg::gradients::accumulate ? 0.25f : poison;
  numbers const x = rounded<T>(random_numbers(tokens * exact.in, ++seed)),
                dy = rounded<T>(random_numbers(tokens * exact.out, ++seed));
  fast.train(x, dy, b);
  exact.train(x, dy, b);
  comparison made;
  made.y = off(exact.y, fast.read_y());
  made.dx = off(exact.dx, fast.read_dx());
  numbers const dw = fast.read_dw();
  for (auto const& entry : fg::list_weights<E>()) {
    double const d = off(part(exact.dw, entry), part(dw, entry));
    if (d > made.dw) made.dw = d, made.worst = entry.name;
  }
  if (on_device::order_varies()) {
    numbers const y = fast.read_y(), dx = fast.read_dx();
    fast.train(x, dy, b);
    CHECK(same(y, fast.read_y()));
    CHECK(same(dx, fast.read_dx()));
    CHECK(same(dw, fast.read_dw()));
  }
  // what is not trained has other tiles, and no chance, noise and the like
  made.y = std::max(made.y, off(exact.forward(x, b), fast.forward(x, b)));
  return made;
}
/// The same of new ones, with random weights.
template <fg::Expr E, class T = bf16>
comparison compare(std::int64_t tokens, std::uint64_t seed, fg::batch const& b,
                   fg::gradients mode = fg::gradients::overwrite,
                   fg::device::instructions use = fg::device::instructions::all) {
  device_layer<E, T> fast;
  exact_layer<E> exact;
  fast.on.use = use;
  numbers const w = rounded<T>(random_weights<E>(seed));
  fast.set_weights(w);
  exact.set_weights(w);
  return compare(fast, exact, tokens, seed, b, mode);
}

}  // namespace under_test
