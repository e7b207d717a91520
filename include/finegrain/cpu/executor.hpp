// cpu: the executor for this machine's vector units, in f32.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/parallel.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// Vectorised and threaded, in f32. Its name carries the instruction set that this file is
/// compiled for, so that differently compiled files never share one inline function.
struct cpu {
  using scalar = float;
  parallel threads = default_threads();

  cpu() = default;
  cpu(parallel threads) : threads(threads) {}  // NOLINT(*-explicit*)
};

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
