// frozen: a network that no longer changes, its weights packed in a number format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/span.hpp"
#include "../plan/frozen.hpp"
#include "network.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Weights of E from W, which are found finite where they are asked for: plan/frozen.hpp.
template <Expr E, class X, class W>
struct finite_weights {
  X const& on;
  W weights;
  std::int64_t first = 0;

  friend finite_weights operator+(finite_weights const& w, std::int64_t n) {
    return {w.on, w.weights + n, w.first + n};
  }
  auto const* numbers(std::int64_t count) const {
    auto const* const all = detail::numbers(weights, count);
    if (!place<X>::finite(on, all, count)) check_each(all, count);
    return all;
  }

 private:
  /// Throws where it is a weight, and not what stands between two.
  void check_each(typename X::scalar const* all, std::int64_t count) const {
    for (weight_entry const& w : list_weights<E>())
      if (first <= w.offset && w.offset < first + count &&
          !place<X>::finite(on, all + (w.offset - first), w.rows * w.cols))
        throw invalid_argument("\"%s\" has a weight that is not finite and cannot be quantised",
                               w.name.c_str());
  }
};

}  // namespace detail

/// A copy of a network for inference, whose weights stand as executor X reads them fastest, in
/// formats F. What X has no such form for stays as it was; activations between stages stay in X's
/// numbers. It runs as a network does.
///
///   frozen<model, cpu, format::bf16> fast(net);
///   fast(x, y);
template <Expr E, Executor X, formats F>
class frozen : public inference<frozen<E, X, F>, E, X> {
  using base = inference<frozen<E, X, F>, E, X>;

 public:
  static constexpr formats stored = F;
  static_assert(F.experts != format::f64 && F.rest != format::f64,
                "frozen: weights are stored in f32, bf16, fp8, int8, int8_block or int4");

  /// Copies the network's weights, and its executor. Throws std::bad_alloc, and invalid_argument for
  /// weights that are not finite where the format is quantised.
  explicit frozen(network<E, X> const& net) : frozen(net.on(), net.parameters().data()) {}
  /// The same of weights_size<E>() numbers that are no network's: an array of them, or what makes some at
  /// a time as they are asked for (plan/frozen.hpp).
  template <class W>
  frozen(X on, W const& weights) : frozen(std::move(on)) {
    if constexpr (quantised)
      detail::fill<E>(base::on_, weights_,
                      detail::finite_weights<E, X, std::decay_t<W>>{base::on_, weights});
    else
      detail::fill<E>(base::on_, weights_, weights);
    place<X>::wait(base::on_);  // a pass may read codes ahead of the kernels behind which it starts
  }

  /// A network of weights that were packed before, on an executor of the same packing: put(on, memory)
  /// writes each of arrays() in memory, which is the executor's.
  template <class Put>
  static frozen of_packed(X on, Put&& put) {
    frozen made(std::move(on));
    put(std::as_const(made).on(), span_of(made.numbers_.data(), made.numbers_.size()));
    return made;
  }

  template <class M>
  void forward(batch const&, M&&, matrix<typename X::scalar>, std::span<std::byte> = {}) const {
    refuse<M>();
  }
  template <class M, class... More>
  void backward(M&&, More&&...) const {
    refuse<M>();
  }
  template <class Name>
  matrix<typename X::scalar const> weight(Name&&) const {
    refuse<Name>();
    return {};
  }

  /// Whether a format has no room for what is not finite.
  static constexpr bool quantised = std::min(bits(F.experts), bits(F.rest)) <= 8;

  /// Bytes of the weights. Constexpr.
  static constexpr std::int64_t weight_bytes() {
    arena counting;
    static_cast<void>(frozen_weights<X, F, E>(counting));
    return counting.used();
  }
  /// Where the weights' arrays stand in packed(), those that have any bytes.
  static std::vector<array_place> arrays() {
    arena counting;
    static_cast<void>(frozen_weights<X, F, E>(counting));
    std::vector<array_place> list(static_cast<std::size_t>(counting.arrays()));
    arena listing(list.data());
    static_cast<void>(frozen_weights<X, F, E>(listing));
    return list;
  }
  /// The memory of the weights, the executor's. What lies between arrays was written by nobody.
  std::span<std::byte const> packed() const {
    detail::check_holds(numbers_.size(), weight_bytes());
    return span_of<std::byte const>(numbers_.data(), numbers_.size());
  }
  /// The weights as plans read them.
  frozen_weights<X, F, E> const& weights() const {
    detail::check_holds(numbers_.size(), weight_bytes());
    return weights_;
  }

 private:
  template <class T>
  static void refuse() {
    static_assert(detail::never<T>,
                  "frozen: its weights are packed and learn no longer, and nothing is kept for "
                  "backward: call it, or infer");
  }
  explicit frozen(X on) : base(std::move(on)), numbers_(weight_bytes()), weights_(bound()) {}
  frozen_weights<X, F, E> bound() {
    arena memory(numbers_.data(), numbers_.size());
    return frozen_weights<X, F, E>(memory);
  }

  typename base::template buffer_of<std::byte> numbers_;
  frozen_weights<X, F, E> weights_;
};

/// A copy of a network in one format, quantize<format::bf16>(net), or with its experts in one and the
/// rest in another: quantize<format::int4, format::int8>(net).
template <format F, format Rest = F, Expr E, class X>
frozen<E, X, formats(F, Rest)> quantize(network<E, X> const& net) {
  return frozen<E, X, formats(F, Rest)>(net);
}
template <format F, format Rest = F, Expr E, class X, formats Stored>
frozen<E, X, formats(F, Rest)> quantize(frozen<E, X, Stored> const&) {
  static_assert(detail::never<E>,
                "quantize: this network is frozen already: quantize the one that it was made of");
}

}  // namespace finegrain::inline FINEGRAIN_ABI
