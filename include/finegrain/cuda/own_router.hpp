// Layers whose logits a router of your own makes, on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/own_router.hpp"
#include "elementwise.hpp"
#include "mixture.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The router's plan writes T, as every stage, and reads gradients of T; the choice is of f32.
template <class T, config C, bool Shared>
struct handed_logits<basic_cuda<T>, device::mixture_plan<T, C, Shared, true>> {
  using X = basic_cuda<T>;
  matrix<T> logits;  // (T, R), then their gradients

  constexpr handed_logits(arena& memory, extent e) : logits(memory.matrix<T>(e.tokens, C.routed)) {}

  matrix<T> made(device::mixture_saved<T> const&) const { return logits; }
  void hand(X const& on, device::mixture_saved<T> const& s) const {
    device::elementwise<T>::widen(logits.data, s.router.logits, logits.size(), on.stream);
  }
  matrix<T const> gradient(X const& on, device::mixture_scratch<T> const& t) const {
    device::elementwise<T>::narrow(t.dlogits, logits.data, logits.size(), on.stream);
    return logits;
  }
};

template <class T, config C, Expr Router>
struct plan<basic_cuda<T>, routed_experts<C, Router>>
    : routed_by<basic_cuda<T>, device::mixture_plan<T, with_given_logits(C), false, true>, Router> {
};
template <class T, config C, Expr Router>
struct plan<basic_cuda<T>, mixture<C, Router>>
    : routed_by<basic_cuda<T>, device::mixture_plan<T, with_given_logits(C), (C.shared > 0), true>,
                Router> {};

}  // namespace finegrain::inline FINEGRAIN_ABI
