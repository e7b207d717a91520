// network_input: what a network reads, numbers or token ids.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "../plan/batch.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {
/// What is a view of the other kind.
template <class V, class View, class Other>
concept Mistaken = std::is_convertible_v<V, Other> && !std::is_convertible_v<V, View>;
}  // namespace detail

/// One sequence that a network is called with: T token ids if the network begins with an embedding; else
/// numbers (T, in).
template <class S, bool Ids>
class network_input {
  using view = std::conditional_t<Ids, id_list, matrix<S const>>;
  using other = std::conditional_t<Ids, matrix<S const>, id_list>;

 public:
  template <class... A>
  requires std::is_constructible_v<view, A...>
  constexpr network_input(A&&... a) : view_(std::forward<A>(a)...) {}  // NOLINT
  template <detail::Mistaken<view, other> V>
  constexpr network_input(V&&) {  // NOLINT
    static_assert(
        Ids || detail::never<V>,
        "this network reads numbers: token ids are for one that begins with an embedding");
    static_assert(!Ids || detail::never<V>,
                  "this network begins with an embedding: it reads token ids, not numbers");
  }

  finegrain::batch batch() const {
    if constexpr (Ids)
      return {.tokens = static_cast<std::int64_t>(view_.size()), .ids = view_};
    else
      return {.tokens = view_.rows};
  }
  /// None beside token ids.
  matrix<S const> numbers() const {
    if constexpr (Ids)
      return {};
    else
      return view_;
  }

 private:
  view view_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
