// number_table: numbers in rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Numbers [row][column].
using number_table = std::vector<std::vector<double>>;

}  // namespace finegrain::inline FINEGRAIN_ABI
