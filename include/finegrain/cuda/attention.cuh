// Attention on the device: all that host code calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/backward.cuh"
#include "attention/decode.cuh"
#include "attention/forward.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

template <class T>
using attend_code =
    code<&attend<T>::forward, &attend<T>::decode, &attend<T>::decode_each, &attend<T>::backward>;

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
