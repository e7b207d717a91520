// Routers of papers, losses, capacities and requests against what PyTorch made of their formulas in
// double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>

#include "papers.hpp"

namespace {

using namespace golden;
using of_papers::papers;

TEST_CASE("the reference agrees with PyTorch on routers of papers, values and gradients") {
  check_cases(papers<fg::basic_reference<double>>, papers_cases, 1e-12);
}

TEST_CASE("the cpu agrees with PyTorch on routers of papers, values and gradients") {
  check_cases(papers<fg::cpu>, papers_cases, 1e-5);
}

TEST_CASE("there are no cases but these, and no two of one name") {
  CHECK(all_cases().size() == published_cases + papers_cases);
  std::set<std::string> names;
  for (auto const& r : all_cases()) names.insert(r.text("name"));
  CHECK(names.size() == all_cases().size());
}

}  // namespace
