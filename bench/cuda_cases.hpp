// A layer on the GPU as bench cuda runs it: batches that say who goes where, and the layer's passes
// on several sets of weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/mixture.hpp>
#include <finegrain/model/inference.hpp>
#include <finegrain/plan/weights.hpp>
#include <vector>

#include "cases.hpp"
#include "device.hpp"

namespace bench {

using gpu::number;

/// T tokens on the device, normal numbers but for the first R, which are the router's logits: 3 and
/// more for the chosen experts, at most 1 for the others. The host knows who goes where.
struct gpu_batch {
  std::int64_t tokens;
  std::vector<std::int32_t> experts;  // (T, K) best first
  std::vector<float> weights;         // (T, K) softmax over all R
  int touched = 0;                    // routed experts with a token
  fg::device_buffer<number> x;        // (T, D)

  gpu_batch(fg::config const& c, std::int64_t tokens, spread how, std::uint64_t seed,
            CUstream_st* on)
      : tokens(tokens), x(tokens * c.hidden) {
    gpu::fill_normal(x.data(), x.size(), 1, 100 + seed, on);
    std::vector<number> logits(static_cast<std::size_t>(tokens * c.routed));
    std::vector<char> seen(static_cast<std::size_t>(c.routed));
    experts.reserve(static_cast<std::size_t>(tokens * c.top_k));
    for (std::int64_t t = 0; t < tokens; ++t) send(c, how, seed, t, logits.data() + t * c.routed);
    for (std::int32_t const e : experts) seen[static_cast<std::size_t>(e)] = 1;
    touched = static_cast<int>(std::count(seen.begin(), seen.end(), 1));
    gpu::put(x.data(), c.hidden, logits.data(), tokens, c.routed, on);
  }

 private:
  void send(fg::config const& c, spread how, std::uint64_t seed, std::int64_t token,
            number* logits) {
    std::vector<std::pair<double, int>> keys;  // the least are chosen: drawn by weight, each once
    for (int e = 0; e < c.routed; ++e) {
      double const u = fg::random_uniform(seed, static_cast<std::uint64_t>(token * c.routed + e));
      double key = -std::log(1 - u) * (how == spread::zipf ? e + 1 : 1);
      if (e == 0 && (how == spread::one || (how == spread::quarter && token % 4 == 0))) key = -1;
      if (e == 0 && how == spread::quarter && token % 4 != 0) key = 1e9;
      if (how == spread::same && e < c.top_k) key = e - c.top_k;
      keys.push_back({key, e});
    }
    std::partial_sort(keys.begin(), keys.begin() + c.top_k, keys.end());
    double sum = 0;
    for (int i = 0; i < c.routed; ++i) {
      number& to = logits[keys[static_cast<std::size_t>(i)].second];
      to = number(i < c.top_k ? 3.0f + 0.05f * static_cast<float>(c.top_k - i)
                              : 1.0f - 0.003f * static_cast<float>(i));
      sum += std::exp(static_cast<double>(static_cast<float>(to)));
    }
    for (int i = 0; i < c.top_k; ++i) {
      int const e = keys[static_cast<std::size_t>(i)].second;
      experts.push_back(e);
      weights.push_back(
          static_cast<float>(std::exp(static_cast<double>(static_cast<float>(logits[e]))) / sum));
    }
  }
};

/// A layer's expert weights, or gradients, wherever the config has them.
template <class T>
struct expert_pointers {
  T *gate, *up, *down;  // (R, F, D) twice, (R, D, F)
  T *shared_gate = nullptr, *shared_up = nullptr, *shared_down = nullptr;

  template <fg::config C, class W>
  static expert_pointers of(W const& w) {
    if constexpr (C.shared > 0)
      return {w.b.gate.data, w.b.up.data, w.b.down.data, w.a.gate.data, w.a.up.data, w.a.down.data};
    else
      return {w.gate.data, w.up.data, w.down.data};
  }
};

/// The passes of a network, with weights made on the device: several sets of them, in turn, share
/// the workspace and the gradients. A network itself makes its weights on the host, which takes
/// minutes for the largest of these layers.
template <fg::config C>
class gpu_layer : public fg::inference<gpu_layer<C>, fg::mixture<C>, fg::cuda> {
 public:
  using E = fg::mixture<C>;
  using base = fg::inference<gpu_layer, E, fg::cuda>;
  using plan = fg::plan<fg::cuda, E>;

  gpu_layer(fg::cuda on, int sets) : base(on) {
    for (int i = 0; i < sets; ++i) {
      sets_.emplace_back(fg::weights_size<E>());
      auto const& numbers = sets_.back();
      gpu::fill_normal(numbers.data(), numbers.size(), 0.02f, static_cast<std::uint64_t>(i),
                       on.stream);
      auto const router = routed_of(fg::bind_weights<E, number>(numbers.data())).router;
      gpu::fill_identity(router.data, C.routed, C.hidden, on.stream);
    }
  }

  void use(std::int64_t set) { set_ = static_cast<std::size_t>(set) % sets_.size(); }
  fg::weights<E, number const> weights() const {
    return fg::bind_weights<E, number const>(sets_[set_].data());
  }
  number const* numbers() const { return sets_[set_].data(); }
  expert_pointers<number const> pointers() const {
    return expert_pointers<number const>::template of<C>(weights());
  }
  fg::device_buffer<number> const& gradients() const { return gradients_; }

  void reserve_training(std::int64_t tokens) {
    base::reserve_workspace(base::workspace_bytes(base::extent_of(tokens, true)));
    if (gradients_.size() == 0) gradients_ = fg::device_buffer<number>(fg::weights_size<E>());
  }
  /// As network's: forward in training, and its backward pass.
  void forward(fg::matrix<number const> x, fg::matrix<number> y) {
    typename base::own_pass const here(*this);
    static_cast<void>(base::run({.tokens = x.rows}, x, y, here.memory, true, nullptr));
  }
  void backward(fg::matrix<number const> x, fg::matrix<number const> dy, fg::matrix<number> dx) {
    fg::batch const b{.tokens = x.rows};
    fg::extent const e = base::extent_of(x.rows, true);
    fg::arena memory(base::workspace_.data(), base::workspace_.size());
    static_cast<void>(base::staging(memory, e));
    typename plan::saved const saved(memory, e);
    fg::arena const scratch(base::workspace_.data() + memory.used(),
                            base::workspace_.size() - memory.used());
    plan::backward(fg::pass<fg::cuda>{base::on_, b, scratch, e}, weights(), saved, x, dy,
                   fg::bind_weights<E, number>(gradients_.data()), dx);
  }

 private:
  template <class W>
  static auto const& routed_of(W const& w) {
    if constexpr (C.shared > 0)
      return w.b;
    else
      return w;
  }

  std::vector<fg::device_buffer<number>> sets_;
  std::size_t set_ = 0;
  fg::device_buffer<number> gradients_;
};

/// A frozen layer, from a set of gpu_layer's weights.
template <fg::config C, fg::format F>
class gpu_frozen : public fg::inference<gpu_frozen<C, F>, fg::mixture<C>, fg::cuda> {
 public:
  using E = fg::mixture<C>;
  using base = fg::inference<gpu_frozen, E, fg::cuda>;
  using weights_type = fg::frozen_weights<fg::cuda, F, E>;

  gpu_frozen(fg::cuda on, int sets, gpu_layer<C>& from) : base(on) {
    for (int i = 0; i < sets; ++i) {
      fg::arena counting;
      static_cast<void>(weights_type(counting));
      memory_.emplace_back(counting.used());
      fg::arena memory(memory_.back().data(), memory_.back().size());
      sets_.emplace_back(memory);
      from.use(i);
      sets_.back().fill(on, from.numbers());
    }
  }
  void use(std::int64_t set) { set_ = static_cast<std::size_t>(set) % sets_.size(); }
  weights_type const& weights() const { return sets_[set_]; }
  /// Bytes for one expert's weights.
  static double expert_bytes() {
    fg::arena counting;
    static_cast<void>(fg::device::coded_family(counting, F, 1, C.hidden, C.width));
    return static_cast<double>(counting.used());
  }

 private:
  std::vector<fg::device_buffer<>> memory_;
  std::vector<weights_type> sets_;
  std::size_t set_ = 0;
};

}  // namespace bench
