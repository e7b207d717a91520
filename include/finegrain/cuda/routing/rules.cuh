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

/// What any router may need.
template <class T>
using plain_kinds_code =
    code<&kinds<T>::keep_seed, &kinds<T>::drop, &kinds<T>::chosen, &kinds<T>::quantiles>;
/// And rarer ones.
template <class T>
using rarer_kinds_code =
    code<&kinds<T>::logits, &kinds<T>::prepare, &kinds<T>::scores, &kinds<T>::distinct,
         &kinds<T>::load, &kinds<T>::noise_backward, &kinds<T>::cosine_backward, &kinds<T>::jitter,
         &kinds<T>::input_backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
