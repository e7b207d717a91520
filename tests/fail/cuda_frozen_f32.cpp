// expect: weights in 8 or 4 bits are those of a network of bf16
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

#ifdef FIXED
using executor = fg::cuda;
#else
using executor = fg::basic_cuda<float>;
#endif
auto freeze(fg::network<fg::head<64, 32>, executor> const& net) {
  return fg::quantize<fg::format::int8>(net);
}
