// learned: what a network holds beside its workspace: weights, gradients, and what backward needs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base/names.hpp"
#include "../plan/init.hpp"
#include "check.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// Weights in memory of a network's own, or of the caller's. What was moved from has none.
template <class Buffer, class S>
class weight_memory {
 public:
  explicit weight_memory(std::int64_t count) : own_(count), all_(span_of(own_.data(), count)) {}
  explicit weight_memory(std::span<S> given) : all_(given) {}
  weight_memory(weight_memory&& other) noexcept
      : own_(std::move(other.own_)), all_(std::exchange(other.all_, {})) {}
  weight_memory& operator=(weight_memory&& other) noexcept {
    own_ = std::move(other.own_);
    all_ = std::exchange(other.all_, {});
    return *this;
  }

  Buffer const& own() const { return own_; }
  S* data() const { return all_.data(); }
  std::int64_t size() const { return std::ssize(all_); }

 private:
  Buffer own_;
  std::span<S> all_;
};

}  // namespace detail

/// Of a network on X of any expression: sizes are run-time numbers, so that all networks share one
/// body of code.
template <class X>
class learned {
 public:
  using S = typename X::scalar;
  using numbers = typename place<X>::template buffer<S>;

  FINEGRAIN_ONE_COPY learned(X const& on, std::vector<weight_entry> list, std::int64_t count,
                             initialisation const& start)
      : entries_(std::move(list)), weights_(count) {
    start_weights(on, entries_, weights_.own(), checked(start));
  }
  FINEGRAIN_ONE_COPY learned(std::vector<weight_entry> list, std::int64_t count,
                             std::span<S> weights)
      : entries_(std::move(list)), weights_(weights) {
    check_like_weights("weights", weights, count);
  }
  learned(learned&&) = default;
  learned& operator=(learned&&) = default;
  FINEGRAIN_ONE_COPY ~learned() = default;

  /// The weights, `count` of them unless they are another's now.
  S* weights(std::int64_t count) const {
    detail::check_holds(weights_.size(), count);
    return weights_.data();
  }
  /// To be written.
  S* weights(std::int64_t count) {
    writer_ = next_writer();
    return std::as_const(*this).weights(count);
  }
  matrix<S> weight(std::string_view name, std::int64_t count) const {
    static_cast<void>(weights(count));
    return view(weights_.data(), name);
  }
  matrix<S> weight(std::string_view name, std::int64_t count) {
    writer_ = next_writer();
    return std::as_const(*this).weight(name, count);
  }
  std::uint64_t writer() const { return writer_; }
  std::vector<weight_entry> const& entries() const { return entries_; }

  numbers const& gradients() const { return gradients_; }
  matrix<S> gradient(std::string_view name) const {
    if (gradients_.size() == 0)
      throw invalid_argument(
          "there are no gradients yet: call forward first, or reserve(tokens, true)");
    return view(gradients_.data(), name);
  }
  /// Room for gradients, and for `unwanted` numbers of a dx that nobody asks for.
  FINEGRAIN_ONE_COPY void reserve_gradients(X const& on, std::int64_t count,
                                            std::int64_t unwanted) {
    if (gradients_.size() == 0) {
      numbers fresh(count);
      place<X>::clear(on, fresh);
      gradients_ = std::move(fresh);
    }
    if (unwanted_.size() < unwanted) unwanted_ = numbers(unwanted);
  }
  S* unwanted() const { return unwanted_.data(); }

  /// Throws invalid_argument unless these are as many numbers as there are weights, where X can have them.
  FINEGRAIN_ONE_COPY static void check_like_weights(char const* what, std::span<S> numbers,
                                                    std::int64_t count) {
    if (std::ssize(numbers) != count)
      throw invalid_argument("the network has %lld weights; these are %lld %s", detail::shown(count),
                             detail::shown(numbers.size()), what);
    if (reinterpret_cast<std::uintptr_t>(numbers.data()) % place<X>::border != 0)
      throw invalid_argument("%s must start on a border of %lld bytes", what,
                             detail::shown(place<X>::border));
  }

  /// What backward needs of a forward, and which use of the workspace that was.
  struct forward {
    finegrain::batch batch;
    matrix<S const> x;
    finegrain::extent extent;
    std::uint64_t use = ~std::uint64_t{0};
  };
  forward const& last() const { return last_; }
  FINEGRAIN_ONE_COPY void keep(batch const& b, matrix<S const> x, extent e, std::uint64_t use) {
    last_ = {b, x, e, use};
  }
  /// Where a backward of that forward writes dx; throws invalid_argument where there can be none.
  FINEGRAIN_ONE_COPY matrix<S> input_gradient(X const& on, std::uint64_t use, matrix<S const> dy,
                                              matrix<S> dx, int in, int out) const {
    extent const e = last_.extent;
    if (last_.use != use)
      throw invalid_argument("backward needs a forward before it, and no other call between");
    extent const now = extent_on(on, e.tokens, true);
    if (e.workers != now.workers)
      throw invalid_argument("forward had %d workers and backward has %d", e.workers, now.workers);
    if (e.kept != now.kept)
      throw invalid_argument("the format of products changed between forward and backward");
    detail::check_shape("dy", dy, e.tokens, out);
    if (!dx.data) return {unwanted(), e.tokens, in};
    detail::check_dx<S>(dx, last_.x, e.tokens, in);
    detail::check_apart<S>("dy", dy, "dx", dx);
    return dx;
  }

 private:
  /// A number that no network had before: one may be moved into another's place.
  static std::uint64_t next_writer() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }
  FINEGRAIN_ONE_COPY matrix<S> view(S* all, std::string_view name) const {
    for (auto const& entry : entries_)
      if (entry.name == name) return {all + entry.offset, entry.rows, entry.cols};
    if (entries_.empty()) throw invalid_argument("the network has no weights");
    name = name.substr(0, 200);
    throw invalid_argument("the network has no weight named \"%.*s\"; the nearest name is \"%s\"",
                           static_cast<int>(name.size()), name.data(),
                           detail::nearest_name(entries_, name).c_str());
  }

  std::vector<weight_entry> entries_;
  detail::weight_memory<numbers, S> weights_;
  numbers gradients_;
  std::uint64_t writer_ = next_writer();
  numbers unwanted_;
  forward last_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
