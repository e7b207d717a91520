// Which path a product takes: few rows of an expert, Hopper's instructions, or those of any GPU.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode/products.cuh"
#include "experts.hpp"
#include "hopper/backward.cuh"
#include "hopper/few_rows.cuh"
#include "hopper/forward.cuh"
#include "hopper/transposed.cuh"
#include "portable/products.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Up to such a tile weights are streamed past rows; above, tiles of both are multiplied. Hopper's
/// instructions pay for larger tiles of rows, and from few tokens on. f32 takes the portable path
/// whatever its rows, as no tensor core multiplies it.
inline constexpr int most_decoded = 16, most_few_rows = 64;

template <class T>
bool takes_few_rows(expert_products<T> const& p, instructions use) {
  return p.rows.tile <= most_few_rows && !few_tokens(p.rows.tokens, p.rows.tile) &&
         p.routed.width > 0 && !p.routed.z && use == instructions::all && few_rows<T>::available();
}

template <class T>
bool takes_hopper_forward(expert_products<T> const& p, instructions use) {
  return p.rows.tile == 128 && use == instructions::all && hopper_forward<T>::available();
}

/// Whether down_forward is better with weights as the left operand: few rows an expert, and the
/// shared expert's many are a small part.
template <class T>
bool takes_hopper_transposed(expert_products<T> const& p, instructions use) {
  return takes_hopper_forward(p, use) && p.rows.pairs() < std::int64_t{144} * p.rows.experts &&
         std::int64_t{8} * p.shared.width <= std::int64_t{p.rows.slots} * p.routed.width;
}

template <class T>
bool takes_hopper_backward(instructions use) {
  return use == instructions::all && hopper_backward<T>::available();
}

template <class T>
void experts<T>::up_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>) {
    if (takes_few_rows(p, use)) return few_rows<T>::up_forward(p, stream);
    if (p.rows.tile <= most_decoded) return decode_products<T>::up_forward(p, stream);
    if (takes_hopper_forward(p, use)) return hopper_forward<T>::up_forward(p, stream);
  }
  portable_products<T>::up_forward(p, stream);
}
template <class T>
void experts<T>::down_forward(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>) {
    if (takes_few_rows(p, use)) return few_rows<T>::down_forward(p, stream);
    if (p.rows.tile <= most_decoded) return decode_products<T>::down_forward(p, stream);
    if (takes_hopper_transposed(p, use)) return hopper_transposed<T>::down_forward(p, stream);
    if (takes_hopper_forward(p, use)) return hopper_forward<T>::down_forward(p, stream);
  }
  portable_products<T>::down_forward(p, stream);
}
template <class T>
void experts<T>::down_combine(expert_products<T> const& p, T const* add, T* y,
                              CUstream_st* stream) {
  if constexpr (in_pairs<T>) decode_products<T>::fused_down(p, add, y, stream);
}
template <class T>
void experts<T>::down_backward(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>)
    if (takes_hopper_backward<T>(use)) return hopper_backward<T>::down_backward(p, stream);
  portable_products<T>::down_backward(p, stream);
}
template <class T>
void experts<T>::down_weights(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>)
    if (takes_hopper_backward<T>(use)) return hopper_backward<T>::down_weights(p, stream);
  portable_products<T>::down_weights(p, stream);
}
template <class T>
void experts<T>::up_backward(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>)
    if (takes_hopper_backward<T>(use)) return hopper_backward<T>::up_backward(p, stream);
  portable_products<T>::up_backward(p, stream);
}
template <class T>
void experts<T>::up_weights(expert_products<T> const& p, instructions use, CUstream_st* stream) {
  if constexpr (in_pairs<T>)
    if (takes_hopper_backward<T>(use)) return hopper_backward<T>::up_weights(p, stream);
  portable_products<T>::up_weights(p, stream);
}

template <class T>
using experts_code =
    code<&experts<T>::up_forward, &experts<T>::down_forward, &experts<T>::down_combine,
         &experts<T>::down_backward, &experts<T>::down_weights, &experts<T>::up_backward,
         &experts<T>::up_weights>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
