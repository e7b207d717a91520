// A second file that includes everything, to be linked with main.cpp: nothing is defined twice, and no
// name in it is I, a macro of <complex.h> and so of many libraries' headers.
// SPDX-License-Identifier: Apache-2.0
#define I (1.0if)

#include <finegrain/finegrain.hpp>
