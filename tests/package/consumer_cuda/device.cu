// What this program calls of the device side: memory alone.
#include <finegrain/cuda/memory.cuh>

template struct finegrain::device::basic_runtime<void>;
