// The device side of every example here that runs on a GPU: all of it.
#include <finegrain/cuda.cuh>

template struct finegrain::on_cuda<void>;
