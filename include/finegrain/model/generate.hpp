// generate: a decoder continues a text, one token at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "../base/random.hpp"
#include "inference.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How the next token is drawn. Temperature 0 takes the likeliest. Otherwise logits are divided by
/// the temperature, and what remains is drawn from: the top_k likeliest (0: all), and of them the
/// fewest whose probabilities reach top_p.
struct sampling {
  double temperature = 0;
  int top_k = 0;
  double top_p = 1;
  std::uint64_t seed = 0;
  routing_request routing = {};  // what is asked of the routers
};

/// Draws tokens from logits: always the same ones for the same seed. NaN ranks last; in equal
/// logits the lowest id is first.
class sampler {
 public:
  /// Throws invalid_argument when `how` makes no sense, std::bad_alloc.
  sampler(sampling const& how, int vocabulary)
      : how_(how),
        ids_(static_cast<std::size_t>(vocabulary)),
        weights_(static_cast<std::size_t>(vocabulary)) {
    if (!(how.temperature >= 0) || how.top_k < 0 || !(how.top_p > 0 && how.top_p <= 1))
      throw invalid_argument(
          "sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, not "
          "%g, %d and %g",
          how.temperature, how.top_k, how.top_p);
  }

  /// The n-th draw, from one number for each id of the vocabulary.
  template <class S>
  std::int32_t operator()(S const* logits, std::uint64_t n) {
    auto const first = [logits](std::int32_t a, std::int32_t b) {
      S const left = logits[a], right = logits[b];
      bool const left_is = left == left, right_is = right == right;  // not NaN
      if (left_is != right_is) return left_is;
      if (left_is && left != right) return left > right;
      return a < b;
    };
    std::iota(ids_.begin(), ids_.end(), 0);
    if (how_.temperature == 0) return *std::min_element(ids_.begin(), ids_.end(), first);

    std::size_t kept = ids_.size();
    if (how_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(how_.top_k));
    std::partial_sort(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(kept), ids_.end(),
                      first);
    double const most = static_cast<double>(logits[ids_[0]]);
    double total = 0;
    for (std::size_t i = 0; i < kept; ++i) {
      double const w = std::exp((static_cast<double>(logits[ids_[i]]) - most) / how_.temperature);
      weights_[i] = w > 0 ? w : 0;  // NaN too
      total += weights_[i];
    }
    if (how_.top_p < 1) {
      double sum = 0;
      for (std::size_t i = 0; i < kept; ++i) {
        sum += weights_[i];
        if (sum >= how_.top_p * total) kept = i + 1;
      }
      total = sum;
    }
    double left = random_uniform(how_.seed, n) * total;
    for (std::size_t i = 0; i < kept; ++i)
      if ((left -= weights_[i]) < 0) return ids_[i];
    return ids_[0];  // no weight is positive
  }

 private:
  sampling how_;
  std::vector<std::int32_t> ids_;
  std::vector<double> weights_;
};

/// Continues a prompt by `count` tokens: sink(id) gets each as it is made, and ends the text early
/// by returning false. All memory is allocated before the first token; the network is only read,
/// so several threads may generate at a time. Throws invalid_argument: an empty prompt, or an id
/// that the network does not know.
template <class Net, Expr E, class X, class Sink>
void generate(inference<Net, E, X> const& net, id_list prompt, std::int64_t count,
              sampling const& how, Sink&& sink) {
  static_assert(Net::in == ids, "generate needs a network that reads token ids");
  using S = typename X::scalar;
  constexpr int vocabulary = Net::out;
  constexpr std::int64_t most = 64;  // tokens of the prompt that go through at a time
  auto const length = static_cast<std::int64_t>(prompt.size());
  if (length == 0) throw invalid_argument("generate needs a prompt of at least one token");
  if (count < 0) throw invalid_argument("generate cannot make %lld tokens", detail::shown(count));
  if (count == 0) return;

  std::int64_t const rows = std::min(most, length);
  sampler draw(how, vocabulary);
  auto cache = net.make_cache(length + count - 1);
  typename place<X>::template buffer<S> const logits(rows * vocabulary);
  typename place<X>::template buffer<std::byte> const memory(
      net.workspace_bytes(net.extent_of(rows)));
  std::vector<typename place<X>::sum> row;
  std::span<std::byte> const workspace(memory.data(), static_cast<std::size_t>(memory.size()));
  auto const read = [&](std::span<std::int32_t const> some) {  // the logits after the last of them
    auto const n = static_cast<std::int64_t>(some.size());
    matrix<S> const y(logits.data(), n, vocabulary);
    net.infer({.tokens = n, .ids = some, .routing = how.routing}, {}, y, workspace, &cache);
    return place<X>::seen(net.on(), row, y.row(n - 1), vocabulary);
  };

  typename place<X>::sum const* last = nullptr;
  for (std::int64_t at = 0; at < length; at += rows)
    last = read(prompt.subspan(static_cast<std::size_t>(at),
                               static_cast<std::size_t>(std::min(rows, length - at))));
  for (std::int64_t n = 0; n < count; ++n) {
    std::int32_t const id = draw(last, static_cast<std::uint64_t>(n));
    if constexpr (std::is_void_v<decltype(sink(id))>)
      sink(id);
    else if (!sink(id))
      return;
    if (n + 1 < count) last = read({&id, 1});
  }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
