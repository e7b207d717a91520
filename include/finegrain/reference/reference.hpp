// The reference executor, complete: what every stage computes, as plainly as it can be written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/blend.hpp"
#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "attention.hpp"
#include "combine.hpp"
#include "embed.hpp"
#include "experts.hpp"
#include "latent_attention.hpp"
#include "linear.hpp"
#include "loss.hpp"
#include "mixture.hpp"
#include "norm.hpp"
#include "route.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The specification in double.
using reference = basic_reference<double>;

}  // namespace finegrain::inline FINEGRAIN_ABI
