// The device side of finegrain, for the .cu file of a program: see cuda/instantiate.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda/instantiate.cuh"
