// The executors that a network is tested on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/cpu/cpu.hpp>
#include <finegrain/model/network.hpp>
#include <finegrain/reference/reference.hpp>

#define EXECUTORS finegrain::cpu, finegrain::reference
