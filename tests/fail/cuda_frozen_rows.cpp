// expect: rows of a weight in codes have a multiple of 8 numbers
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/model/frozen.hpp>

namespace fg = finegrain;

#ifdef FIXED
using stage = fg::linear<64, 36>;
#else
using stage = fg::linear<36, 64>;
#endif
auto freeze(fg::network<stage, fg::cuda> const& net) {
  return fg::quantize<fg::format::int8>(net);
}
