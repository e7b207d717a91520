// batch: the tokens of one call, with what is asked of routers and what they tell.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/matrix.hpp"
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

/// What the activations of all executors have in common (model/activations.hpp). Those that were moved
/// from are no network's.
struct any_activations {
  void const* network = nullptr;  // what tells the networks apart that they are of

  any_activations() = default;
  any_activations(any_activations&& other) noexcept
      : network(std::exchange(other.network, nullptr)) {}
  any_activations& operator=(any_activations&& other) noexcept {
    network = std::exchange(other.network, nullptr);
    return *this;
  }
};

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

/// Where a batch's tokens go in one layer of selection::given, and what the experts' outputs are times.
struct given_choice {
  matrix<std::int32_t const> experts;  // (T, K), distinct; below 0: a slot is not used
  matrix<float const> weights;         // (T, K); of slots that are not used, anything
  /// (T, K), or empty: backward overwrites it with the gradients of what it starts from, of a trainer's
  /// batch times its loss_scale. It must stand until then.
  matrix<float> dweights = {};
};

/// What a router did with one batch.
struct routing_report {
  std::vector<std::int64_t> load;     // (R) slots of each expert that were chosen,
  std::vector<std::int64_t> dropped;  // (R) and of these, dropped
  std::vector<double> mean_score;     // (R) P: mean over tokens of scores normalised to sum 1
  std::vector<double> bias;           // (R) the selection bias that it chose with
  std::vector<double> quantile;       // (R) the bias that quantile balancing would set,
  bool quantiles = false;             // if the batch's request had .quantiles; else 0
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
/// Throws invalid_argument where a token's experts (T, K), of so many, are not distinct, or not there.
/// Slots with `unused`, or less, are not used.
inline void check_experts(char const* who, int routed, matrix<std::int32_t const> experts,
                          std::int32_t unused) {
  for (std::int64_t t = 0; t < experts.rows; ++t)
    for (std::int64_t slot = 0; slot < experts.cols; ++slot) {
      std::int32_t const e = experts(t, slot), *const row = experts.row(t);
      if (e <= unused) continue;
      if (e < 0 || e >= routed || std::find(row, row + slot, e) != row + slot)
        throw invalid_argument("%s sent token %lld to expert %d %s", who, shown(t), e,
                               e < 0 || e >= routed ? "which is not there" : "twice");
    }
}
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
  std::span<given_choice const> given = {};  // of each layer with selection::given, in their order
  timings* times = nullptr;                  // of a timed expression (plan/timed.hpp)
  any_activations* seen = nullptr;           // of a watched one (plan/watched.hpp)
  mutable std::size_t taken = 0;             // of given: a pass counts in a batch of its own

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

namespace detail {
/// Tokens of a batch are numbered with 32 bits.
inline void check_tokens(std::int64_t tokens) {
  if (tokens < 0 || tokens > INT32_MAX)
    throw invalid_argument("a batch has 0 to %d tokens, not %lld", INT32_MAX, shown(tokens));
}

/// The sequence that a row of the batch is of.
inline std::int64_t sequence_of(batch const& b, std::int64_t row) {
  if (b.starts.empty()) return 0;
  return std::upper_bound(b.starts.begin(), b.starts.end(), row) - b.starts.begin() - 1;
}
}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
