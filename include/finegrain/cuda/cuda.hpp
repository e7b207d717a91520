// The cuda executor, as host code sees it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention_block.hpp"
#include "init.hpp"
#include "own_router.hpp"
#include "stages.hpp"
