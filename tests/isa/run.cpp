// What the variants do: a little work with inline functions of the library and of this program.
// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "variant.hpp"

char const* trouble::what() const noexcept { return compiled_for(); }

answer summing::run(int n) {
  if (n < 0) throw trouble();
  std::vector<float> numbers;
  numbers.resize(static_cast<std::size_t>(n), 1.5F);
  float sum = 0;
  for (float const v : numbers) sum += v;
  return {compiled_for(), count_call(), sum};
}
