// batch: the tokens of one call, and what may be asked of the router and is told by it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/buffer.hpp"

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

/// The tokens over which balance losses take their means: all of the batch, or each sequence.
enum class window { batch, sequence };

/// A balance loss of your own: the sum over experts of factor P. P is differentiated, factors are
/// not.
struct balance_rule {
  virtual ~balance_rule() = default;
  /// From f (R), how many times an expert was chosen over the mean, in a window of tokens.
  virtual void factors(std::span<double const> f, std::span<double> factors) const = 0;
};

/// Coefficients of the losses that routers add in training. Each of the first four is its
/// coefficient at perfect balance, and has a gradient through scores alone, never through counts.
struct balance_losses {
  double expert = 0;         // alpha1 [DeepSeekMoE eq. 12-14]
  double device = 0;         // alpha2 [eq. 15-17]
  double communication = 0;  // alpha3 [DeepSeek-V2 2.2]
  double sequence = 0;       // V3's: each sequence's, counting choices without bias and groups
  double z = 0;              // times the mean of (log sum exp logits)^2 [ST-MoE]
  double importance = 0;     // times CV^2 of the experts' sums of weights [Shazeer 2017]
  double load = 0;  // noisy: times CV^2 of tokens an expert would get on average over its noise
  window over = window::batch;         // expert, device, communication, rule
  balance_rule const* rule = nullptr;  // added to them; not owned

  friend constexpr bool operator==(balance_losses const&, balance_losses const&) = default;
};

/// Which slots a full expert drops: those of least weight, or those of later choices and tokens.
enum class drop { least_weight, last };

struct routing_log;
struct timings;
struct batch;

/// A choice of your own, for selection::rule.
struct routing_rule {
  virtual ~routing_rule() = default;
  /// Fills experts (T, K), best first, from scores (T, R): distinct experts, or no_expert in slots
  /// that a token does not use. Anything else is refused with invalid_argument.
  virtual void choose(batch const& b, matrix<double const> scores,
                      matrix<std::int32_t> experts) const = 0;
};

/// Slots are a token's places for experts. This is in those that it does not use.
inline constexpr std::int32_t no_expert = INT32_MIN;

/// Requests to every router of a network, at run time. The default asks for what the config says,
/// and drops nothing.
struct routing_request {
  int top_k = 0;       // experts a token; 0 as configured, else 1 .. K + 1 (K when training)
  int mask_best = 0;   // first exclude each token's so many best experts [4.5, figure 4]
  bool shared = true;  // whether the shared experts take part
  balance_losses balance = {};
  int devices = 1;  // that the experts stand on in equal parts: of losses, budget and statistics

  double capacity = 0;  // an expert takes ceil(capacity T K / R) slots at most; 0: all
  finegrain::drop drop = finegrain::drop::least_weight;
  double device_capacity = 0;  // and a device ceil(capacity T K / devices), least weights dropped,
  double exempt = 0;           // but those of this share of sequences [DeepSeek-V2 2.2]

  double jitter = 0;       // training, config.jitter: factors are uniform in 1 - jitter, 1 + jitter
  std::uint64_t seed = 0;  // of jitter, noise, chance and exemption; a trainer's steps move it
  std::int64_t const* step = nullptr;  // cuda: steps done, on the device, which join the seed there
  bool quantiles = false;              // whether the report has them, for quantile balancing
  routing_log const* earlier = nullptr;  // counts of the step's earlier batches join the losses'
  routing_rule const* rule = nullptr;    // for selection::rule; not owned

  friend constexpr bool operator==(routing_request const&, routing_request const&) = default;
};

/// What a router did with one batch.
struct routing_report {
  std::vector<std::int64_t> load;     // (R) slots of each expert that were chosen,
  std::vector<std::int64_t> dropped;  // (R) and of these, dropped
  std::vector<double> mean_score;     // (R) P: mean over tokens of scores normalised to sum 1
  std::vector<double> bias;           // (R) the selection bias that it chose with
  std::vector<double> quantile;       // (R) the bias with which each would be chosen K T / R times
  double balance_loss = 0;            // all losses, coefficients included
  double entropy = 0;  // mean over tokens of the entropy of their scores, over that of equal ones
  double devices = 0;  // mean over tokens of the devices that their kept slots are on
  std::int64_t tokens = 0;

  routing_report() = default;
  explicit routing_report(int routed)
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

/// Keys and values that generation keeps, one sequence. Attention stages take their parts of it
/// in the order of the forward pass.
template <class T, class Numbers = buffer<T>>
struct kv_cache {
  Numbers numbers;            // cache_width(E) * capacity
  std::int64_t capacity = 0;  // tokens there is room for
  std::int64_t length = 0;    // tokens seen
  std::int64_t used = 0;      // numbers handed out in this pass

  /// Whether the numbers are as many as the lengths say, `width` of them a token.
  bool fits(std::int64_t width) const {
    return length >= 0 && length <= capacity && numbers.size() == width * capacity;
  }
  /// The part of the stage that runs now: (capacity, width).
  matrix<T> take(std::int64_t width) {
    T* const at = numbers.data() + used;
    used += width * capacity;
    return {at, capacity, width};
  }
};

/// T tokens that go through an expression together: one or more sequences, one after the other.
/// `starts` holds the first row of each sequence and, last, T; empty means one sequence. Attention
/// sees a sequence's earlier rows only, whatever their positions; every other stage sees tokens one
/// by one.
struct batch {
  std::int64_t tokens = 0;
  id_list ids = {};                              // (T) for an embedding
  std::span<std::int64_t const> starts = {};     // (sequences + 1)
  std::span<std::int64_t const> positions = {};  // (T) in place of 0, 1, ... in each sequence
  routing_request routing = {};
  routing_log* log = nullptr;
  timings* times = nullptr;  // of a timed expression (plan/timed.hpp)

  std::int64_t sequences() const {
    return starts.empty() ? 1 : static_cast<std::int64_t>(starts.size()) - 1;
  }
  std::int64_t begin(std::int64_t sequence) const {
    return starts.empty() ? 0 : starts[static_cast<std::size_t>(sequence)];
  }
  /// Where a row stands in its sequence, `past` earlier tokens being in a cache.
  std::int64_t position(std::int64_t row, std::int64_t sequence, std::int64_t past) const {
    return positions.empty() ? past + row - begin(sequence)
                             : positions[static_cast<std::size_t>(row)];
  }
  std::int64_t end(std::int64_t sequence) const {
    return starts.empty() ? tokens : starts[static_cast<std::size_t>(sequence) + 1];
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
