// Instructions that do the same in each lane, from the function of one lane.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <type_traits>
#include <utility>

#include "ptx.hpp"

namespace emulator {

template <class F>
struct lane_by_lane : lane_by_lane<decltype(&F::operator())> {
  static void run(warp& w, instruction const& i) {
    lane_by_lane<decltype(&F::operator())>::template in<F>(w, i);
  }
};
template <class F, class D, class... A>
struct lane_by_lane<D (F::*)(A...) const> {
  template <class G>
  static void in(warp& w, instruction const& i) {
    in<G>(w, i, std::index_sequence_for<A...>{});
  }
  template <class G, std::size_t... N>
  static void in(warp& w, instruction const& i, std::index_sequence<N...>) {
    loop<G>(w.now.mask, w.reg<D>(i.at[0]), w.reg<A const>(i.at[1 + N])...);
  }
  // Where a source is the destination too, it is so lane for lane.
  template <class G>
  static void loop(u32 mask, D* d, A const*... a) {
    if (mask == every_lane) {
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
      for (int l = 0; l < lanes; ++l) d[l] = G{}(a[l]...);
    } else {
      for (int l = 0; l < lanes; ++l)
        if (mask >> l & 1) d[l] = G{}(a[l]...);
    }
  }
};

/// What f, a lambda that captures nothing, does in each lane. Its types are those of the operands.
template <class F>
action each_lane(F) {
  return lane_by_lane<F>::run;
}

template <class T>
bool is_named(std::string_view type) {
  constexpr u32 bits = 8 * sizeof(T);
  if (type.substr(1) != std::to_string(bits)) return false;
  return std::is_floating_point_v<T> ? type[0] == 'f'
         : std::is_signed_v<T>       ? type[0] == 's'
                                     : type[0] == 'u' || type[0] == 'b';
}
template <class F, class T, class N>
struct with_type;
template <class F, class T, std::size_t... N>
struct with_type<F, T, std::index_sequence<N...>> {
  template <std::size_t>
  using same = T;
  T operator()(same<N>... a) const { return static_cast<T>(F{}(a...)); }
};
/// The same, of f with `Count` operands of that one of T... that the type names, as the result is;
/// nothing if none of them is.
template <int Count, class... T, class F>
action of_type(std::string_view type, F) {
  action found = nullptr;
  ((is_named<T>(type)
        ? void(found = lane_by_lane<with_type<F, T, std::make_index_sequence<Count>>>::run)
        : void()),
   ...);
  return found;
}
template <int Count, class F>
action of_whole(std::string_view type, F f) {
  return of_type<Count, u16, s16, u32, s32, u64, s64>(type, f);
}
template <int Count, class F>
action of_real(std::string_view type, F f) {
  return of_type<Count, f32, f64>(type, f);
}
template <int Count, class F>
action of_any(std::string_view type, F f) {
  return of_type<Count, f32, f64, u16, s16, u32, s32, u64, s64>(type, f);
}

}  // namespace emulator
