// What rules of a user's own read and write on the device.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "choose.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
__global__ void distinct_kernel(std::int32_t* experts, int tokens, int R, int k) {
  std::int64_t const t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  std::int32_t* const row = experts + t * k;
  for (int slot = 0; slot < k; ++slot) {
    bool stays = row[slot] >= 0 && row[slot] < R;
    for (int n = 0; n < slot && stays; ++n) stays = row[n] != row[slot];
    if (!stays) row[slot] = no_expert;
  }
}
template <class T>
void kinds<T>::distinct(routing_rules const& c, router_state const& state, std::int64_t tokens,
                        CUstream_st* on) {
  if (tokens == 0) return;
  distinct_kernel<T><<<unsigned((tokens + 127) / 128), 128, 0, on>>>(
      state.experts, static_cast<int>(tokens), c.routed, c.k);
  check_launch("route: experts of a rule");
}

/// How many times each expert was chosen, over the mean. One block.
template <class T>
__global__ __launch_bounds__(1024) void chosen_kernel(routing_rules c, balance_terms loss,
                                                      std::int32_t const* experts, int tokens,
                                                      double* f) {
  __shared__ int counts[1024];
  count_slots(experts, c.k, 0, tokens, c.routed, counts);
  double const each = share_of_choice(c, loss, tokens);
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
  sequence_rows const rows(starts, sequence, tokens);
  count_slots(experts, c.k, rows.begin, rows.end, c.routed, counts);
  std::int64_t const count = rows.end - rows.begin;
  double const each = count > 0 ? share_of_choice(c, loss, double(count)) : 0;
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
         &kinds<T>::load, &kinds<T>::noise_backward, &kinds<T>::cosine_backward, &kinds<T>::jitter,
         &kinds<T>::input_backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
