// Frozen experts: weights of a group of experts that are packed in a format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

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

  template <class W>
  void fill(cpu const& on, W const& w) const {
    gate_up.fill(on, simd::stacked(w.gate), simd::stacked(w.up));
    down.fill(on, simd::stacked(w.down));
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
