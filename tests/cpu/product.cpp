// Products: the same sums whatever the shapes, and no number read that is not there.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <finegrain/cpu/outer_product.hpp>
#include <memory>

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
  int const T = GENERATE(3, 9, 13), K = GENERATE(20, 700), N = 37;
  numbers const a = random_numbers(T * K, 1), g = random_numbers(N * K, 2),
                u = random_numbers(N * K, 3);
  simd::transposed const b(view(g, N, K), view(u, N, K));
  simd::room room;
  simd::multiply(simd::row_list(view(a, T, K)), T, K, b, 0, b.panels(), room, room.sums);
  for (std::int64_t p = 0; p < b.panels(); ++p) {
    for (int t = 0; t < T; ++t)
      for (std::int64_t c = 0; c < b.width() && p * b.width() + c < N; ++c) {
        auto const n = std::size_t(p * b.width() + c);
        float const* const sums = room.sums + (p * T + t) * simd::panel_width;
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

/// Numbers from -range / 2 to range / 2.
numbers whole_numbers(int count, int step, int range) {
  numbers made(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i)
    made[std::size_t(i)] =
        float(int(std::size_t(i) * std::size_t(step) % std::size_t(range)) - range / 2);
  return made;
}

TEST_CASE("an outer product is exact on whole numbers, stored or added, of no rows too") {
  for (auto [K, F, D] : {std::array<int, 3>{0, 3, 5},
                         {1, 1, 1},
                         {7, 20, 33},
                         {300, 50, 130},
                         {200, 230, 1000},
                         {40, 7, 64}}) {
    INFO("K " << K << ", F " << F << ", D " << D);
    numbers const a = whole_numbers(K * F, 7, 9), b = whole_numbers(K * D, 5, 11);
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

TEST_CASE("rows on the border of vectors leave past the caches, exactly, and nothing behind them") {
  for (auto [K, F, D] : {std::array<int, 3>{10, 97, 288},
                         {40, 13, 96},
                         {40, 230, 64},
                         {130, 29, 320},
                         {300, 120, 832}}) {
    INFO("K " << K << ", F " << F << ", D " << D);
    numbers const a = whole_numbers(K * F, 7, 9), b = whole_numbers(K * D, 5, 11);
    fg::buffer<float> made(F * (D + 64));
    std::fill(made.begin(), made.end(), poison);
    fg::matrix<float> const dw(made.data(), F, D, D + 64);
    REQUIRE(simd::leaving::fits(dw));
    simd::outer_product(view(a, K, F), 0, view(b, K, D), K, dw, fg::gradients::overwrite);
    int wrong = 0;
    for (int f = 0; f < F; ++f)
      for (int d = 0; d < D + 64; ++d) {
        float exact = 0;
        for (int k = 0; k < K && d < D; ++k)
          exact += a[std::size_t(k * F + f)] * b[std::size_t(k * D + d)];
        wrong += d < D ? dw.row(f)[d] != exact : !std::isnan(dw.row(f)[d]);
      }
    CHECK(wrong == 0);
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

/// A room and what a task packs of B, in which nothing stands that a product could mean.
struct poisoned_room {
  std::unique_ptr<simd::room> room = std::make_unique<simd::room>();
  numbers right = numbers(3 << 15, poison);

  poisoned_room() {
    for (float& x : room->left) x = poison;
    for (float& x : room->right) x = poison;
    for (float& x : room->sums) x = poison;
  }
};
/// Rows (count, cols) in the midst of NaN: before them, behind them and behind each.
struct amid_poison {
  std::int64_t count, cols, stride = cols + 5;
  numbers all = numbers(static_cast<std::size_t>((count + 4) * stride), poison);

  amid_poison(numbers const& from, std::int64_t count, std::int64_t cols)
      : count(count), cols(cols) {
    for (std::int64_t r = 0; r < count; ++r)
      std::copy_n(from.begin() + r * cols, cols, rows().row(r));
  }
  fg::matrix<float> rows() { return {all.data() + 2 * stride, count, cols, stride}; }
};

/// An outer product whose operands stand amid NaN, in memory of NaN.
template <fg::format F>
numbers outer(numbers const& a, numbers const& b, std::int64_t K, std::int64_t rows,
              std::int64_t D) {
  amid_poison left(a, K, rows), right(b, K, D);
  numbers made(static_cast<std::size_t>(rows * D), poison);
  poisoned_room with;
  simd::outer_product<F>(left.rows(), 0, right.rows(), K, view(made, rows, D),
                         fg::gradients::overwrite, *with.room, with.right.data(),
                         std::ssize(with.right));
  return made;
}
template <fg::format F>
void check_outer(std::int64_t K, std::int64_t rows, std::int64_t D) {
  INFO("K " << K << ", rows " << rows << ", D " << D << ", format " << int(F));
  numbers const a = random_numbers(K * rows, 1), b = random_numbers(K * D, 2);
  numbers const right = outer<F>(a, b, K, rows, D);
  CHECK(std::none_of(right.begin(), right.end(), [](float x) { return std::isnan(x); }));
  for (std::int64_t odd : {std::int64_t{0}, rows / 2, rows - 1}) {  // a number that is not finite
    numbers with = a;
    with[static_cast<std::size_t>((K - 1) * rows + odd)] = infinity;
    numbers got = outer<F>(with, b, K, rows, D);
    for (std::int64_t d = 0; d < D; ++d) {
      float& x = got[static_cast<std::size_t>(odd * D + d)];
      CHECK_FALSE(std::isfinite(x));
      x = right[static_cast<std::size_t>(odd * D + d)];
    }
    CHECK(same(got, right));
  }
  for (std::int64_t odd : {std::int64_t{0}, D - 1}) {
    numbers with = b;
    with[static_cast<std::size_t>((K - 1) * D + odd)] = poison;
    numbers got = outer<F>(a, with, K, rows, D);
    for (std::int64_t f = 0; f < rows; ++f) {
      float& x = got[static_cast<std::size_t>(f * D + odd)];
      CHECK(std::isnan(x));
      x = right[static_cast<std::size_t>(f * D + odd)];
    }
    CHECK(same(got, right));
  }
}

TEST_CASE("what is not finite reaches its own row and column of an outer product alone") {
  for (std::int64_t K : {1, 2, 7, 8, 9, 255, 513})  // odd: half of the last unit of bf16 is missing
    for (auto [rows, D] : {std::array<int, 2>{1, 1},
                           {2, 33},
                           {7, 16},
                           {13, 40},
                           {96, 17},
                           {97, 150}}) {  // of strips of one height, of two, of several blocks
      check_outer<fg::format::f32>(K, rows, D);
      check_outer<fg::format::bf16>(K, rows, D);
    }
}

/// The same of rows of A times weights as they are stored, turned over or not.
template <fg::format F>
void check_rows(std::int64_t T, std::int64_t K, std::int64_t N) {
  INFO("T " << T << ", K " << K << ", N " << N << ", format " << int(F));
  numbers const a = random_numbers(T * K, 1), w = random_numbers(N * K, 2);
  amid_poison stored(w, N, K), straight(w, K, N);
  auto const multiplied = [&](numbers const& from, auto const& b) {
    amid_poison rows(from, T, K);
    poisoned_room with;
    simd::multiply<F>(rows.rows(), static_cast<int>(T), K, b, 0, b.panels(), *with.room,
                      with.room->sums);
    numbers y;
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t n = 0; n < N; ++n)
        y.push_back(with.room->sums[(n / simd::panel_width * T + t) * simd::panel_width +
                                    n % simd::panel_width]);
    return y;
  };
  auto const check = [&](auto const& b) {
    numbers const right = multiplied(a, b);
    CHECK(std::none_of(right.begin(), right.end(), [](float x) { return std::isnan(x); }));
    for (std::int64_t odd : {std::int64_t{0}, T - 1}) {
      numbers with = a;
      with[static_cast<std::size_t>(odd * K + K - 1)] = poison;
      numbers got = multiplied(with, b);
      for (std::int64_t n = 0; n < N; ++n) {
        float& x = got[static_cast<std::size_t>(odd * N + n)];
        CHECK(std::isnan(x));
        x = right[static_cast<std::size_t>(odd * N + n)];
      }
      CHECK(same(got, right));
    }
  };
  check(simd::transposed(stored.rows()));
  check(simd::straight{simd::row_list(straight.rows()), N});
}

TEST_CASE("what is not finite reaches its own row of a product alone") {
  for (std::int64_t K : {1, 3, 8, 9, 257, 600, 1031})
    for (std::int64_t T : {1, 2, 3, 6, 7, 12, 13, 96})
      for (std::int64_t N : {1, 33, 70, 128}) {
        check_rows<fg::format::f32>(T, K, N);
        check_rows<fg::format::bf16>(T, K, N);
      }
}

}  // namespace
