// A libFuzzer target for the header of safetensors files; not part of the build:
//
//   clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Iinclude
//           tests/fuzz/safetensors.cpp -o fuzz && ./fuzz -max_total_time=60
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <finegrain/io/tensor_table.hpp>

namespace fg = finegrain;

extern "C" int LLVMFuzzerTestOneInput(unsigned char const* bytes, std::size_t size) {
  if (size == 0) return 0;
  std::int64_t const data_bytes = bytes[0];
  std::string_view const header(reinterpret_cast<char const*>(bytes) + 1, size - 1);
  try {
    auto const table = fg::read_table(header, data_bytes);
    std::int64_t total = 0;
    for (auto const& tensor : table.tensors) {  // sizes again, by another route
      long double product = static_cast<long double>(fg::facts(tensor.type).bytes);
      for (auto length : tensor.shape) product *= static_cast<long double>(length);
      if (product != static_cast<long double>(tensor.end - tensor.begin) &&
          tensor.type != fg::dtype::other)
        std::abort();
      total += tensor.end - tensor.begin;
    }
    if (total != data_bytes) std::abort();
  } catch (fg::file_error const&) {
  }
  return 0;
}
