// coded_experts: the products of coded weights, by the path for their rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "coded_rows.cuh"
#include "decode/products.cuh"
#include "pack.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {
namespace decode {

template <bool Up, class T, class W>
void coded_product(expert_products<T> const& p, family_weights<W> const& routed,
                   family_weights<W> const& shared, CUstream_st* stream, char const* name) {
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
  using namespace packing;
  auto const blocks = [&](std::int64_t n) { return static_cast<unsigned>(count * n); };
  auto const over = [](int n, int by) { return std::int64_t{n + by - 1} / by; };
  if (count * hidden * width == 0) return;
  if constexpr (in_panels(F)) {
    pack_panels<F><<<blocks(over(width, 8) * over(hidden, 64)), threads, 0, stream>>>(
        gate, up, width, hidden, to.gate);
    pack_panels<F><<<blocks(over(hidden, 16) * over(width, 64)), threads, 0, stream>>>(
        down, down, hidden, width, to.down);
  } else {
    auto const rows = [&](T const* from, int height, int columns, std::uint8_t* codes,
                          bf16* scales) {
      pack_rows<F><<<blocks(coded_family::scales(F, height, columns)), threads, 0, stream>>>(
          from, height, columns, codes, scales);
    };
    rows(gate, width, hidden, to.gate, to.gate_scales);
    rows(up, width, hidden, to.up, to.up_scales);
    rows(down, hidden, width, to.down, to.down_scales);
  }
  check_launch("coded_experts::pack");
}

template <class T, format F>
using coded_experts_code =
    code<&coded_experts<T, F>::pack, &coded_experts<T, F>::up_forward,
         &coded_experts<T, F>::down_forward, &coded_experts<T, F>::down_combine>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
