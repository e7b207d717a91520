// Routers of published implementations against what PyTorch made of the same formulas in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>

#include "published.hpp"

namespace {

using namespace golden;
using of_published::published;

TEST_CASE("the reference agrees with PyTorch on published routers, values and gradients") {
  check_cases(published<fg::basic_reference<double>>, published_cases, 1e-12);
}

TEST_CASE("the cpu agrees with PyTorch on published routers, values and gradients") {
  check_cases(published<fg::cpu>, published_cases, 1e-5);
}

}  // namespace
