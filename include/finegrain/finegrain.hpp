// finegrain, whole: one line for each header, in reading order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/platform.hpp"
#include "base/error.hpp"
#include "base/matrix.hpp"
#include "base/number.hpp"
#include "base/buffer.hpp"
#include "base/parallel.hpp"

#include "config/config.hpp"
#include "config/ladder.hpp"
#include "config/architecture.hpp"
#include "config/budget.hpp"
#include "config/presets.hpp"

#include "expr/node.hpp"
#include "expr/algebra.hpp"
#include "expr/layers.hpp"
#include "expr/latent_attention.hpp"
#include "expr/decoder.hpp"
#include "expr/cost.hpp"
#include "expr/describe.hpp"

#include "plan/batch.hpp"
#include "plan/plan.hpp"
#include "plan/weights.hpp"
#include "plan/routing.hpp"
#include "plan/compose.hpp"
#include "plan/stages.hpp"
