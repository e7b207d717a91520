// The cpu executor, complete: every stage in f32, vectorised, threaded, and fused where it pays.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/compose.hpp"
#include "../plan/stages.hpp"
#include "attention.hpp"
#include "attention_block.hpp"
#include "combine.hpp"
#include "dispatch.hpp"
#include "embed.hpp"
#include "executor.hpp"
#include "experts.hpp"
#include "frozen.hpp"
#include "kernels.hpp"
#include "latent_attention.hpp"
#include "linear.hpp"
#include "loss.hpp"
#include "mixture.hpp"
#include "norm.hpp"
#include "product.hpp"
#include "rotary.hpp"
#include "route.hpp"
#include "simd.hpp"
