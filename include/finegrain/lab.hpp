// The lab, and finegrain with it: what studies are made of, in reading order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// For programs that are compiled with -Wshadow: parameters may have a member's name; and with
// -Wsign-conversion: g++ warns of every array in a template whose bound is an int, a constant.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"

// clang-format off
#include "finegrain.hpp"

#include "lab/options.hpp"
#include "lab/corpus.hpp"
#include "lab/text.hpp"
#include "lab/number_table.hpp"
#include "lab/jsonl.hpp"
#include "lab/folder.hpp"
#include "lab/interrupt.hpp"
#include "lab/progress.hpp"
#include "lab/statistics.hpp"
#include "lab/table.hpp"
#include "lab/claims.hpp"
#include "lab/routing.hpp"
#include "lab/training_means.hpp"
#include "lab/specialisation.hpp"
#include "lab/svg.hpp"
#include "lab/curves.hpp"
#include "lab/intervals.hpp"
#include "lab/heatmap.hpp"
#include "lab/grid.hpp"
#include "lab/page.hpp"
#include "lab/answer.hpp"
#include "lab/results.hpp"
#include "lab/learner.hpp"
#include "lab/settings.hpp"
#include "lab/validation.hpp"
#include "lab/run.hpp"
#include "lab/study.hpp"
#include "lab/added.hpp"
// clang-format on

#pragma GCC diagnostic pop
