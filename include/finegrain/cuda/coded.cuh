// coded_experts: the products of coded weights, by the path for their rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded_rows.cuh"
#include "decode/dense.cuh"
#include "decode/products.cuh"
#include "pack.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

template <bool Up, class T, class W>
void coded_product(expert_products<T> const& p, family_weights<W> const& routed,
                   family_weights<W> const& shared, CUstream_st* stream, char const* name) {
  if (p.routed.width == 0 && p.rows.tokens <= most_streamed) {
    int const D = p.hidden, F = p.shared.width;
    return dense<Up, T, W>({.weights = shared,
                            .tokens = p.rows.tokens,
                            .rows = Up ? F : D,
                            .columns = Up ? D : F,
                            .x = Up ? p.x : p.shared.hidden,
                            .x_stride = Up ? D : F,
                            .y = Up ? p.shared.hidden : p.shared.out,
                            .y_stride = Up ? F : D,
                            .act = p.act},
                           stream, name);
  }
  switch (p.rows.tile) {
    case 32: return coded_rows<Up, 32>(p, routed, shared, stream, name);
    case 64: return coded_rows<Up, 64>(p, routed, shared, stream, name);
    case 128: return coded_rows<Up, 128>(p, routed, shared, stream, name);
    default: return product<Up>(p, routed, shared, stream, name);
  }
}

}  // namespace decode

template <class T, format F>
void coded_experts<T, F>::up_forward(expert_products<T> const& p, coded_family const& routed,
                                     coded_family const& shared, CUstream_st* stream) {
  decode::coded_product<true>(p, decode::weights_of<F>(routed), decode::weights_of<F>(shared),
                              stream, "coded_experts::up_forward");
}
template <class T, format F>
void coded_experts<T, F>::down_forward(expert_products<T> const& p, coded_family const& routed,
                                       coded_family const& shared, CUstream_st* stream) {
  decode::coded_product<false>(p, decode::weights_of<F>(routed), decode::weights_of<F>(shared),
                               stream, "coded_experts::down_forward");
}
template <class T, format F>
void coded_experts<T, F>::down_combine(expert_products<T> const& p, coded_family const& routed,
                                       coded_family const& shared, T const* add, T* y,
                                       CUstream_st* stream) {
  decode::fused(p, decode::weights_of<F>(routed), decode::weights_of<F>(shared), add, y, stream,
                "coded_experts::down_combine");
}
template <class T, format F>
void coded_experts<T, F>::pack(T const* gate, T const* up, T const* down, int count, int hidden,
                               int width, coded_family const& to, CUstream_st* stream) {
  if constexpr (in_panels(F)) {
    std::int64_t const steps = std::int64_t{(width + 7) / 8} * ((hidden + 63) / 64);
    if (count * steps > 0) {
      packing::pack_panels<F>
          <<<static_cast<unsigned>(count * steps), packing::threads, 0, stream>>>(gate, up, width,
                                                                                  hidden, to.gate);
      check_launch("coded_experts::pack");
    }
  } else {
    packing::pack<F>(gate, count, width, hidden, to.gate, to.gate_scales, stream);
    packing::pack<F>(up, count, width, hidden, to.up, to.up_scales, stream);
  }
  packing::pack<F>(down, count, hidden, width, to.down, to.down_scales, stream);
}

template <class T, format F>
using coded_experts_code =
    code<&coded_experts<T, F>::pack, &coded_experts<T, F>::up_forward,
         &coded_experts<T, F>::down_forward, &coded_experts<T, F>::down_combine>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
