// code: what a .cu file holds, as types. A header's functions are a list; a stage needs some lists.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <auto Function>
struct address {
  decltype(Function) at = Function;
};
/// An object of this type needs, and so holds, the code of these functions. (A std::tuple of their
/// addresses does too, and takes three front ends ten times as long.)
template <auto... Functions>
struct code : address<Functions>... {};

/// All of several lists, of which some may be the same.
template <class... Lists>
struct all_code {};
template <class List, class... Rest>
struct all_code<List, Rest...> {
  List first{};
  all_code<Rest...> rest{};
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
