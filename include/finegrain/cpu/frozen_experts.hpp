// Frozen experts: weights of a group of experts that are packed in a format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded.hpp"
#include "experts.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Formats that experts can be frozen in.
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

template <class W>
concept Frozen = std::is_base_of_v<frozen_experts<W::number>, W>;

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
