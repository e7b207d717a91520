// products: the matrix products of a layer's experts, all experts in one launch each. Every path
// (portable, Hopper, few tokens) takes these arguments.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/config.hpp"
#include "../plan/extent.hpp"
#include "row_map.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Experts of one width F over their rows: the routed ones over row_map's rows; or the shared one
/// (S F wide) over all T tokens in order, each with weight `weight` or 1. Null where a product has
/// no use for it. Row-major and dense.
template <class T>
struct expert_family {
  int width = 0;                           // F, or S F of the shared expert; 0: there is none
  T const *gate = nullptr, *up = nullptr;  // (R, F, D)
  T const* down = nullptr;                 // (R, D, F)
  T* z = nullptr;        // (rows, 2 F): the gate's outputs, then up's: saved for backward
  T* hidden = nullptr;   // (rows, F): act(gate) * up; in backward that times the row's weight
  T* out = nullptr;      // (rows, D): hidden . down^T; in backward the gradient of a row's x
  T* dz = nullptr;       // (rows, 2 F)
  float* dot = nullptr;  // (rows, parts of F) d loss / d a row's weight: see down_backward
  float const* weight = nullptr;  // shared: (T) or null. Routed rows have row_map::row_weight.
  T *dgate = nullptr, *dup = nullptr, *ddown = nullptr;  // gradients, as the weights
};

/// Which instructions products may use: all that the device has, or those of every GPU from 8.0 (on
/// Hopper, of a program whose .cu file defines FINEGRAIN_CUDA_PORTABLE).
enum class instructions { all, portable };

/// A mixture's experts. Rows of pads are computed as those of a token that is all zeros.
template <class T>
struct expert_products {
  int hidden = 0;  // D
  glu act = activation::swiglu;
  row_map rows;
  expert_family<T> routed, shared;
  T const* x = nullptr;                   // (T, D)
  T const* dy = nullptr;                  // (T, D)
  gradients mode = gradients::overwrite;  // of dgate, dup, ddown
};

/// Numbers of expert_family::dot that a row has: F in parts of 128, the last one shorter.
constexpr int dot_parts(int width) { return (width + 127) / 128; }

// The products, each one launch, or one for each family. With G = dy of the row's token:
//
//   up_forward     z = x [gate up]^T, hidden = act(z_gate) z_up
//   down_forward   out = hidden down^T
//   down_backward  g = G down;  dot[row][p] = sum over f in part p of g_f act(z_gate)_f z_up_f;
//                  dz = weight * (g z_up act'(z_gate), g act(z_gate)); hidden = weight act(z_gate) z_up
//   down_weights   ddown (+)= G^T hidden        (of down_backward's hidden)
//   up_backward    out = dz [gate; up]
//   up_weights     dgate, dup (+)= dz^T x
//
// x and dy are read by row_token. Sums are f32, in an order that depends on shapes alone. An expert
// without rows has gradients 0 in overwrite and is skipped in accumulate.

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
