// Registers for matrices: tiles of every height have the bits that Intel's manual says.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <finegrain/base/random.hpp>
#include <finegrain/cpu/amx_tile.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

#if defined(FINEGRAIN_HAS_AMX)
#include "../isa/amx_elsewhere.hpp"

namespace {

using namespace under_test;
namespace simd = fg::simd;
constexpr int width = simd::panel_width, deep = simd::amx_tile::deep, high = simd::amx_tile::high;

/// bf16 numbers of ordinary size; small ones, many of them subnormal, whose products and sums are about
/// as small as floats are, but for a few; or some so large that sums are infinite, or infinite, or none.
enum class kind { ordinary, small, large };
std::uint32_t bf16_number(kind of, std::uint64_t word) {
  auto const exponent = [&]() -> std::uint64_t {
    bool const rare = (word >> 24 & 255) == 0;
    std::uint64_t const low = word >> 16 & 3;
    if (of == kind::small) return rare ? 140 : low > 0 ? 61 + low : 0;
    if (of == kind::large && rare) return word >> 16 & 1 ? 254 : 255;
    return 120 + (word >> 16 & 15);
  };
  std::uint64_t const e = exponent(), infinite = e == 255 && word >> 17 & 1;
  return static_cast<std::uint32_t>((word & (infinite ? 0x8000 : 0x807f)) | e << 7);
}
/// Pairs of such numbers; as floats, they are of the same kind.
numbers random_pairs(std::int64_t count, kind of, std::uint64_t seed) {
  numbers made;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i)
    made.push_back(std::bit_cast<float>(bf16_number(of, fg::random_word(seed, 2 * i)) |
                                        bf16_number(of, fg::random_word(seed, 2 * i + 1)) << 16));
  return made;
}

/// sums += a . panel, by registers in memory, a quarter of a tile at a time.
void add_elsewhere(int rows, float const* a, std::int64_t units, float const* panel, float* sums) {
  namespace amx = amx_elsewhere;
  for (; units > 0; units -= deep, a += rows * deep, panel += deep * width)
    for (int top = 0; top < rows; top += high)
      for (int column = 0; column < width; column += simd::lanes) {
        int const height = std::min(high, rows - top);
        fg::amx::shape shape;
        for (int i = 0; i < 3; ++i) {
          shape.rows[i] = static_cast<std::uint8_t>(i < 2 ? height : high);
          shape.bytes[i] = 64;
        }
        float* const at = sums + top * width + column;
        amx::begin(shape);
        amx::load<0>(at, 4 * width);
        amx::load<1>(a + top * deep, 4 * deep);
        amx::load<2>(panel + column, 4 * width);
        amx::add_product<0, 1, 2>();
        amx::store<0>(at, 4 * width);
        amx::end();
      }
}

TEST_CASE("tiles in registers for matrices have the bits that the manual says") {
  if (!fg::amx::allowed()) {
    CHECK_THROWS_AS(fg::cpu(fg::format::bf16), fg::error);
    CHECK_THROWS_AS(fg::require_matrix_registers(), fg::error);
    return;
  }
  std::int64_t const units = 3 * deep;
  int different = 0, subnormal = 0, finite = 0, infinite = 0, none = 0;
  std::uint64_t seed = 0;
  for (kind const of : {kind::ordinary, kind::small, kind::large})
    for (int rows = 1; rows <= 2 * high; ++rows)
      for (simd::sink const to : {simd::sink::fresh, simd::sink::go_on}) {
        guarded a(rows, units), panel(units, width), sums(rows, width);
        a = random_pairs(rows * units, of, ++seed);
        panel = random_pairs(units * width, of, ++seed);
        numbers expected = random_pairs(rows * width, of, ++seed);
        sums = expected;
        if (to == simd::sink::fresh) expected.assign(expected.size(), 0.0f);
        add_elsewhere(rows, a.data(), units, panel.data(), expected.data());
        simd::streams nothing{};
        simd::run_matrix_tiles(rows, a.data(), units, panel.data(), to, sums.data(), width, {}, 1,
                               nothing);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          float const x = expected[i], y = sums.data()[i];
          if (std::isnan(x)) {
            ++none;
            different += !std::isnan(y);
          } else {
            different += std::bit_cast<std::uint32_t>(x) != std::bit_cast<std::uint32_t>(y);
            subnormal += std::fpclassify(x) == FP_SUBNORMAL;
            ++(std::isinf(x) ? infinite : finite);
          }
        }
      }
  CHECK(different == 0);
  CHECK(subnormal == 0);  // they become 0
  INFO(finite << " finite, " << infinite << " infinite, " << none << " none");
  CHECK(std::min({finite, infinite, none}) > 1000);
}

using words = std::vector<std::uint32_t>;

/// Sums of so many rows and words along k of bytes, in registers or in memory.
#define PRODUCT_OF_BYTES(NAME, AMX)                                                     \
  words NAME(fg::amx::shape const& shape, words const& a, words const& b, words sums) { \
    AMX::begin(shape);                                                                  \
    AMX::load<0>(sums.data(), 64);                                                      \
    AMX::load<1>(a.data(), 64);                                                         \
    AMX::load_once<2>(b.data(), 64);                                                    \
    AMX::add_bytes<0, 1, 2>();                                                          \
    AMX::store<0>(sums.data(), 64);                                                     \
    AMX::end();                                                                         \
    return sums;                                                                        \
  }
PRODUCT_OF_BYTES(in_registers, fg::amx)
PRODUCT_OF_BYTES(in_memory, amx_elsewhere)

TEST_CASE("products of bytes are those that the manual says") {
  if (!fg::amx::allowed()) return;
  auto const random = [](std::uint64_t seed) {
    words made(16 * 16);
    for (std::size_t i = 0; i < made.size(); ++i)
      made[i] = static_cast<std::uint32_t>(fg::random_word(seed, i));
    return made;
  };
  for (int rows = 1; rows <= high; ++rows)
    for (int deep_words = 1; deep_words <= 16; ++deep_words) {
      fg::amx::shape shape;
      for (int i = 0; i < 3; ++i) {
        shape.rows[i] = static_cast<std::uint8_t>(i < 2 ? rows : deep_words);
        shape.bytes[i] = static_cast<std::uint16_t>(i == 1 ? 4 * deep_words : 64);
      }
      words const a = random(1), b = random(2), sums = random(3);
      words const made = in_registers(shape, a, b, sums);
      REQUIRE(made == in_memory(shape, a, b, sums));
      REQUIRE(made != sums);
    }
}

}  // namespace
#else
TEST_CASE("without registers for matrices none are required") {
  CHECK_NOTHROW(finegrain::require_matrix_registers());
}
#endif
