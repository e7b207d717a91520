// What this program calls of the device side: memory alone.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/memory.cuh>

template struct finegrain::device::basic_runtime<void>;
