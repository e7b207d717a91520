// The device side of bench cuda's frozen layers.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda.cuh>

template struct finegrain::on_cuda_frozen<finegrain::format::fp8>;
template struct finegrain::on_cuda_frozen<finegrain::format::int8>;
template struct finegrain::on_cuda_frozen<finegrain::format::int8_block>;
template struct finegrain::on_cuda_frozen<finegrain::format::int4>;
