// Laws of expr/algebra.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>
#include <type_traits>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

using a = fg::linear<8, 4>;
using b = fg::linear<4, 6>;
using c = fg::linear<6, 8>;

/// A stage of somebody else's namespace: `|` and `+` are found all the same.
namespace elsewhere {
struct mine : fg::stage<8, 4> {};
}  // namespace elsewhere

constexpr auto in_sequence = elsewhere::mine{} | b{} | c{};
constexpr auto added = elsewhere::mine{} + a{};

template <class E>
constexpr bool shaped(E, int in, int out) {
  return fg::in_width<E>() == in && fg::out_width<E>() == out;
}

}  // namespace

TEST_CASE("a | b takes what a takes and makes what b makes") {
  CHECK(shaped(a{} | b{}, 8, 6));
  CHECK(shaped(a{} | b{} | c{}, 8, 8));
  CHECK(shaped(in_sequence, 8, 8));
  CHECK(shaped(a{} | (b{} | c{}), 8, 8));
}

TEST_CASE("a + b takes and makes what both do") {
  CHECK(shaped(a{} + a{}, 8, 4));
  CHECK(shaped(added, 8, 4));
  CHECK(shaped((a{} | b{}) + fg::linear<8, 6>{}, 8, 6));
}

TEST_CASE("residual(a) and repeat<n>(a) are as wide as a") {
  CHECK(shaped(fg::residual(a{} | b{} | c{}), 8, 8));
  CHECK(shaped(fg::repeat<7>(fg::rmsnorm<8>{}), 8, 8));
  CHECK(shaped(fg::repeat<2>(fg::repeat<3>(fg::rmsnorm<8>{})), 8, 8));
}

#pragma GCC diagnostic ignored "-Wparentheses"  // that is the test
TEST_CASE("+ binds tighter than |, as in the written formula") {
  CHECK(std::is_same_v<decltype(a{} | b{} + b{}), fg::then<a, fg::sum<b, b>>>);
}

TEST_CASE("an expression of any size is an empty type") {
  auto const model =
      fg::embedding<100, 8>{} | fg::repeat<9>(fg::residual(a{} | b{} | c{})) | fg::head<8, 100>{};
  CHECK(std::is_empty_v<decltype(model)>);
  CHECK(shaped(model, fg::ids, 100));
}
