// Products: the same sums whatever the shapes, and no number read that is not there.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/product.hpp>

#include "../catch.hpp"
#include "guarded.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
namespace simd = fg::simd;

/// One chain of multiply-adds, as a product promises it, on this file's instruction set.
float chain(float const* a, float const* b, std::int64_t b_stride, std::int64_t K) {
  simd::vec sum{};
  for (std::int64_t k = 0; k < K; ++k)
    simd::add_product(simd::broadcast(a[k]), simd::broadcast(b[k * b_stride]), sum);
  return sum[0];
}

numbers multiplied(auto const& b, numbers const& a, std::int64_t T, std::int64_t K,
                   std::int64_t N) {
  numbers y(static_cast<std::size_t>(T * N), poison);
  for (std::int64_t t = 0; t < T; t += simd::block_rows) {
    std::int64_t const n = std::min<std::int64_t>(simd::block_rows, T - t);
    simd::multiply_block(simd::row_list(view(a, T, K).middle_rows(t, n)), K, b, 0, b.panels(),
                         view(y, T, N).middle_rows(t, n), fg::gradients::overwrite);
  }
  return y;
}

TEST_CASE("a product of any shape has one order of summing, whatever the rows beside") {
  for (auto [T, K, N] : {std::array<int, 3>{1, 1, 1},
                         {1, 300, 7},
                         {2, 17, 33},
                         {5, 256, 130},
                         {6, 257, 16},
                         {7, 31, 129},
                         {97, 40, 19},
                         {1, 512, 5},
                         {3, 1000, 40},
                         {7, 853, 17},
                         {50, 600, 129},
                         {200, 513, 65}}) {
    INFO("T " << T << ", K " << K << ", N " << N);
    numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
    numbers flipped(w.size());
    for (int n = 0; n < N; ++n)
      for (int k = 0; k < K; ++k) flipped[std::size_t(k * N + n)] = w[std::size_t(n * K + k)];
    numbers const y = multiplied(simd::transposed(view(w, N, K)), a, T, K, N);
    numbers const z =
        multiplied(simd::straight{simd::row_list(view(flipped, K, N)), N}, a, T, K, N);
    numbers chains(y.size());
    for (int t = 0; t < T; ++t)
      for (int n = 0; n < N; ++n)
        chains[std::size_t(t * N + n)] =
            chain(&a[std::size_t(t * K)], &w[std::size_t(n * K)], 1, K);
    CHECK(same(y, chains));
    CHECK(same(z, chains));
  }
}

TEST_CASE("two matrices side by side give the two products, half a panel each") {
  int const T = 9, K = GENERATE(20, 700), N = 13;
  numbers const a = random_numbers(T * K, 1), g = random_numbers(N * K, 2),
                u = random_numbers(N * K, 3);
  simd::transposed const b(view(g, N, K), view(u, N, K));
  simd::room room;
  for (std::int64_t p = 0; p < b.panels(); ++p) {
    simd::multiply(simd::row_list(view(a, T, K)), T, K, b, p, p + 1, room, room.sums);
    for (int t = 0; t < T; ++t)
      for (std::int64_t c = 0; c < b.width() && p * b.width() + c < N; ++c) {
        auto const n = std::size_t(p * b.width() + c);
        float const* const sums = room.sums + t * simd::panel_width;
        CHECK(sums[c] == chain(&a[std::size_t(t * K)], &g[n * std::size_t(K)], 1, K));
        CHECK(sums[b.width() + c] == chain(&a[std::size_t(t * K)], &u[n * std::size_t(K)], 1, K));
      }
  }
}

TEST_CASE("a product takes rows by index") {
  int const T = 5, K = 9, N = 6;
  numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
  std::vector<std::int32_t> const index{4, 0, 4};
  numbers y(3 * N), z(T * N);
  simd::transposed const b(view(w, N, K));
  simd::multiply_block(simd::row_list(view(a, T, K), index.data()), K, b, 0, b.panels(),
                       view(y, 3, N), fg::gradients::overwrite);
  simd::multiply_block(simd::row_list(view(a, T, K)), K, b, 0, b.panels(), view(z, T, N),
                       fg::gradients::overwrite);
  CHECK(same(y, joined(joined(rows(z, N, 4, 1), rows(z, N, 0, 1)), rows(z, N, 4, 1))));
}

TEST_CASE("an outer product is exact on whole numbers, stored or added, of no rows too") {
  for (auto [K, F, D] : {std::array<int, 3>{0, 3, 5},
                         {1, 1, 1},
                         {7, 20, 33},
                         {300, 50, 130},
                         {200, 230, 1000},
                         {40, 7, 64}}) {
    INFO("K " << K << ", F " << F << ", D " << D);
    numbers a(std::size_t(K * F)), b(std::size_t(K * D));
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = float(int(i * 7 % 9) - 4);
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = float(int(i * 5 % 11) - 5);
    numbers made(std::size_t(F * D), poison), added(std::size_t(F * D), 3), exact(made.size());
    for (int k = 0; k < K; ++k)
      for (int f = 0; f < F; ++f)
        for (int d = 0; d < D; ++d)
          exact[std::size_t(f * D + d)] += a[std::size_t(k * F + f)] * b[std::size_t(k * D + d)];
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate})
      simd::outer_product(view(a, K, F), 0, view(b, K, D), K,
                          view(mode == fg::gradients::overwrite ? made : added, F, D), mode);
    CHECK(made == exact);
    for (float& number : exact) number += 3;
    CHECK(added == exact);
  }
}

TEST_CASE("nothing behind a row's end is read or written") {
  for (auto [T, K, N] : {std::array<int, 3>{1, 1, 1}, {3, 1000, 5}, {7, 853, 17}, {2, 9, 853}}) {
    guarded a(T, K), w(N, K), y(T, N), dw(N, K);
    a = random_numbers(T * K, 1);
    w = random_numbers(N * K, 2);
    simd::multiply_block(simd::row_list(a.view()), K, simd::transposed(w.view()), 0,
                         simd::transposed(w.view()).panels(), y.view(), fg::gradients::overwrite);
    guarded dx(T, K);
    simd::straight const b{simd::row_list(w.view()), K};
    simd::multiply_block(simd::row_list(y.view()), N, b, 0, b.panels(), dx.view(),
                         fg::gradients::overwrite);
    for (int o = 0; o < N; o += 5)
      simd::outer_product(y.view(), o, a.view(), T, dw.view().middle_rows(o, std::min(N - o, 5)),
                          fg::gradients::overwrite);
    CHECK(y.view()(T - 1, N - 1) == chain(a.view().row(T - 1), w.view().row(N - 1), 1, K));
  }
}

}  // namespace
