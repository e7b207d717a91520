// kv_cache: what generation keeps of earlier tokens, and where a batch's stand behind them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "../base/buffer.hpp"
#include "../base/span.hpp"
#include "batch.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

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
  struct copied {
    std::int64_t from, to, length;
    std::int64_t made = 0;  // in so many first numbers: a pass may have thrown behind them
  };
  std::vector<copied> copies = {};  // that the next pass makes

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
    std::int64_t& now = length_of(sequence);
    if (length < 0 || length > now)
      throw invalid_argument(
          "sequence %lld has %lld tokens in the cache: it cannot go back to %lld",
          detail::shown(sequence), detail::shown(now), detail::shown(length));
    now = length;
  }
  /// Sequence `to` forgets its tokens, and goes on from the first `length` of `from`, or from all: of a
  /// prompt that several share, or of a beam that splits. The pass that comes next copies the numbers,
  /// before it writes any.
  void copy(std::int64_t from, std::int64_t to, std::int64_t length) {
    std::int64_t const there = length_of(from);
    std::int64_t& now = length_of(to);
    if (length < 0 || length > there)
      throw invalid_argument("sequence %lld has %lld tokens in the cache: %lld cannot be copied",
                             detail::shown(from), detail::shown(there), detail::shown(length));
    if (from != to) copies.push_back({from, to, length});
    now = length;
  }
  void copy(std::int64_t from, std::int64_t to) { copy(from, to, length_of(from)); }
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
    copies.clear();
    for (std::size_t s = 0; s < lengths.size(); ++s)
      lengths[s] += b.length(static_cast<std::int64_t>(s));
  }

 private:
  std::int64_t& length_of(std::int64_t sequence) {
    if (sequence < 0 || sequence >= sequences())
      throw invalid_argument("the cache holds %lld sequences: there is no sequence %lld",
                             detail::shown(sequences()), detail::shown(sequence));
    return lengths[static_cast<std::size_t>(sequence)];
  }
};

}  // namespace finegrain::inline FINEGRAIN_ABI
