// The device side of needs.cpp: of one network, by its name.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <finegrain/cuda.cuh>

template struct finegrain::on_cuda<needs::model>;
