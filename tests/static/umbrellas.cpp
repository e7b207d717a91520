// A program may include all of the library, the lab too.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>
#include <finegrain/lab.hpp>
