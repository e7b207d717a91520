// generate: a decoder continues texts, one token of each at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "../base/math.hpp"
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
  /// Throws invalid_argument when `how` makes no sense, or there are no ids; std::bad_alloc.
  sampler(sampling const& how, int vocabulary) : how_(how) {
    if (vocabulary < 1)
      throw invalid_argument("a sampler draws from one id or more, not from %d", vocabulary);
    if (!(how.temperature >= 0) || how.top_k < 0 || !(how.top_p > 0 && how.top_p <= 1))
      throw invalid_argument(
          "sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, not "
          "%g, %d and %g",
          how.temperature, how.top_k, how.top_p);
    ids_.resize(static_cast<std::size_t>(vocabulary));
    weights_.resize(ids_.size());
  }

  /// The n-th draw, from one number for each id of the vocabulary, in memory of the host; of a text
  /// as with the seed + text.
  template <class S>
  std::int32_t operator()(S const* logits, std::uint64_t n, std::uint64_t text = 0) {
    using number = std::conditional_t<std::is_floating_point_v<S>, S, float>;
    auto const logit = [logits](std::int32_t id) { return static_cast<number>(logits[id]); };
    auto const first = [logit](std::int32_t a, std::int32_t b) {
      number const left = logit(a), right = logit(b);
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
    double const most = static_cast<double>(logit(ids_[0]));
    double total = 0;
    for (std::size_t i = 0; i < kept; ++i) {
      double const w = math::exp((static_cast<double>(logit(ids_[i])) - most) / how_.temperature);
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
    double left = random_uniform(how_.seed + text, n) * total;
    for (std::size_t i = 0; i < kept; ++i)
      if ((left -= weights_[i]) < 0) return ids_[i];
    return ids_[0];  // no weight is positive
  }

 private:
  sampling how_;
  std::vector<std::int32_t> ids_;
  std::vector<double> weights_;
};

namespace detail {

/// A text as it is generated.
struct continued {
  std::span<std::int32_t const> unread;  // tokens that the network has not seen
  std::int64_t made = 0;
  std::int32_t last = 0;  // what was drawn last
};

/// The tokens of a pass: of every text that is not at its end one at least, and of prompts as many as
/// there is room for.
FINEGRAIN_LAZY struct next_tokens {
  std::vector<std::int32_t> ids;     // as many as a pass may have
  std::vector<std::int64_t> starts;  // (texts + 1)
  std::vector<std::int64_t> lasts;   // the last row of each text that has any

  next_tokens(std::int64_t rows, std::size_t texts)
      : ids(static_cast<std::size_t>(rows)), starts(texts + 1) {
    lasts.reserve(texts);
  }
  /// Takes them from what texts have unread, `going` of which are not at their end.
  void take(std::vector<continued>& texts, std::int64_t going) {
    std::int64_t after = going, at = 0;  // each of those behind has a token at least
    lasts.clear();
    for (std::size_t s = 0; s < texts.size(); ++s) {
      auto& unread = texts[s].unread;
      if (!unread.empty()) --after;
      auto const n =
          std::min(unread.size(), static_cast<std::size_t>(std::ssize(ids) - at - after));
      std::copy_n(unread.begin(), n, ids.begin() + at);
      unread = unread.subspan(n);
      starts[s + 1] = at += static_cast<std::int64_t>(n);
      if (n > 0) lasts.push_back(at - 1);
    }
  }
};

}  // namespace detail

/// Continues prompts by `count` tokens each, all in the same passes: sink(i, id) gets each token of
/// prompt i as it is made, and ends that text early by returning false. A text is the same whatever
/// others there are, that of prompt i alone with the seed how.seed + i, unless routers compare
/// tokens; on cuda logits are the same but for rounding, which may change what is drawn. All memory
/// is allocated before the first token, but for the host's copies of a device's logits. The network
/// is only read, so several threads may generate at a time; not on cuda, where passes share memory
/// of their executor. Throws invalid_argument, before any token is made: an empty prompt, or an id of
/// one that the embedding does not know.
template <class Net, Expr E, class X, class Sink>
void generate(inference<Net, E, X> const& net, std::span<id_list const> prompts, std::int64_t count,
              sampling const& how, Sink&& sink) {
  static_assert(Net::in == ids, "generate needs a network that reads token ids");
  using S = typename X::scalar;
  constexpr int vocabulary = Net::out;
  // Tokens of prompts that go through at a time: as many as weights are worth reading for, and few
  // where all of their logits are made.
  constexpr std::int64_t most = Net::picks_rows ? 1024 : 64;
  std::size_t const sequences = prompts.size();
  std::int64_t all = 0, longest = 0;
  std::vector<detail::continued> texts;
  for (id_list const& prompt : prompts) {
    if (prompt.empty()) throw invalid_argument("generate needs a prompt of at least one token");
    texts.push_back({prompt});
    all += static_cast<std::int64_t>(prompt.size());
    longest = std::max(longest, static_cast<std::int64_t>(prompt.size()));
  }
  if (count < 0 || count > INT64_MAX - longest)
    throw invalid_argument("generate cannot make %lld tokens", detail::shown(count));
  if (count == 0 || sequences == 0) return;

  std::int64_t const rows = std::min(all, std::max(most, static_cast<std::int64_t>(sequences)));
  sampler draw(how, vocabulary);
  for (id_list const& prompt : prompts)  // a bad id may be of a late pass
    detail::check_table_ids(prompt, std::ssize(prompt), detail::form_of<E, X>.vocabulary);
  auto cache = detail::empty_cache<X>(cache_width(E{}), longest + count - 1,
                                      static_cast<std::int64_t>(sequences));
  typename place<X>::template buffer<S> const logits(
      (Net::picks_rows ? std::min(rows, static_cast<std::int64_t>(sequences)) : rows) * vocabulary);
  typename place<X>::template buffer<std::byte> const memory(
      net.workspace_bytes(net.extent_of(rows)));
  detail::next_tokens<> tokens(rows, sequences);
  std::vector<typename place<X>::sum> row;
  std::span<std::byte> const workspace = span_of(memory.data(), memory.size());

  auto going = static_cast<std::int64_t>(sequences);  // texts that are not at their end
  while (going > 0) {
    tokens.take(texts, going);
    auto const& starts = tokens.starts;
    batch b{.tokens = starts.back(),
            .ids = span_of<std::int32_t const>(tokens.ids.data(), starts.back()),
            .starts = starts,
            .routing = how.routing};
    if (Net::picks_rows) b.wanted = tokens.lasts;
    matrix<S> const y(logits.data(), Net::picks_rows ? std::ssize(tokens.lasts) : b.tokens,
                      vocabulary);
    net.infer(b, {}, y, workspace, &cache);
    std::int64_t next = 0;  // of the texts in this pass
    for (std::size_t s = 0; s < sequences; ++s) {
      detail::continued& text = texts[s];
      auto const sequence = static_cast<std::int64_t>(s);
      if (starts[s] == starts[s + 1]) continue;
      std::int64_t const of_y = Net::picks_rows ? next++ : starts[s + 1] - 1;
      if (!text.unread.empty()) continue;
      auto const* const last = place<X>::seen(net.on(), row, y.row(of_y), vocabulary);
      text.last = draw(last, static_cast<std::uint64_t>(text.made++), s);
      bool goes_on = text.made < count;
      if constexpr (std::is_void_v<decltype(sink(sequence, text.last))>)
        sink(sequence, text.last);
      else
        goes_on = sink(sequence, text.last) && goes_on;
      if (goes_on)
        text.unread = {&text.last, 1};
      else
        --going;
    }
  }
}

/// Continues one prompt: sink(id) gets each token.
template <class Net, Expr E, class X, class Sink>
void generate(inference<Net, E, X> const& net, id_list prompt, std::int64_t count,
              sampling const& how, Sink&& sink) {
  generate(net, std::span<id_list const>(&prompt, 1), count, how,
           [&](std::int64_t, std::int32_t id) { return sink(id); });
}

}  // namespace finegrain::inline FINEGRAIN_ABI
