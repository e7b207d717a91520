// Causal attention inside each sequence, with rotary positions and shared key and value heads.
//
// A block of queries meets its sequence's keys in blocks of 64, counted from the sequence's first
// token: the softmax is rescaled from block to block, in an order that depends on positions alone,
// so that generation token by token gives the bits of the whole sequence at once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "../plan/attention.hpp"
#include "../plan/stages.hpp"
#include "linear.hpp"
#include "rotary.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

inline constexpr int query_rows = 48, key_rows = 64, score_stride = key_rows + 16;
inline constexpr std::int64_t value_cols = 512;  // of a head that are averaged at a time

static_assert(key_rows <= block_cols && query_rows <= block_rows && value_cols % block_cols == 0);

/// scores(row, key) = a . keys for up to key_rows keys.
FINEGRAIN_LAZY inline void score_block(matrix<float const> a, matrix<float const> keys, room& room,
                                       float (*scores)[score_stride]) {
  int const rows = static_cast<int>(a.rows);
  transposed const b(keys);
  multiply(a, rows, keys.cols, b, 0, b.panels(), room, room.sums);
  for (std::int64_t p = 0; p < b.panels(); ++p)
    for (int r = 0; r < rows; ++r)
      std::copy_n(room.sums + (p * rows + r) * panel_width, panel_width,
                  scores[r] + p * panel_width);
}

/// Columns of the whole vectors that hold so many.
constexpr int whole_vectors(int columns) { return ceil_div(columns, lanes) * lanes; }

/// One step of the running softmax: visible scores become weights, and are all that is read of a row
/// later; returns what earlier sums are to be multiplied with.
inline float soften(float scale, int visible, float* scores, float& highest, float& sum) {
  int const end = whole_vectors(visible);
  for (int c = visible; c < end; ++c) scores[c] = -__builtin_huge_valf();
  vec most = broadcast(highest);
  for (int c = 0; c < end; c += lanes) {
    vec const s = load(scores + c) * scale;
    most = larger(s, most);
    store(scores + c, s);
  }
  float const now = largest(most);
  float const shrink = exp(broadcast(highest - now))[0];
  vec part{};
  for (int c = 0; c < end; c += lanes) {
    vec const w = exp(load(scores + c) - now);
    part += w;
    store(scores + c, w);
  }
  sum = sum * shrink + total(part);
  highest = now;
  return shrink;
}

/// Some rows of queries of one sequence, `share` of which stand at each position: they are rows
/// first, first + 1, ... of all that there are from the sequence's first token on, whose keys and
/// values begin there. Columns [c0, c0 + cols) of the values are averaged.
FINEGRAIN_LAZY inline void attend(float scale, int share, std::int64_t first, matrix<float const> q,
                                  matrix<float const> keys, matrix<float const> values,
                                  std::int64_t c0, std::int64_t cols, matrix<float> mixed,
                                  float* log_weight, std::int64_t log_stride) {
  int const rows = static_cast<int>(q.rows);
  room room;
  alignas(64) float scores[query_rows][score_stride];
  alignas(64) float sums[value_cols * query_rows];  // (panel, row, column)
  float highest[query_rows], total[query_rows];
  for (int r = 0; r < rows; ++r) {
    highest[r] = -__builtin_huge_valf();
    total[r] = 0;
  }
  straight const all{values.middle_cols(c0, cols), cols};
  std::fill_n(sums, all.panels() * query_rows * panel_width, 0.0f);

  auto const seen = [&](int row) { return (first + row) / share + 1; };  // keys
  for (std::int64_t j0 = 0; j0 < seen(rows - 1); j0 += key_rows) {
    std::int64_t const count = std::min<std::int64_t>(key_rows, seen(rows - 1) - j0);
    score_block(q, keys.middle_rows(j0, count), room, scores);
    int visible[query_rows];
    for (int r = 0; r < rows; ++r) {
      visible[r] = static_cast<int>(std::clamp<std::int64_t>(seen(r) - j0, 0, count));
      if (visible[r] == 0) continue;
      float const shrink = soften(scale, visible[r], scores[r], highest[r], total[r]);
      for (std::int64_t p = 0; p < all.panels(); ++p)
        for (int c = 0; c < panel_width; ++c)
          sums[(p * query_rows + r) * panel_width + c] *= shrink;
    }
    straight const b{values.middle_rows(j0, count).middle_cols(c0, cols), cols};
    for (std::int64_t p = 0; p < b.panels(); ++p) {
      b.pack<format::f32>(p, p + 1, 0, count, room.right, count);
      float* const to = sums + p * query_rows * panel_width;
      auto const add = [&](int r, int height, int begin, int end) {
        no_fetching none;
        run_tiles<format::f32, tile_form{score_stride}>(
            height, scores[r] + begin, end - begin, {room.right + begin * panel_width}, sink::go_on,
            to + r * panel_width, panel_width, {}, 1, none);
      };
      for (int r = 0; r < rows; r += tile_rows) {
        int const height = std::min(tile_rows, rows - r), common = visible[r];
        add(r, height, 0, common);
        for (int i = r + 1; i < r + height; ++i)  // keys that only later rows may see
          add(i, 1, common, visible[i]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    log_weight[r * log_stride] = highest[r] + math::log(total[r]);
    for (std::int64_t c = 0; c < cols; ++c)
      mixed(r, c0 + c) =
          sums[(c / panel_width * query_rows + r) * panel_width + c % panel_width] / total[r];
  }
}

/// Queries [i0, i0 + rows) of one head and sequence against its keys [j0, j0 + count): what they
/// add to dq, dk and dv. Views begin at the sequence's first row.
FINEGRAIN_LAZY struct attend_gradient {
  float scale;
  matrix<float const> q, k, v, dmixed;  // (length, dim or value)
  float const* log_weight;              // one in `log_stride`
  std::int64_t log_stride;
  matrix<float> dq, dk, dv;

  void block(std::int64_t i0, int rows, std::int64_t j0, int count, float const* mean,
             room& room) const {
    constexpr int across = query_rows;  // stride of the transposed blocks
    alignas(64) float p[query_rows][score_stride], ds[query_rows][score_stride];
    alignas(64) float turned[key_rows * across];
    score_block(q.middle_rows(i0, rows), k.middle_rows(j0, count), room, p);
    score_block(dmixed.middle_rows(i0, rows), v.middle_rows(j0, count), room, ds);
    for (int r = 0; r < rows; ++r) {
      int const visible = static_cast<int>(std::clamp<std::int64_t>(i0 + r + 1 - j0, 0, count));
      float const log_sum = log_weight[(i0 + r) * log_stride];
      for (int c = 0; c < visible; c += lanes) {
        vec const weight = exp(load(p[r] + c) * scale - log_sum);
        store(p[r] + c, weight);
        store(ds[r] + c, weight * (load(ds[r] + c) - mean[r]) * scale);
      }
      for (int c = visible; c < key_rows; ++c) p[r][c] = ds[r][c] = 0;
    }
    matrix<float const> const across_queries(turned, count, rows, across);
    add({ds[0], rows, count, score_stride}, k.middle_rows(j0, count), dq.middle_rows(i0, rows));
    turn_over(ds, rows, count, turned);
    add(across_queries, q.middle_rows(i0, rows), dk.middle_rows(j0, count));
    turn_over(p, rows, count, turned);
    add(across_queries, dmixed.middle_rows(i0, rows), dv.middle_rows(j0, count));
  }

 private:
  static void turn_over(float const (*m)[score_stride], int rows, int count, float* to) {
    for (int r = 0; r < rows; r += lanes)
      for (int c = 0; c < count; c += lanes) {
        float const* from[lanes];
        int const n = std::min(lanes, rows - r);
        for (int i = 0; i < n; ++i) from[i] = m[r + i] + c;
        transpose(from, n, lanes, to + c * query_rows + r, query_rows);
      }
  }
  static void add(matrix<float const> a, matrix<float const> b, matrix<float> y) {
    straight const right{b, b.cols};
    multiply_block(a, a.cols, right, 0, right.panels(), y, gradients::accumulate);
  }
};

}  // namespace simd

/// mixed (T, query heads * value): for each token and head, values averaged with the weights
/// softmax(scale q . k) over its sequence's tokens up to itself. q is (T, query heads * dim), keys
/// and values are (rows, key-value heads * dim or value), as with_earlier says where they are.
/// log_weight (T, query heads) is the log of the sum of exponentials.
FINEGRAIN_LAZY inline void attend_forward(cpu const& on, heads shape, batch const& b,
                                          earlier const& past, matrix<float const> q,
                                          matrix<float const> keys, matrix<float const> values,
                                          matrix<float> mixed, matrix<float> log_weight) {
  using namespace simd;
  int const dim = shape.dim, value = shape.value, group = shape.query / shape.key_value;
  // All heads of the same keys, one after the other in memory, are rows of one: they meet the keys
  // together, and so do the heads of a token alone.
  bool const together = shape.key_value == 1 && q.stride == q.cols && mixed.stride == mixed.cols &&
                        log_weight.stride == log_weight.cols;
  int const share = together ? group : 1, count = shape.query / share;
  if (together) {
    q = {q.data, q.rows * share, dim};
    mixed = {mixed.data, q.rows, value};
    log_weight = {log_weight.data, q.rows, 1};
  }
  std::int64_t const some =  // rows of a task: a token's many heads are several
      share > 1 ? std::clamp<std::int64_t>(q.rows / 8, strip_rows<format::f32>, query_rows)
                : query_rows;
  std::int64_t const blocks = ceil_div(q.rows, some);
  on.threads(blocks * count, [&](std::int64_t task, int) {
    std::int64_t const begin = (blocks - 1 - task / count) * some;
    std::int64_t const end = std::min(q.rows, begin + some), h = task % count,
                       kv = h / (group / share);
    in_sequences(b, begin / share, ceil_div(end, share),
                 [&](std::int64_t t0, std::int64_t t1, std::int64_t s) {
                   std::int64_t const before = past.length(s) - b.begin(s),
                                      first = past.first_row(b, s), length = before + t1;
                   std::int64_t const r0 = std::max(begin, t0 * share);
                   std::int64_t const rows = std::min(end, t1 * share) - r0;
                   for (std::int64_t c0 = 0; c0 < value; c0 += value_cols)
                     attend(shape.scale_of<float>(), share, r0 + before * share,
                            q.middle_rows(r0, rows).middle_cols(h * dim, dim),
                            keys.middle_rows(first, length).middle_cols(kv * dim, dim),
                            values.middle_rows(first, length).middle_cols(kv * value, value), c0,
                            std::min(value_cols, value - c0),
                            mixed.middle_rows(r0, rows).middle_cols(h * value, value),
                            log_weight.row(r0) + h, log_weight.stride);
                 });
  });
}

/// dq, dk, dv from dmixed. With p the softmax weights and dp_j = dmixed . v_j:
/// dv_j = p_j dmixed, and the score's gradient is p_j (dp_j - sum p dp), the sum being
/// dmixed . mixed. Nothing came earlier: training sees whole sequences.
FINEGRAIN_LAZY inline void attend_backward(cpu const& on, heads shape, batch const& b,
                                           matrix<float const> q, matrix<float const> k,
                                           matrix<float const> v, matrix<float const> mixed,
                                           matrix<float const> log_weight,
                                           matrix<float const> dmixed, matrix<float> dq,
                                           matrix<float> dk, matrix<float> dv) {
  using namespace simd;
  int const dim = shape.dim, value = shape.value, share = shape.query / shape.key_value;
  on.threads(b.sequences() * shape.key_value, [&](std::int64_t task, int) {
    std::int64_t const s = task / shape.key_value, kv = task % shape.key_value;
    std::int64_t const first = b.begin(s), length = b.end(s) - first;
    auto part = [&](auto m, std::int64_t head, int width) {
      return m.middle_rows(first, length).middle_cols(head * width, width);
    };
    auto clear = [](matrix<float> m) {
      for (std::int64_t t = 0; t < m.rows; ++t) std::fill_n(m.row(t), m.cols, 0.0f);
    };
    clear(part(dk, kv, dim));
    clear(part(dv, kv, value));
    room room;
    for (std::int64_t h = kv * share; h < (kv + 1) * share; ++h) {
      attend_gradient<> const g{
          shape.scale_of<float>(), part(q, h, dim),           part(k, kv, dim),  part(v, kv, value),
          part(dmixed, h, value),  log_weight.row(first) + h, log_weight.stride, part(dq, h, dim),
          part(dk, kv, dim),       part(dv, kv, value)};
      clear(g.dq);
      for (std::int64_t i0 = 0; i0 < length; i0 += query_rows) {
        int const rows = static_cast<int>(std::min<std::int64_t>(query_rows, length - i0));
        float mean[query_rows];
        for (int r = 0; r < rows; ++r) {
          float const* const d = g.dmixed.row(i0 + r);
          float const* const m = mixed.row(first + i0 + r) + h * value;
          mean[r] = 0;
          for (int c = 0; c < value; ++c) mean[r] += d[c] * m[c];
        }
        for (std::int64_t j0 = 0; j0 < i0 + rows; j0 += key_rows)
          g.block(i0, rows, j0, static_cast<int>(std::min<std::int64_t>(key_rows, i0 + rows - j0)),
                  mean, room);
      }
    }
  });
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
