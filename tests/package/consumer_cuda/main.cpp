// A program that asks for a GPU, and is told in a sentence where there is none.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <finegrain/finegrain.hpp>

int main() try {
  finegrain::device_buffer<float> const memory(1024);
  std::puts("there is a GPU");
} catch (finegrain::cuda_error const& e) {
  std::puts(e.what());
  return finegrain::device::runtime::devices() > 0;
}
