// The second file of a user's program: both include everything, and they link.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

std::int64_t parameters_elsewhere();

std::int64_t parameters_elsewhere() { return 16 * 4 + 5 * 3 * 16 * 8; }
