// Frozen experts on the device: weights of a group of experts as codes, and products with them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "coded.hpp"
#include "executor.hpp"
#include "experts.hpp"
#include "fp8.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The weights of a group of experts in format F.
template <format F>
struct frozen_experts {
  static constexpr format number = F;
  coded_family codes;
  int count = 0, hidden = 0, width = 0;

  constexpr frozen_experts(arena& memory, int count, int hidden, int width)
      : codes(memory, F, count, hidden, width), count(count), hidden(hidden), width(width) {}
  template <class T, class W>
  void fill(basic_cuda<T> const& on, W const& w) const {
    coded_experts<T, F>::pack(w.gate.data, w.up.data, w.down.data, count, hidden, width, codes,
                              on.stream);
  }
};
template <class W>
concept Frozen = std::is_base_of_v<frozen_experts<W::number>, W>;

/// The forward products of experts that are frozen, as `experts` has those of weights as stored: by
/// codes in registers, or in fp8 where that is asked for and faster.
template <class T, format F>
struct frozen_products {
  static constexpr bool has_fp8 = F == format::fp8 && std::is_same_v<T, bf16>;

  format activations = format::bf16;
  coded_family routed{}, shared{};

  void up_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) const {
    if constexpr (has_fp8)
      if (takes_fp8(p, use)) {
        auto const [r, s] = rows_of(p);
        fp8_products<T>::quantize(p, r, s, stream);
        return fp8_products<T>::up_forward(p, r, s, stream);
      }
    coded_experts<T, F>::up_forward(p, routed, shared, stream);
  }
  void down_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) const {
    if constexpr (has_fp8)
      if (takes_fp8(p, use)) {
        auto const [r, s] = rows_of(p);
        return fp8_products<T>::down_forward(p, r, s, stream);
      }
    coded_experts<T, F>::down_forward(p, routed, shared, stream);
  }
  void down_combine(expert_products<T> const& p, T const* add, T* y, CUstream_st* stream) const {
    coded_experts<T, F>::down_combine(p, routed, shared, add, y, stream);
  }

 private:
  bool takes_fp8(expert_products<T> const& p, instructions use) const {
    bool const few = p.routed.width == 0 && p.rows.tokens <= most_streamed;
    return activations == format::fp8 && use == instructions::all && p.rows.tile == 128 && !few &&
           fp8_fits(p) && fp8_products<T>::available();
  }
  std::pair<fp8_family, fp8_family> rows_of(expert_products<T> const& p) const {
    fp8_family r, s;
    if (p.routed.width > 0) r = fp8_rows_of(routed, p.routed, p.rows.max_rows(), p.hidden);
    if (p.shared.width > 0) s = fp8_rows_of(shared, p.shared, p.rows.tokens, p.hidden);
    return {r, s};
  }
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
