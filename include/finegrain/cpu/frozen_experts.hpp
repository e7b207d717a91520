// Frozen experts: weights of a group of experts that are packed in a format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/frozen.hpp"
#include "coded.hpp"
#include "expert_tasks.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Formats that weights can be frozen in.
template <format F>
concept Packable = F == format::f32 || F == format::bf16 || simd::Quantised<F>;

/// The weights of a group of experts.
template <format F>
struct frozen_experts {
  static constexpr finegrain::format number = F;
  simd::panels<F> gate_up;  // E x two (F, D)
  simd::panels<F> down;     // E x (D, F)

  constexpr frozen_experts() = default;
  constexpr frozen_experts(arena& memory, std::int64_t count, std::int64_t hidden,
                           std::int64_t width)
      : gate_up(memory, count, width, hidden, 2), down(memory, count, hidden, width) {}

  /// Numbers of gate, up and down, as they stand one behind another, each from a border on.
  constexpr std::int64_t size() const { return 3 * stack_size(); }
  /// From those of w, an expert's or a few at a time: plan/frozen.hpp.
  template <class W>
  void fill(cpu const& on, W const& w) const {
    fill(on, gate_up, w, 0);
    fill(on, gate_up, w + stack_size(), 1);
    fill(on, down, w + 2 * stack_size(), 0);
  }

 private:
  constexpr std::int64_t stack_size() const {
    return detail::padded(down.count * down.rows * down.cols);
  }
  /// Some matrices at a time are read, of a file one by each thread, and then packed: as many as there are
  /// threads, up to 256 MB; and more small ones, so that the threads are worth starting.
  template <class W>
  static void fill(cpu const& on, simd::panels<F> const& to, W const& w, int side) {
    constexpr std::int64_t few = 1 << 22, many = 1 << 26;  // numbers
    std::int64_t const size = to.rows * to.cols;
    std::int64_t const for_all = std::min<std::int64_t>(on.threads.workers(), many / size);
    std::int64_t const most = std::max({for_all, few / size, std::int64_t{1}});
    for (std::int64_t first = 0; first < to.count; first += most) {
      std::int64_t const some = std::min(most, to.count - first);
      simd::fill_panels(on, to,
                        {detail::numbers(w + first * size, some * size), some, to.rows, to.cols},
                        first, side);
    }
  }
};

/// Experts of a pass whose numbers are packed: those that take all rows, and those with a router.
template <format F>
struct packed_experts {
  static constexpr format products = simd::panels<F>::products;
  frozen_experts<F> shared, routed;

  auto gate_up(expert_group const& g, std::int64_t e, float* room) const {
    return of(g).gate_up.matrix(e, room);
  }
  auto down(expert_group const& g, std::int64_t e, float* room) const {
    return of(g).down.matrix(e, room);
  }

 private:
  frozen_experts<F> const& of(expert_group const& g) const { return g.offsets ? routed : shared; }
};

template <class W>
concept Frozen = std::is_base_of_v<frozen_experts<W::number>, W>;

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
