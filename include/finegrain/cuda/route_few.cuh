// choice::forward: all of it in one launch for few tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "route.cuh"
#include "router_weights.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What route_few_kernel is for.
template <class T>
bool few_to_route(routing_rules const& c, router_state const& s, row_map const& rows) {
  return s.arrivals && rows.tokens > 0 && rows.tokens <= few_routed_tokens && c.k <= 64 &&
         std::int64_t{rows.tokens} * c.k <= slots_of_one_block && !c.f64 && !c.given &&
         !c.uniform && (std::is_same_v<T, bf16> || (in_pairs<T> && !c.round_logits));
}

/// Whether this is the last of so many blocks to arrive, which then sees what the others wrote. The
/// counter begins and ends as 0. Threads 0 .. 255 call it.
__device__ inline bool arrives_last(std::int32_t* counter, int blocks) {
  __shared__ bool last;
  sync_256();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1) == blocks - 1;
    if (last) *counter = 0;
    __threadfence();
  }
  sync_256();
  return last;
}

/// The logits of a block's 16 tokens and 8 experts, by threads 0 .. 255. Whether it is the last one
/// of these tokens.
template <class T>
__device__ bool few_logits(routing_rules const& c, router_numbers<T> const& w, T const* x,
                           router_state const& s, int tokens) {
  int const e0 = static_cast<int>(blockIdx.x) * 8, t0 = static_cast<int>(blockIdx.y) * 16;
  int const R = c.routed, D = c.hidden;
  for (int i = threadIdx.x * 64; i < min(8, R - e0) * D; i += 256 * 64)
    prefetch(w.router + std::int64_t{e0} * D + i);
  wait_for_launch_ahead();
  block_logits<T, 1, 1>(x, w.router, s.logits, t0, e0, tokens, R, D, c.round_logits);
  return arrives_last(s.arrivals + 1 + blockIdx.y, gridDim.x);
}

/// index_rows of few tokens, by one warp. next (R) is its own.
__device__ inline void index_few_rows(row_map const& rows, int tokens, std::int32_t const* experts,
                                      float const* weights, std::int32_t* next) {
  int const lane = threadIdx.x % 32, R = rows.experts, k = rows.slots, tile = rows.tile;
  for (int e = lane; e < R; e += 32) next[e] = 0;
  __syncwarp();
  for (int slot = lane; slot < tokens * k; slot += 32)
    if (experts[slot] >= 0) atomicAdd(next + experts[slot], 1);
  __syncwarp();
  int all = 0;
  for (int e0 = 0; e0 < R; e0 += 32) {
    int const e = e0 + lane, count = e < R ? next[e] : 0;
    int const padded = (count + tile - 1) & -tile, end = all + sum_up_to(padded);
    int const offset = end - padded;
    all = __shfl_sync(all_lanes, end, 31);
    if (e >= R) break;
    next[e] = rows.offsets[e] = offset;
    rows.counts[e] = count;
    for (int row = offset; row < end; row += tile)
      rows.tiles[row / tile] = {e, row, min(tile, offset + count - row), 0};
    for (int row = offset + count; row < end; ++row) {
      rows.row_token[row] = -1;
      rows.row_weight[row] = 0;
    }
  }
  if (lane == 0) rows.offsets[R] = all, *rows.tile_count = all / tile;
  for (int t = 0; t < tokens; ++t) {  // whose experts are distinct
    __syncwarp();
    for (int slot = t * k + lane; slot < (t + 1) * k; slot += 32) {
      int const e = experts[slot], row = e >= 0 ? next[e]++ : -1;
      rows.slot_row[slot] = row;
      if (row < 0) continue;
      rows.row_token[row] = t;
      rows.row_weight[row] = weights[slot];
    }
  }
}

/// What a rehearsal writes: a token's state, and its rows, in shared memory.
struct rehearsal {
  router_state state;
  row_map rows;
  std::int32_t* next;

  static constexpr int words(int R, int k, int tile) { return (7 + 2 * tile) * k + 4 * R + 2; }
  /// By a warp. memory, from a border of 16 bytes on, is its own.
  __device__ rehearsal(row_map const& like, std::int32_t* memory) {
    int const R = like.experts, k = like.slots, pads = k * like.tile;
    auto const take = [&](int count) { return (memory += count) - count; };
    rows.experts = R, rows.slots = k, rows.tile = like.tile;
    rows.tiles = reinterpret_cast<row_tile*>(take(4 * k));
    rows.row_token = take(pads);
    rows.row_weight = reinterpret_cast<float*>(take(pads));
    rows.slot_row = take(k);
    rows.counts = take(R), rows.offsets = take(R + 1), rows.tile_count = take(1);
    state.experts = take(k);
    state.weights = reinterpret_cast<float*>(take(k));
    state.logits = reinterpret_cast<float*>(take(R));
    next = take(R);
    for (int e = threadIdx.x % 32; e < R; e += 32) state.logits[e] = 0;
    for (int i = threadIdx.x % 32; i < k; i += 32) state.experts[i] = i, state.weights[i] = 0;
    __syncwarp();
  }
};

/// A block has the logits of 16 tokens and 8 experts; the last one of these tokens chooses; the last
/// one of all makes the rows. Results are those of the kernels for many tokens, bit by bit.
template <class T, int N>
__global__ __launch_bounds__(256, 2) void route_few_kernel(routing_rules c, router_numbers<T> w,
                                                           T const* x, router_state s, row_map rows,
                                                           int words) {
  extern __shared__ __align__(16) std::int32_t shared[];
  int const t0 = static_cast<int>(blockIdx.y) * 16, tokens = rows.tokens, warp = threadIdx.x / 32;
  if (!few_logits(c, w, x, s, tokens)) return;
  for (int t = t0 + warp; t < min(t0 + 16, tokens); t += 8)
    choose_token<N, false>(c, w.bias, s, t, shared + warp * words);
  if (arrives_last(s.arrivals, gridDim.y))
    index_rows(rows, s.experts, s.weights, nullptr, 0, 1, 0, tokens, shared);
}

/// Shared memory of route_fewest_kernel, in int32: what each of 8 warps needs to choose, and the first
/// one then to make rows; what they choose; and a rehearsal each of two more.
struct fewest_words {
  int choice, chosen, rehearsals, each, all;
  constexpr fewest_words(routing_rules const& c, int tile)
      : choice(choice_words(c)),
        chosen(8 * choice),
        rehearsals((chosen + 32 * c.k + 3) / 4 * 4),
        each((rehearsal::words(c.routed, c.k, tile) + choice + 3) / 4 * 4),
        all(rehearsals + 2 * each) {}
};

/// The same of up to 16 tokens, for which the last block's instructions take longer to come from memory,
/// line after line, than to run. So two more warps meanwhile rehearse, in each block, what the last
/// one's will do: warp 8 to choose, warp 9 to make rows.
template <class T, int N>
__global__ __launch_bounds__(320, 1) void route_fewest_kernel(routing_rules c, router_numbers<T> w,
                                                              T const* x, router_state s,
                                                              row_map rows, fewest_words words) {
  extern __shared__ __align__(16) std::int32_t shared[];
  int const warp = threadIdx.x / 32, tokens = rows.tokens;
  bool const rehearses = warp >= 8;
  router_state state = s;
  row_map to = rows;
  summed<T> bias = w.bias;
  std::int32_t *own = shared + warp * words.choice, *next = shared;
  int t = warp, end = tokens;
  if (rehearses) {
    own = shared + words.rehearsals + (warp - 8) * words.each;
    rehearsal const play(rows, own);
    state = play.state, to = play.rows, next = play.next;
    // Of the true ones a launch ahead may still be writing some.
    bias.first = bias.rest = reinterpret_cast<T const*>(play.state.logits);
    own = next + c.routed;
    t = warp - 8, end = 1;
  } else {
    if (!few_logits(c, w, x, s, tokens)) return;
    state.experts = shared + words.chosen;  // what is chosen need not go by memory
    state.weights = reinterpret_cast<float*>(state.experts + 16 * c.k);
  }
  for (; t < end; t += 8) choose_token<N, false>(c, bias, state, t, own);
  if (warp == 8) return;
  if (!rehearses) sync_256();
  if (warp % 9 == 0)
    index_few_rows(to, rehearses ? 1 : tokens, state.experts, state.weights, next);
  else
    for (int i = threadIdx.x - 32; i < tokens * c.k; i += 224)
      s.experts[i] = state.experts[i], s.weights[i] = state.weights[i];
}

template <class T, int N>
void launch_route_few(routing_rules const& c, router_numbers<T> const& w, T const* x,
                      router_state const& state, row_map const& rows, CUstream_st* stream) {
  auto const launch = [&](auto kernel, int threads, int shared, auto const& words) {
    launch_overlapping(
        kernel, dim3(unsigned(ceil_div(c.routed, 8)), unsigned(rows.tokens + 15) / 16), threads,
        4 * shared, stream, "route: few tokens", c, w, x, state, rows, words);
  };
  // 48 KB is what a block may have, 2 KB of it the logits' sums.
  fewest_words const fewest(c, rows.tile);
  if (rows.tokens <= 16 && fewest.all <= 45 * 1024 / 4)
    return launch(route_fewest_kernel<T, N>, 320, fewest.all, fewest);
  int const words = choice_words(c);
  launch(route_few_kernel<T, N>, 256, at_least(8 * words, index_words(c.routed, 8)), words);
}

template <class T, int N>
void choice<T, N>::forward(routing_rules const& c, router_numbers<T> const& w, T const* x,
                           std::int32_t const* ids, router_state const& state, row_map const& rows,
                           std::int32_t* block_counts, CUstream_st* stream) {
  if constexpr (in_pairs<T> && N <= 8)
    if (few_to_route<T>(c, state, rows))
      return launch_route_few<T, N>(c, w, x, state, rows, stream);
  route<T>::logits(c, w.router, x, state.logits, rows.tokens, stream);
  choose(c, w, ids, state, rows, block_counts, stream);
}

template <class T, int N>
using choice_code = code<&choice<T, N>::forward, &choice<T, N>::choose>;
template <class T>
using route_code =
    code<&route<T>::logits, &route<T>::shared_weight, &route<T>::balance, &route<T>::report,
         &route<T>::backward, &route<T>::shared_backward, &route<T>::weights_backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
