// The device side of bench cuda.
// SPDX-License-Identifier: Apache-2.0
#define FINEGRAIN_CUDA_PORTABLE
#include <finegrain/cuda.cuh>

#include "cuda_layers.hpp"
#include "device.cuh"

template struct finegrain::on_cuda<bench::measured>;
