// A second file that includes everything, to be linked with main.cpp: nothing is defined twice.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>
