// The kernels of fp16, for all tests of this folder.
// SPDX-License-Identifier: Apache-2.0
#define FINEGRAIN_CUDA_PORTABLE
#include <finegrain/cuda.cuh>

template struct finegrain::on_cuda<void, finegrain::fp16>;
