// The device side of needs.cpp: of one network, by its name.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <finegrain/cuda.cuh>

// Three passes of nvcc read what the headers of kernels include.
#if defined(_GLIBCXX_ALGORITHM) || defined(_GLIBCXX_SPAN) || defined(_GLIBCXX_VECTOR)
#error "headers of kernels include no <algorithm>, <span> or <vector>"
#endif

template struct finegrain::on_cuda<needs::model>;
