// Attention on the device: causal inside each sequence, key and value heads shared by query heads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/bounds.hpp"
#include "../plan/extent.hpp"
#include "cached_rows.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

inline constexpr int most_decode_parts = 192;

/// Parts that decode divides a sequence's keys into: from shapes alone, so that a captured graph
/// serves any length. About 384 blocks fill the GPUs there are.
constexpr int decode_parts(heads shape, std::int64_t tokens) {
  std::int64_t const row_tiles = (tokens * (shape.query / shape.key_value) + 15) / 16;
  std::int64_t const blocks = at_least<std::int64_t>(shape.key_value * row_tiles, 1);
  return static_cast<int>(
      at_most<std::int64_t>(at_least<std::int64_t>(384 / blocks, 1), most_decode_parts));
}
/// Floats of decode's `partial`: for each token, query head and part its weighted values, then
/// its highest score and sum of exponentials.
constexpr std::int64_t decode_floats(heads shape, std::int64_t tokens) {
  return tokens * shape.query * decode_parts(shape, tokens) * (shape.dim + 2);
}
/// Floats for decode of up to so many tokens: fewer may need more.
constexpr std::int64_t decode_room(heads shape, std::int64_t tokens) {
  std::int64_t most = 0;
  for (std::int64_t t = 1; t <= tokens; ++t) most = at_least(most, decode_floats(shape, t));
  return most;
}

/// Functions of attention's plan. Matrices are those of the specification; heads' dims are
/// multiples of 8 up to 256, rows begin on 16-byte borders. log_weight is (T, query heads), dense.
template <class T>
struct attend {
  /// Any number of tokens. keys and values are (past + T, key-value heads * dim).
  static void forward(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                      matrix<T const> values, matrix<T> mixed, float* log_weight,
                      CUstream_st* stream);

  /// forward for few tokens of one sequence that has many keys: those are shared out among all
  /// multiprocessors. partial has decode_floats(shape, T). log_weight may be null.
  static void decode(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                     matrix<T const> values, matrix<T> mixed, float* log_weight, float* partial,
                     CUstream_st* stream);

  /// decode for tokens of several sequences, in a cache of rows (sequences * capacity, ...): each
  /// token reads its sequence's rows, up to its own. A block has one token's heads, so that those of
  /// a sequence read its keys once each.
  static void decode_each(heads shape, seats where, matrix<T const> q, matrix<T const> keys,
                          matrix<T const> values, matrix<T> mixed, float* log_weight,
                          float* partial, CUstream_st* stream);

  /// Nothing is past. delta (T, query heads) is scratch: each row's dmixed . mixed.
  static void backward(heads shape, places where, matrix<T const> q, matrix<T const> k,
                       matrix<T const> v, matrix<T const> mixed, float const* log_weight,
                       matrix<T const> dmixed, matrix<T> dq, matrix<T> dk, matrix<T> dv,
                       float* delta, CUstream_st* stream);
};

/// The same for latent attention: scores always have a scale, heads.scale.
template <class T>
struct latent_attend {
  /// What kernels are made for: numbers of a head's queries and keys, and of its values; of a
  /// latent vector, and of a row of a cache, which is that and a rotary key.
  static constexpr int most_dim = 192, most_value = 128, most_rank = 512, most_row = 576;

  /// attend's forward and backward with values of heads.value numbers.
  static void forward(heads shape, places where, matrix<T const> q, matrix<T const> keys,
                      matrix<T const> values, matrix<T> mixed, float* log_weight,
                      CUstream_st* stream);
  static void backward(heads shape, places where, matrix<T const> q, matrix<T const> k,
                       matrix<T const> v, matrix<T const> mixed, float const* log_weight,
                       matrix<T const> dmixed, matrix<T> dq, matrix<T> dk, matrix<T> dv,
                       float* delta, CUstream_st* stream);
  /// Up to 65535 tokens of one sequence with a cache: keys are rows (past + T, heads.dim), of which
  /// all heads' values are the first heads.value numbers. q is (T, heads * dim), mixed (T,
  /// heads * value). partial has latent_floats(shape, T).
  static void decode(heads shape, places where, matrix<T const> q, matrix<T const> rows,
                     matrix<T> mixed, float* log_weight, float* partial, CUstream_st* stream);
  /// The same for up to 65535 tokens of several sequences, as attend's.
  static void decode_each(heads shape, seats where, matrix<T const> q, matrix<T const> rows,
                          matrix<T> mixed, float* log_weight, float* partial, CUstream_st* stream);
};

/// Floats of latent decode's `partial`: at least decode_floats, and never fewer for more tokens.
constexpr std::int64_t latent_floats(heads shape, std::int64_t tokens) {
  std::int64_t const rows = tokens * shape.query;
  return at_most<std::int64_t>(rows * most_decode_parts, at_least<std::int64_t>(rows, 384 * 16)) *
         (shape.value + 2);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
