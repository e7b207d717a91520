// What rules of a user's own read and write on the device, and choices that come with a batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "choose.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// What is not an expert, or one that an earlier slot has, becomes no_expert.
__device__ inline void keep_distinct(std::int32_t* experts, int R, int k) {
  for (int slot = 0; slot < k; ++slot) {
    bool stays = experts[slot] >= 0 && experts[slot] < R;
    for (int n = 0; n < slot && stays; ++n) stays = experts[n] != experts[slot];
    if (!stays) experts[slot] = no_expert;
  }
}
template <class T>
__global__ void distinct_kernel(std::int32_t* experts, int tokens, int R, int k) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t < tokens) keep_distinct(experts + t * k, R, k);
}
template <class T>
void kinds<T>::distinct(routing_rules const& c, router_state const& state, std::int64_t tokens,
                        CUstream_st* on) {
  if (tokens == 0) return;
  distinct_kernel<T><<<unsigned((tokens + 127) / 128), 128, 0, on>>>(
      state.experts, static_cast<int>(tokens), c.routed, c.k);
  check_launch("route: experts of a rule");
}

template <class T>
__global__ void take_kernel(matrix<std::int32_t const> experts, matrix<float const> weights,
                            matrix<float> dweights, router_state state, matrix<float>* to,
                            int tokens, int R, int k) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t == 0) *to = dweights;
  if (t >= tokens) return;
  std::int32_t* const row = state.experts + t * k;
  for (int slot = 0; slot < k; ++slot) row[slot] = experts(t, slot);
  keep_distinct(row, R, k);
  for (int slot = 0; slot < k; ++slot)
    state.weights[t * k + slot] = row[slot] == no_expert ? 0 : weights(t, slot);
}
template <class T>
void kinds<T>::take(routing_rules const& c, matrix<std::int32_t const> experts,
                    matrix<float const> weights, matrix<float> dweights, router_state const& state,
                    kind_state const& saved, std::int64_t tokens, CUstream_st* on) {
  if (tokens == 0) return;
  take_kernel<T><<<unsigned((tokens + 127) / 128), 128, 0, on>>>(
      experts, weights, dweights, state, saved.dweights, static_cast<int>(tokens), c.routed, c.k);
  check_launch("route: a batch's choice");
}

template <class T>
__global__ void give_kernel(weight_dots dots, matrix<float> const* of_pass,
                            std::int32_t const* slot_row, std::int64_t slots, int k) {
  std::int64_t const n = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  matrix<float> const to = *of_pass;
  if (n >= slots || !to.data) return;
  std::int64_t const row = slot_row[n];
  float sum = 0;
  for (int p = 0; row >= 0 && p < dots.parts; ++p) sum += dots.dot[row * dots.parts + p];
  to(n / k, n % k) = sum;
}
template <class T>
void kinds<T>::give(weight_dots dots, kind_state const& saved, row_map const& rows,
                    CUstream_st* on) {
  std::int64_t const slots = std::int64_t{rows.tokens} * rows.slots;
  if (slots == 0) return;
  give_kernel<T><<<unsigned((slots + 127) / 128), 128, 0, on>>>(dots, saved.dweights, rows.slot_row,
                                                                slots, rows.slots);
  check_launch("route: gradients of a batch's weights");
}

/// How many times each expert was chosen, over the mean. One block.
template <class T>
__global__ __launch_bounds__(1024) void chosen_kernel(routing_rules c, balance_terms loss,
                                                      std::int32_t const* experts, int tokens,
                                                      double* f) {
  __shared__ int counts[1024];
  __shared__ double memory[32];
  count_slots(experts, c.k, 0, tokens, c.routed, counts);
  double const each = share_of_choice(c, loss, counts, tokens, memory);
  for (int e = threadIdx.x; e < c.routed; e += blockDim.x)
    f[e] = each * choices(loss, counts[e], e);
}
template <class T>
void kinds<T>::chosen(routing_rules const& c, balance_terms const& loss, router_state const& state,
                      kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* on) {
  chosen_kernel<T><<<1, 1024, 0, on>>>(c, loss, state.experts, static_cast<int>(tokens), t.rule);
  check_launch("route: choices for a rule");
}

/// The rows of a sequence.
struct sequence_rows {
  std::int64_t begin, end;
  __device__ sequence_rows(sequence_starts const& starts, int sequence, std::int64_t tokens)
      : begin(starts.rows ? starts.rows[sequence] : 0),
        end(starts.rows ? starts.rows[sequence + 1] : tokens) {}
};

template <class T>
__global__ __launch_bounds__(1024) void chosen_in_kernel(sequence_starts starts, int sequence,
                                                         routing_rules c, balance_terms loss,
                                                         std::int32_t const* experts, int tokens,
                                                         double* f) {
  __shared__ int counts[1024];
  __shared__ double memory[32];
  sequence_rows const rows(starts, sequence, tokens);
  count_slots(experts, c.k, rows.begin, rows.end, c.routed, counts);
  double const each = share_of_choice(c, loss, counts, double(rows.end - rows.begin), memory);
  for (int e = threadIdx.x; e < c.routed; e += blockDim.x)
    f[e] = each * choices(loss, counts[e], e);
}
template <class T>
void kinds<T>::chosen_in(sequence_starts starts, int sequence, routing_rules const& c,
                         balance_terms const& loss, router_state const& state,
                         kind_scratch<T> const& t, std::int64_t tokens, CUstream_st* on) {
  chosen_in_kernel<T><<<1, 1024, 0, on>>>(starts, sequence, c, loss, state.experts,
                                          static_cast<int>(tokens), t.rule);
  check_launch("route: choices for a rule");
}

/// The mean over a sequence's tokens, and over the sequences that have any.
template <class T>
__global__ __launch_bounds__(1024) void add_factors_kernel(sequence_starts starts, int sequence,
                                                           int R, int tokens, double const* of_rule,
                                                           float* factors) {
  __shared__ int sequences;
  sequence_rows const rows(starts, sequence, tokens);
  if (rows.begin == rows.end) return;
  if (threadIdx.x == 0) sequences = 0;
  __syncthreads();
  for (int s = threadIdx.x; s < starts.count; s += blockDim.x) {
    sequence_rows const others(starts, s, tokens);
    if (others.begin < others.end) atomicAdd(&sequences, 1);
  }
  __syncthreads();
  double const share = 1.0 / sequences / double(rows.end - rows.begin);
  float* const to = factors + rows.begin * R;
  for (int e = threadIdx.x; e < R; e += blockDim.x)
    to[e] = static_cast<float>(to[e] + share * of_rule[e]);
}
template <class T>
void kinds<T>::add_factors(sequence_starts starts, int sequence, routing_rules const& c,
                           kind_scratch<T> const& t, std::int64_t tokens, float* factors,
                           CUstream_st* on) {
  add_factors_kernel<T><<<1, 1024, 0, on>>>(starts, sequence, c.routed, static_cast<int>(tokens),
                                            t.rule + c.routed, factors);
  check_launch("route: factors of a rule");
}

/// What any router may need.
template <class T>
using plain_kinds_code = code<&kinds<T>::keep_seed, &kinds<T>::drop, &kinds<T>::chosen,
                              &kinds<T>::chosen_in, &kinds<T>::add_factors>;
/// And rarer ones.
template <class T>
using rarer_kinds_code =
    code<&kinds<T>::logits, &kinds<T>::prepare, &kinds<T>::scores, &kinds<T>::distinct,
         &kinds<T>::take, &kinds<T>::give, &kinds<T>::load, &kinds<T>::noise_backward,
         &kinds<T>::cosine_backward, &kinds<T>::jitter, &kinds<T>::input_backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
