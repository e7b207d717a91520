// Dispatch on the device: rows, tiles and pads for any experts, the same as counting by hand.
// SPDX-License-Identifier: Apache-2.0
#include "../catch.hpp"
#include "routed.hpp"

namespace {

using namespace on_device;

/// Distinct experts of each token; some slots are empty where `holes` says.
std::vector<std::int32_t> some_experts(std::int64_t T, int k, int R, std::uint64_t seed,
                                       bool holes) {
  std::vector<std::int32_t> experts;
  for (std::int64_t t = 0; t < T; ++t) {
    auto const first = fg::random_word(seed, std::uint64_t(t)) % std::uint64_t(R);
    auto const step = seed % 3 == 0 ? 0 : fg::random_word(seed + 1, std::uint64_t(t));
    for (int slot = 0; slot < k; ++slot) {
      auto e =
          std::int32_t((first * (seed % 2) + step % 3 + std::uint64_t(slot)) % std::uint64_t(R));
      bool const hole = holes && fg::random_word(seed + 2, std::uint64_t(t * k + slot)) % 4 == 0;
      experts.push_back(hole ? (slot % 2 ? ~e : INT32_MIN) : e);
    }
  }
  return experts;
}

TEST_CASE("the chunks of a batch cover it, and no block is without tokens") {
  for (std::int64_t T : {0, 1, 63, 64, 65, 100, 4096, 4097, 32768, 1000000})
    for (int R : {1, 64, 1024}) {
      auto const chunks = fg::device::token_chunks::of(T, R);
      CHECK(std::int64_t{chunks.blocks} * chunks.tokens >= T);
      CHECK((chunks.blocks == 1 || std::int64_t{chunks.blocks - 1} * chunks.tokens < T));
    }
}

TEST_CASE("rows are expert by expert, token by token, and padded to tiles") {
  NEED_GPU();
  struct shape {
    std::int64_t T;
    int k, R, tile;
  };
  for (auto const& s : std::vector<shape>{{0, 2, 4, 128},
                                          {1, 6, 64, 128},
                                          {1, 1, 1, 8},
                                          {7, 3, 5, 16},
                                          {64, 8, 256, 8},
                                          {65, 8, 256, 64},
                                          {200, 5, 5, 32},
                                          {1000, 6, 60, 128},
                                          {4096, 6, 64, 128},
                                          {5001, 64, 1024, 128},
                                          {20011, 8, 257, 64},
                                          {300001, 2, 64, 128}})
    for (std::uint64_t seed = emulated() && s.T > 5000 ? 6 : 0; seed < 6; ++seed) {
      auto const experts = some_experts(s.T, s.k, s.R, seed, seed >= 4);
      auto const weights = random_floats(s.T * s.k, seed);
      owned_rows const rows(s.T, s.k, s.R, s.tile);
      auto const on_gpu = upload(experts);
      auto const weights_on_gpu = upload(weights);
      fg::device::dispatch<bf16>::build(rows.map, on_gpu.data(), weights_on_gpu.data(),
                                        rows.block_counts.data(), nullptr);
      char const* const wrong = rows.wrong(experts, weights);
      INFO("T " << s.T << " k " << s.k << " R " << s.R << " tile " << s.tile << " seed " << seed
                << ": " << (wrong ? wrong : ""));
      CHECK(wrong == nullptr);
    }
}

}  // namespace
