// batch: the tokens of one call, with what is asked of routers and what they tell.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/buffer.hpp"
#include "../base/span.hpp"
#include "request.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

struct id_list;

namespace detail {
template <class V>
concept IdRange = !std::is_same_v<std::remove_cvref_t<V>, id_list> && !EigenDense<V> &&
                  std::is_convertible_v<V&&, std::span<std::int32_t const>>;
template <class V>
concept EigenIds =
    EigenDense<V> && std::is_same_v<std::remove_const_t<eigen_number<V>>, std::int32_t>;
template <class V>
concept OtherIds = requires(V& v) {
  v.data();
  v.size();
  requires std::is_integral_v<pointed_at<decltype(v.data())>> &&
      !std::is_same_v<pointed_at<decltype(v.data())>, std::int32_t>;
};
}  // namespace detail

/// Token ids that somebody else owns: a vector, array or span of std::int32_t, or an Eigen vector.
struct id_list : std::span<std::int32_t const> {
  constexpr id_list() = default;
  // Written down: to find out what an implicit one would be, a compiler asks whether an id_list is a
  // range that a span is made of, wherever this header is included.
  constexpr id_list(id_list const&) = default;
  constexpr id_list& operator=(id_list const&) = default;
  template <detail::IdRange V>  // clang 14 does not inherit span's constructor from ranges
  constexpr id_list(V&& v) : span(std::forward<V>(v)) {}  // NOLINT
  template <detail::EigenIds V>
  constexpr id_list(V&& v)  // NOLINT
      : span(v.data(), static_cast<std::size_t>(v.rows() * v.cols())) {
    if ((v.rows() != 1 && v.cols() != 1) || v.innerStride() != 1)
      throw invalid_argument("token ids must be a vector whose numbers are contiguous");
  }
  template <detail::OtherIds V>
  constexpr id_list(V&&) {  // NOLINT
    static_assert(detail::never<V>, "token ids are std::int32_t: other integers would be copied");
  }
};

struct timings;
struct batch;

/// What rules of your own have in common.
struct own_rule {
  virtual ~own_rule() = default;
  /// Its name and every number that it holds. A study knows a run by all that decides its bits: it
  /// takes no rule that says nothing here.
  virtual std::string settings() const { return {}; }
};

/// A balance loss of your own: the sum over experts of factor P. P is differentiated, factors are
/// not. Over sequences, several threads call it at a time, and it must not throw.
struct balance_rule : own_rule {
  /// From f (R), how many times an expert was chosen over the mean, in a window of tokens.
  virtual void factors(std::span<double const> f, std::span<double> factors) const = 0;
};

/// A choice of your own, for selection::rule.
struct routing_rule : own_rule {
  /// Fills experts (T, K), best first, from scores (T, R): distinct experts, or no_expert in slots
  /// that a token does not use. Anything else is refused with invalid_argument.
  virtual void choose(batch const& b, matrix<double const> scores,
                      matrix<std::int32_t> experts) const = 0;
};

/// What a router did with one batch.
struct routing_report {
  std::vector<std::int64_t> load;     // (R) slots of each expert that were chosen,
  std::vector<std::int64_t> dropped;  // (R) and of these, dropped
  std::vector<double> mean_score;     // (R) P: mean over tokens of scores normalised to sum 1
  std::vector<double> bias;           // (R) the selection bias that it chose with
  std::vector<double> quantile;       // (R) the bias that quantile balancing would set
  double balance_loss = 0;            // all losses, coefficients included
  double entropy = 0;  // mean over tokens of the entropy of their scores, over that of equal ones
  double devices = 0;  // mean over tokens of the devices that their kept slots are on
  std::int64_t tokens = 0;
  // Each token's choice, best first, in a log of make_log(tokens): see choices().
  std::vector<std::int32_t> experts;
  std::vector<float> weights;
  int slots = 0;  // of a token

  /// Experts (tokens, slots): ~expert where it was dropped, no_expert where a slot is not used; and
  /// what their outputs are times. Empty in a log of make_log().
  matrix<std::int32_t const> choices() const {
    return {experts.data(), experts.empty() ? 0 : tokens, slots};
  }
  matrix<float const> choice_weights() const {
    return {weights.data(), weights.empty() ? 0 : tokens, slots};
  }

  routing_report() = default;
  FINEGRAIN_LAZY explicit routing_report(int routed)
      : load(std::size_t(routed)),
        dropped(std::size_t(routed)),
        mean_score(std::size_t(routed)),
        bias(std::size_t(routed)),
        quantile(std::size_t(routed)) {}
};

/// One report for each router that a forward pass comes by, in its order. Sized by the network
/// before the pass, so that writing a report allocates nothing.
struct routing_log {
  std::vector<routing_report> layers;
  std::size_t next = 0;  // the report that the next router writes

  double balance_loss() const {
    double total = 0;
    for (auto const& layer : layers) total += layer.balance_loss;
    return total;
  }
};

namespace detail {
/// The report that the next router of this pass writes.
inline routing_report& next_report(routing_log& log) {
  if (log.next >= log.layers.size())
    throw invalid_argument("the routing log has room for %lld routers and there are more",
                           detail::shown(log.layers.size()));
  return log.layers[log.next++];
}
}  // namespace detail

/// T tokens that go through an expression together: one or more sequences, one after the other.
/// `starts` holds the first row of each sequence and, last, T; empty means one sequence. Attention
/// sees a sequence's earlier rows only, whatever their positions; every other stage sees tokens one
/// by one.
struct batch {
  std::int64_t tokens = 0;
  id_list ids = {};                              // (T) for an embedding
  std::span<std::int64_t const> starts = {};     // (sequences + 1)
  std::span<std::int64_t const> positions = {};  // (T) in place of 0, 1, ... in each sequence
  std::span<std::int64_t const> wanted = {};     // of infer: rising rows, which alone y has; or all
  routing_request routing = {};
  routing_log* log = nullptr;
  timings* times = nullptr;  // of a timed expression (plan/timed.hpp)

  std::int64_t sequences() const {
    return starts.empty() ? 1 : static_cast<std::int64_t>(starts.size()) - 1;
  }
  std::int64_t begin(std::int64_t sequence) const {
    return starts.empty() ? 0 : starts[static_cast<std::size_t>(sequence)];
  }
  std::int64_t end(std::int64_t sequence) const {
    return starts.empty() ? tokens : starts[static_cast<std::size_t>(sequence) + 1];
  }
  /// Tokens of a sequence; of one alone, also where the host cannot read `starts`.
  std::int64_t length(std::int64_t sequence) const {
    return sequences() == 1 ? tokens : end(sequence) - begin(sequence);
  }
};

/// The tokens of earlier calls that stand before those of a batch, sequence by sequence, in a cache:
/// sequence s of the batch is sequence s of the cache. By default there are none.
struct earlier {
  std::span<std::int64_t const> lengths = {};  // (sequences) tokens of each; empty: no cache
  std::int64_t capacity = 0;                   // rows of a sequence in a cache
  std::int64_t const* rows = nullptr;          // (T) of tokens in a device's cache of several

  std::int64_t length(std::int64_t sequence) const {
    return lengths.empty() ? 0 : lengths[static_cast<std::size_t>(sequence)];
  }
  bool none() const {
    for (std::int64_t length : lengths)
      if (length > 0) return false;
    return true;
  }
  /// The row of a sequence's first token, in a stage's part of the cache; without one, in the batch.
  std::int64_t first_row(batch const& b, std::int64_t sequence) const {
    return lengths.empty() ? b.begin(sequence) : sequence * capacity;
  }
  /// Where a row of the batch stands in its sequence.
  std::int64_t position(batch const& b, std::int64_t row, std::int64_t sequence) const {
    return b.positions.empty() ? length(sequence) + row - b.begin(sequence)
                               : b.positions[static_cast<std::size_t>(row)];
  }
};

/// What generation keeps of the tokens of one sequence or several, each with a length of its own:
/// keys and values. Stages take their parts of it in the order of the forward pass.
template <class T, class Numbers = buffer<T>>
struct kv_cache {
  Numbers numbers;                    // a part for each stage: (sequences * capacity, width)
  std::int64_t capacity = 0;          // tokens of a sequence that there is room for
  std::vector<std::int64_t> lengths;  // (sequences) tokens seen of each
  std::int64_t used = 0;              // numbers handed out in this pass

  /// Room for `width` numbers a token: cache_width(E).
  kv_cache(std::int64_t width, std::int64_t capacity, std::int64_t sequences = 1)
      : numbers(width * capacity * sequences),
        capacity(capacity),
        lengths(static_cast<std::size_t>(sequences)) {}

  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths.size()); }
  earlier past() const { return {span_of(lengths.data(), sequences()), capacity}; }
  /// Forgets a sequence's tokens behind its first `length`: it goes on from there, or another begins in
  /// its place.
  void reset(std::int64_t sequence, std::int64_t length = 0) {
    if (sequence < 0 || sequence >= sequences())
      throw invalid_argument("the cache holds %lld sequences: there is no sequence %lld",
                             detail::shown(sequences()), detail::shown(sequence));
    std::int64_t& now = lengths[static_cast<std::size_t>(sequence)];
    if (length < 0 || length > now)
      throw invalid_argument("sequence %lld has %lld tokens in the cache: it cannot go back to %lld",
                             detail::shown(sequence), detail::shown(now), detail::shown(length));
    now = length;
  }
  /// Whether the numbers are as many as the lengths say, `width` of them a token.
  bool fits(std::int64_t width) const {
    for (std::int64_t length : lengths)
      if (length < 0 || length > capacity) return false;
    return sequences() > 0 && numbers.size() == width * capacity * sequences();
  }
  /// The part of the stage that runs now: (sequences * capacity, width).
  matrix<T> take(std::int64_t width) {
    T* const at = numbers.data() + used;
    std::int64_t const rows = sequences() * capacity;
    used += width * rows;
    return {at, rows, width};
  }
  /// The tokens of a batch have been seen.
  void grow(batch const& b) {
    for (std::size_t s = 0; s < lengths.size(); ++s)
      lengths[s] += b.length(static_cast<std::int64_t>(s));
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
