// The kernels of all tests of this folder. Tests call each path by itself, too.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda.cuh>

namespace fg = finegrain;

template struct fg::on_cuda<void>;
template struct fg::device::portable_products<fg::bf16>;
template struct fg::device::hopper_forward<fg::bf16>;
template struct fg::device::hopper_backward<fg::bf16>;
template struct fg::device::decode_products<fg::bf16>;
template struct fg::device::dispatch<fg::bf16>;
template struct fg::on_cuda_frozen<fg::format::fp8>;
template struct fg::on_cuda_frozen<fg::format::int8>;
template struct fg::on_cuda_frozen<fg::format::int8_block>;
template struct fg::on_cuda_frozen<fg::format::int4>;
