// Laws of expr/latent_attention.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/presets.hpp>
#include <finegrain/expr/cost.hpp>
#include <finegrain/expr/describe.hpp>
#include <finegrain/expr/latent_attention.hpp>
#include <finegrain/plan/weights.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::architecture lite = fg::presets::deepseek_v2_lite;
constexpr fg::architecture large = fg::presets::deepseek_v2;
using straight = fg::latent_attention<lite.hidden, lite.heads, lite.latent>;
using compressed = fg::latent_attention<large.hidden, large.heads, large.latent>;

template <class E>
std::vector<std::string> shapes() {
  std::vector<std::string> all;
  for (auto const& w : fg::list_weights<E>())
    all.push_back(w.name + " " + std::to_string(w.rows) + " x " + std::to_string(w.cols));
  return all;
}
using list = std::vector<std::string>;

}  // namespace

TEST_CASE("latent attention of V2-Lite has the published checkpoint's matrices") {
  CHECK(shapes<straight>() == list{"q_proj 3072 x 2048", "kv_a 576 x 2048", "kv_a_norm 1 x 512",
                                   "kv_b 4096 x 512", "output 2048 x 2048"});
}

TEST_CASE("with a query rank, queries pass through it and a norm") {
  CHECK(shapes<compressed>() == list{"q_a 1536 x 5120", "q_a_norm 1 x 1536", "q_b 24576 x 1536",
                                     "kv_a 576 x 5120", "kv_a_norm 1 x 512", "kv_b 32768 x 512",
                                     "output 5120 x 16384"});
}

TEST_CASE("a description says what the heads are, and by how much the context is stretched") {
  CHECK(fg::details(straight{}) ==
        "latent, 16 heads of 128 + 64 rotary, values of 128, yarn 40, mscale 0.707, "
        "mscale_all 0.707");
  CHECK(fg::details(
            fg::latent_attention<8, 2,
                                 fg::latent{.kv_rank = 4, .nope = 3, .rope = 2, .value = 5}>{}) ==
        "latent, 2 heads of 3 + 2 rotary, values of 5");
}

TEST_CASE("generation keeps the latent vector and one rotary key, whatever the heads") {
  CHECK(fg::cache_width(straight{}) == 576);
  CHECK(fg::cache_width(compressed{}) == 576);
}

TEST_CASE("scores and their use cost two operations a pair, head and number") {
  std::int64_t const pairs = 100 * 101 / 2;
  CHECK(straight::extra_flops(100) == pairs * 16 * 2 * (128 + 64 + 128));
  CHECK(fg::flops(straight{}, 100) ==
        2 * 100 * fg::parameters(straight{}) + straight::extra_flops(100));
}

TEST_CASE("norms are gains; all else is projections") {
  for (auto const& w : fg::list_weights<compressed>()) {
    bool const norm = w.name.find("norm") != std::string::npos;
    CHECK(w.role == (norm ? fg::role::gain : fg::role::projection));
  }
}
