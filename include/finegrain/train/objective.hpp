// objective: what a training step makes small: targets, or a loss of your own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "../model/check.hpp"
#include "../plan/batch.hpp"
#include "../plan/place.hpp"
#include "../plan/scored.hpp"
#include "loss.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What a mean over so many terms divides by: of none it is 0, not NaN.
inline double terms_of_mean(std::int64_t terms) {
  return static_cast<double>(std::max<std::int64_t>(terms, 1));
}

template <class X>
struct batch_loss;

/// What a step makes small, a mean over the batch: of token ids (T) the cross-entropy, where those
/// below 0 are left out; of numbers (T, out) the squared error; or a loss of your own,
///
///   auto const loss = [&](auto const& on, std::int64_t first, fg::matrix<float const> y,
///                         fg::matrix<float> dy) { ...; return sum; };
///
/// an object, or a function, that lasts as long as the call. It is asked for some tokens at a time:
/// y (rows, out) are the outputs of tokens first, first + 1, ..., and it returns the sum of what each
/// costs. Unless dy (rows, out) is empty, it writes there the gradient of that sum; dy shares no
/// memory with y, and is 0 before. The trainer divides both by how many terms the mean has, which
/// are the batch's tokens, or what a member `double terms() const` returns, finite and above 0, else
/// invalid_argument. Without tokens the loss is 0, and not asked.
///
/// On cuda it is called on the host with memory of the device: its work is enqueued on on.stream, and
/// adds the sum to *on.context->loss.data(), to which what it returns is added; cross_entropy and
/// squared_error do so, and return 0. A recorded step asks it once, when it is recorded.
template <class X>
class objective {
  using S = typename X::scalar;
  template <class V>
  static constexpr bool other = !std::is_same_v<std::remove_cvref_t<V>, objective>;
  template <class... A>
  static constexpr bool ids_of = std::is_constructible_v<id_list, A...>;
  template <class... A>
  static constexpr bool numbers_of = std::is_constructible_v<matrix<S const>, A...>;

 public:
  template <class... A>
  requires((other<A> && ...) && ids_of<A...>) objective(A&&... ids)  // NOLINT
      : kind_(kind::ids), ids_(std::forward<A>(ids)...) {}
  template <class... A>
  requires((other<A> && ...) && !ids_of<A...> && numbers_of<A...>)
      objective(A&&... numbers)  // NOLINT
      : kind_(kind::numbers), numbers_(std::forward<A>(numbers)...) {}
  template <class L>
  requires(other<L> && !ids_of<L> && !numbers_of<L>) objective(L&& loss)  // NOLINT
      : kind_(kind::own),
        own_(const_cast<void*>(reinterpret_cast<void const*>(std::addressof(loss)))) {
    using loss_type = std::remove_reference_t<L>;
    static_assert(
        Loss<loss_type, X>,
        "targets are token ids or a matrix of the network's numbers; a loss of your own is called, "
        "const, with (X const& on, std::int64_t first, matrix<S const> y, matrix<S> dy), and "
        "returns a sum");
    if constexpr (Loss<loss_type, X>) {
      constexpr bool counts = requires(loss_type const& own) {
        { own.terms() } -> std::convertible_to<double>;
      };
      static_assert(
          counts || !requires { &loss_type::terms; },
          "terms, the number that a loss's mean divides by, is a member function: "
          "double terms() const");
      sum_ = [](void* own, X const& on, std::int64_t first, matrix<S const> y,
                matrix<S> dy) -> double {
        return (*reinterpret_cast<loss_type const*>(own))(on, first, y, dy);
      };
      if constexpr (counts)
        terms_ = [](void* own) -> double {
          return reinterpret_cast<loss_type const*>(own)->terms();
        };
    }
  }

  /// Whether it is a loss of the user's own.
  bool own() const { return kind_ == kind::own; }
  /// The targets' memory; none of a loss of the user's own.
  void const* targets() const {
    return kind_ == kind::ids ? static_cast<void const*>(ids_.data()) : numbers_.data;
  }
  /// Of one batch, of a network of so many outputs, with gradients `scale` times as large. Token ids
  /// are copied to where the executor reads them if it does not read them where they are. A loss of
  /// the user's own then wants room. Throws invalid_argument where the targets are not the batch's.
  batch_loss<X> over(X const& on, std::int64_t tokens, int out, double scale,
                     typename place<X>::template buffer<std::int32_t>& copied) const;

 private:
  friend struct batch_loss<X>;
  enum class kind { ids, numbers, own };
  kind kind_;
  id_list ids_;
  matrix<S const> numbers_;
  void* own_ = nullptr;
  double (*sum_)(void* own, X const& on, std::int64_t first, matrix<S const> y,
                 matrix<S> dy) = nullptr;
  double (*terms_)(void* own) = nullptr;
};

/// An objective over a batch, as the pass that ends in it asks for it: the sum over some tokens, and
/// `scale` times the gradient of the mean over all terms.
template <class X>
struct batch_loss {
  using S = typename X::scalar;
  objective<X> of;
  double terms;                 // of the batch; 1 where the executor counts them,
  std::int64_t const* counted;  // and then there
  double scale;
  S* room = nullptr;           // for the gradient that a loss of the user's own makes, of a chunk
  mutable bool asked = false;  // then gradients may have changed

  /// The terms, wherever they are. Waits for an executor that counts them.
  double terms_on(X const& on) const {
    return counted ? terms_of_mean(place<X>::read(on, counted)) : terms;
  }
  double operator()(X const& on, std::int64_t first, matrix<S const> y, matrix<S> dy) const {
    using kind = typename objective<X>::kind;
    asked = true;
    if (of.kind_ == kind::own) return own(on, first, y, dy);
    if (of.kind_ == kind::numbers)
      return squared_error(on, y, of.numbers_.middle_rows(first, y.rows), scale / terms, dy);
    auto const mine =
        of.ids_.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(y.rows));
    if constexpr (place<X>::here)
      return cross_entropy(on, y, mine, scale / terms, dy);
    else
      return cross_entropy(on, y, mine, scale / terms, counted, dy);
  }

 private:
  /// Beside y, since a loss that is put together of others reads it after it has written dy; and
  /// scaled here, where no part of it can be forgotten.
  double own(X const& on, std::int64_t first, matrix<S const> y, matrix<S> dy) const {
    if (y.rows == 0) return 0;
    if (!dy.data) return of.sum_(of.own_, on, first, y, {});
    matrix<S> const made(room, y.rows, y.cols);
    clear_rows(on, made);
    double const sum = of.sum_(of.own_, on, first, y, made);
    scale_rows(on, matrix<S const>(made), scale / terms, dy);
    return sum;
  }
};

template <class X>
batch_loss<X> objective<X>::over(X const& on, std::int64_t tokens, int out, double scale,
                                 typename place<X>::template buffer<std::int32_t>& copied) const {
  batch_loss<X> made{*this, 1, nullptr, scale};
  if (kind_ == kind::own) {
    if (tokens > 0) made.terms = terms_ ? terms_(own_) : static_cast<double>(tokens);
    if (!(made.terms > 0) || !std::isfinite(made.terms))
      throw invalid_argument("the mean of a loss needs a number of terms above 0, not %g",
                             made.terms);
    return made;
  }
  if (kind_ == kind::numbers) {
    detail::check_shape("the matrix of targets", numbers_, tokens, out);
    made.terms = terms_of_mean(numbers_.size());
    return made;
  }
  if constexpr (!place<X>::here) {
    check_targets(ids_, tokens);
    made.counted = terms_on(on, ids_);
    if (made.counted) return made;
  }
  made.terms = terms_of_mean(count_targets(ids_, tokens, out));
  made.of.ids_ = place<X>::list(on, copied, ids_);
  return made;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
