// Wanted rows: infer makes outputs of some tokens alone, with the bits of a pass that makes all.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/model/frozen.hpp>
#include <finegrain/plan/timed.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "executors.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config layer{.hidden = 16, .width = 8, .routed = 4, .top_k = 2, .shared = 1};

/// Every set of wanted rows gives those rows of a pass that makes all, and writes no others.
template <class Net>
void check_wanted(Net&& net) {
  using S = typename std::remove_reference_t<Net>::S;
  constexpr std::int64_t T = 41, out = std::remove_reference_t<Net>::out, stride = out + 3;
  static_assert(std::remove_reference_t<Net>::picks_rows);
  tiny::text const text(T);
  std::vector<std::int64_t> const starts{0, 5, 5, 30, T};
  fg::batch b{.tokens = T, .ids = text.inputs(), .starts = starts};
  std::vector<S> all(T * out);
  net.infer(b, {}, fg::matrix<S>(all.data(), T, out));
  for (std::vector<std::int64_t> const& wanted :
       {std::vector<std::int64_t>{0}, {T - 1}, {4, 29, 40}, {0, 1, 2, 3, 7}, {20, 21, 22, 23}}) {
    auto const n = std::ssize(wanted);
    std::vector<S> some(std::size_t((n + 1) * stride), S(7));
    b.wanted = wanted;
    net.infer(b, {}, fg::matrix<S>(some.data(), n, out, stride));
    for (std::int64_t i = 0; i <= n; ++i)
      for (std::int64_t c = 0; c < stride; ++c)
        REQUIRE(some[std::size_t(i * stride + c)] ==
                (i < n && c < out ? all[std::size_t(wanted[std::size_t(i)] * out + c)] : S(7)));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("wanted rows have the bits of a pass that makes all", "", EXECUTORS) {
  fg::initialisation const init{.deviation = 0.4, .seed = 2};
  check_wanted(fg::network<tiny::decoder, TestType>(init));
  check_wanted(fg::network<tiny::latent_decoder, TestType>(init));
  check_wanted(fg::network<tiny::tied_decoder, TestType>(init));
  check_wanted(fg::network<tiny::multiplied_decoder, TestType>(init));
  check_wanted(fg::network<fg::timed<tiny::decoder, TestType>, TestType>(init));
  using begin = decltype(fg::embedding<32, 16>{} | fg::attention<16, 2, 1, 8>{});
  using right =
      decltype(begin{} | (fg::mixture<layer>{} | (fg::rmsnorm<16>{} | fg::head<16, 32>{})));
  check_wanted(fg::network<right, TestType>(init));
  check_wanted(fg::network<decltype(begin{} | fg::rmsnorm<16>{}), TestType>(init));
  check_wanted(fg::network<decltype(begin{} | fg::linear<16, 24>{}), TestType>(init));
  check_wanted(
      fg::network<decltype(begin{} | fg::linear<16, 24>{} | fg::times<24, 0.5>{}), TestType>(init));
}

TEST_CASE("those of a frozen network too, for any number of threads") {
  fg::thread_pool pool(3);
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.4, .seed = 2}, fg::cpu(pool));
  check_wanted(fg::quantize<fg::format::int8>(net));
}

TEMPLATE_TEST_CASE("a pass whose y has no rows makes none, and fills the cache", "", EXECUTORS) {
  using S = typename TestType::scalar;
  tiny::text const text(20);
  auto const check = [&](auto&& net) {
    std::vector<S> right(32), y(32);
    auto whole = net.make_cache(20), parts = net.make_cache(20);
    std::vector<std::int64_t> const last{19}, only{0};
    net.infer({.tokens = 20, .ids = text.inputs(), .wanted = last}, {},
              fg::matrix<S>(right.data(), 1, 32), &whole);
    fg::matrix<S> const none(nullptr, 0, 32);
    net.infer({.tokens = 12, .ids = text.inputs().first(12)}, {}, none, &parts);
    net.infer({.tokens = 7, .ids = text.inputs().subspan(12, 7)}, {}, none, &parts);
    CHECK(parts.lengths[0] == 19);
    net.infer({.tokens = 1, .ids = text.inputs().last(1), .wanted = only}, {},
              fg::matrix<S>(y.data(), 1, 32), &parts);
    CHECK(y == right);
  };
  fg::network<tiny::decoder, TestType> net({.deviation = 0.4, .seed = 2});
  check(net);
  CHECK_THROWS_WITH(
      net.forward({.tokens = 20, .ids = text.inputs()}, {}, fg::matrix<S>(nullptr, 0, 32)),
      "y is 0 x 32; this call needs 20 x 32");
  check(fg::network<fg::timed<tiny::latent_decoder, TestType>, TestType>({.deviation = 0.4}));
  if constexpr (std::is_same_v<TestType, fg::cpu>) check(fg::quantize<fg::format::int4>(net));
}

TEMPLATE_TEST_CASE("rows that cannot be wanted are refused before anything is written", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tiny::decoder, TestType> net({.deviation = 0.4, .seed = 2});
  tiny::text const text(5);
  std::vector<S> y(5 * 32, S(7));
  auto const asked = [&](std::vector<std::int64_t> const& wanted, std::int64_t rows) {
    net.infer({.tokens = 5, .ids = text.inputs(), .wanted = wanted}, {},
              fg::matrix<S>(y.data(), rows, 32));
  };
  for (std::vector<std::int64_t> const& wanted :
       {std::vector<std::int64_t>{-1}, {5}, {2, 2}, {3, 1}, {0, 1, 2, 3, 7}})
    CHECK_THROWS_WITH(asked(wanted, std::ssize(wanted)),
                      "wanted rows must rise, and be of the batch's 5");
  CHECK_THROWS_WITH(asked({1, 3}, 5), "y is 5 x 32; this call needs 2 x 32");
  CHECK_THROWS_WITH(asked({}, 2), "y is 2 x 32; this call needs 5 x 32");

  std::vector<std::int64_t> const wanted{4};
  fg::batch const b{.tokens = 5, .ids = text.inputs(), .wanted = wanted};
  char const* const elsewhere = "only infer makes wanted rows alone";
  fg::matrix<S> const one(y.data(), 1, 32);
  CHECK_THROWS_WITH(net.forward(b, {}, one), ContainsSubstring(elsewhere));
  auto const loss = [](TestType const&, std::int64_t, fg::matrix<S const>, fg::matrix<S>) {
    return 0.0;
  };
  CHECK_THROWS_WITH(net.learn(b, {}, loss), ContainsSubstring(elsewhere));
  CHECK_THROWS_WITH(net.score(b, {}, loss), ContainsSubstring(elsewhere));
  fg::network<fg::mixture<layer>, TestType> other;
  std::vector<S> x(5 * 16);
  CHECK_THROWS_WITH(
      other.infer({.tokens = 5, .wanted = wanted}, fg::matrix<S const>(x.data(), 5, 16),
                  fg::matrix<S>(y.data(), 1, 16)),
      ContainsSubstring(elsewhere));
  for (S number : y) REQUIRE(number == S(7));
}
