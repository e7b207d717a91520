// Frozen stages: attention, products, feed-forward blocks and embeddings in every format.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/model/frozen.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
using enum fg::format;
using fg::format;

#define EVERY_FORMAT ((fg::format F), F), f32, bf16, fp8, int8, int8_block, int4

constexpr fg::architecture numbers_of_it{
    .hidden = 40,
    .layers = 2,
    .vocabulary = 70,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 12,
    .dense_layers = 1,
    .dense_width = 50,
    .moe = {.hidden = 40, .width = 24, .routed = 6, .top_k = 2, .shared = 1}};
using decoder = fg::decoder<numbers_of_it>;

std::vector<std::int32_t> some_ids(int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(i * i % 70);
  return ids;
}

/// Outputs of a network, and of what it is frozen to, for the same random rows.
template <class E, class Frozen>
std::pair<numbers, numbers> outputs(std::int64_t T) {
  fg::network<E, fg::cpu> net({.deviation = 0.2, .seed = 3});
  Frozen frozen(net);
  numbers const x = random_numbers(T * net.in, 5);
  numbers y(std::size_t(T * net.out), poison), z = y;
  net(view(x, T, net.in), view(y, T, net.out));
  frozen(view(x, T, net.in), view(z, T, net.out));
  return {y, z};
}
template <class E, fg::formats F>
using on_cpu = fg::frozen<E, fg::cpu, F>;

/// Largest error against the specification in double, in units of the largest number.
template <format F, class E>
double error(E, std::int64_t T) {
  fg::network<E, fg::cpu> net({.deviation = 0.2, .seed = 3});
  fg::network<E, fg::basic_reference<double>> exact;
  std::copy(net.parameters().begin(), net.parameters().end(), exact.parameters().begin());
  auto frozen = fg::quantize<F>(net);
  numbers const x = random_numbers(T * net.in, 5);
  std::vector<double> const wide(x.begin(), x.end());
  std::vector<double> y(std::size_t(T * net.out));
  numbers z(y.size(), poison);
  exact(view(wide, T, net.in), view(y, T, net.out));
  frozen(view(x, T, net.in), view(z, T, net.out));
  return difference(y, z);
}

/// The largest number of a format: where twice that stands, the scale is 2.
constexpr float largest(format F) {
  switch (F) {
    case int8:
    case int8_block: return 127;
    case int4: return -8;
    case fp8: return 448;
    case bf16: return 256;
    default: return 1000;
  }
}

TEMPLATE_TEST_CASE_SIG("products of whole numbers that a format holds are exact", "",
                       EVERY_FORMAT) {
  auto const check = []<int K, int N>(fg::linear<K, N>, int T) {
    INFO("T " << T << ", K " << K << ", N " << N);
    fg::network<fg::linear<K, N>, fg::cpu> net;
    auto const w = net.weights().weight;
    for (int n = 0; n < N; ++n)
      for (int k = 0; k < K; ++k)
        w(n, k) = 2 * (k % 32 == 0 ? largest(F) : float((n * 5 + k * 3) % 15 - 7));
    auto frozen = fg::quantize<F>(net);
    numbers x(std::size_t(T * K)), y(std::size_t(T * N), poison);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(int(i * 7 % 11) - 5);
    for (int t = 0; t < T; ++t)
      for (int k = 0; k < K; k += 32)  // the largest byte: all others are whole, too
        x[std::size_t(t * K + k)] = k % 64 == 0 ? 127 : -127;
    frozen(view(std::as_const(x), T, K), view(y, T, N));
    int wrong = 0;
    for (int t = 0; t < T; ++t)
      for (int n = 0; n < N; ++n) {
        double sum = 0;
        for (int k = 0; k < K; ++k) sum += double(x[std::size_t(t * K + k)]) * double(w(n, k));
        wrong += double(y[std::size_t(t * N + n)]) != sum;
      }
    CHECK(wrong == 0);
  };
  for (int T : {1, 2, 7, 100}) {
    check(fg::linear<1, 1>{}, T);
    check(fg::linear<37, 50>{}, T);
    check(fg::linear<1100, 150>{}, T);
  }
  check(fg::linear<50000, 9>{}, 1);  // more than is copied at a time
  check(fg::linear<20000, 33>{}, 3);
}

TEST_CASE("frozen stages have the network's bits in f32, and nearly in bf16") {
  auto const compare = []<class E>(E) {
    for (std::int64_t T : {1, 2, 40, 300}) {
      auto const [a, b] = outputs<E, on_cpu<E, f32>>(T);
      CHECK(same(a, b));
      auto const [c, d] = outputs<E, on_cpu<E, bf16>>(T);
      double const off = difference(std::vector<double>(c.begin(), c.end()), d);
      CHECK(off < 5e-2);
      CHECK(off > 1e-5);  // it did round
    }
  };
  compare(fg::linear<37, 300>{});
  compare(fg::linear<700, 1>{});
  compare(fg::head<600, 70>{});
  compare(fg::mlp<37, 21>{});
  compare(fg::attention<36, 4, 2, 10>{});
  compare(fg::residual(fg::rmsnorm<36>{} | fg::attention<36, 4, 2, 10>{}));
  constexpr fg::attention_form form{.bias = true, .norm = fg::head_norm::each, .theta = 1e6};
  compare(fg::residual(fg::rmsnorm<36, 1e-5>{} | fg::attention<36, 4, 2, 10, form>{}));
  compare(fg::residual(fg::rmsnorm<260>{} | fg::attention<260, 2>{}));  // not by rows
  compare(
      fg::latent_attention<36, 3, fg::latent{.kv_rank = 50, .nope = 10, .rope = 6, .value = 13}>{});
  compare(fg::latent_attention<
          36, 2, fg::latent{.q_rank = 30, .kv_rank = 140, .nope = 37, .rope = 4, .value = 150}>{});
}

using latent = fg::latent_attention<
    72, 4, fg::latent{.q_rank = 64, .kv_rank = 72, .nope = 40, .rope = 16, .value = 24}>;

/// Queries straight from x, as V2-Lite has them: some matrices have no rows or no columns.
using straight_latent =
    fg::latent_attention<72, 4, fg::latent{.kv_rank = 72, .nope = 40, .rope = 16, .value = 24}>;

TEST_CASE("quantised stages come as near the specification as their formats allow") {
  auto const compare = [](auto e, double one) {
    for (std::int64_t T : {3, 120}) {
      auto const check = [&]<format F>(double bound) {
        INFO("format " << int(F) << ", T " << T);
        double const off = error<F>(e, T);
        CHECK(off < bound);
        CHECK(off > bound / 40);
      };
      check.template operator()<bf16>(0.01 * one);
      check.template operator()<int8_block>(0.03 * one);
      check.template operator()<int8>(0.03 * one);
      check.template operator()<fp8>(0.07 * one);
      check.template operator()<int4>(0.25 * one);
    }
  };
  compare(fg::linear<300, 70>{}, 1);
  compare(fg::mlp<70, 130>{}, 1);
  compare(fg::rmsnorm<72>{} | fg::attention<72, 4, 2>{}, 1);
  compare(fg::residual(fg::rmsnorm<72>{} | fg::attention<72, 4, 2>{}), 1);
  compare(fg::rmsnorm<72>{} | latent{}, 2);  // more products, one behind the other
  compare(fg::rmsnorm<72>{} | straight_latent{}, 2);
}

TEST_CASE("an embedding's rows are kept in bf16, in f32 to the bit") {
  using E = fg::embedding<70, 37>;
  fg::network<E, fg::cpu> net({.deviation = 0.2});
  auto const ids = some_ids(100);
  numbers y(100 * 37), z = y, q = y;
  net(ids, view(y, 100, 37));
  fg::quantize<f32>(net)(ids, view(z, 100, 37));
  fg::quantize<int4>(net)(ids, view(q, 100, 37));
  CHECK(same(y, z));
  for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(q[i] == fg::rounded_to_bf16(y[i]));
  auto frozen = fg::quantize<int8>(net);
  CHECK_THROWS_WITH(frozen(std::vector<std::int32_t>{70}, view(y, 1, 37)),
                    ContainsSubstring("token 0 has the id 70"));
}

TEST_CASE("experts and the rest may be frozen in two formats") {
  using E = fg::then<fg::linear<37, 48>, fg::mlp<48, 30>>;
  auto const weights = [](auto const& f) { return double(f.weight_bytes()); };
  fg::network<E, fg::cpu> net({.deviation = 0.2, .seed = 3});
  auto const four = fg::quantize<int4, f32>(net);
  static_assert(four.stored.experts == int4 && four.stored.rest == f32);
  CHECK(weights(four) < weights(fg::quantize<f32>(net)));
  CHECK(weights(four) > weights(fg::quantize<int4>(net)));

  using rest = fg::linear<37, 48>;
  auto const [a, b] = outputs<rest, on_cpu<rest, fg::formats(int4, f32)>>(20);
  CHECK(same(a, b));
  using experts = fg::mlp<48, 30>;
  auto const [c, d] = outputs<experts, on_cpu<experts, fg::formats(f32, int4)>>(20);
  CHECK(same(c, d));
  auto const [x, y] = outputs<experts, on_cpu<experts, fg::formats(int4, f32)>>(20);
  CHECK_FALSE(same(x, y));
}

TEMPLATE_TEST_CASE_SIG("a frozen decoder has the same bits token by token and on any threads", "",
                       EVERY_FORMAT) {
  constexpr int T = 300;
  auto const ids = some_ids(T);
  fg::network<decoder, fg::cpu> net({.deviation = 0.2, .seed = 3});
  numbers exact(T * 70), first;
  net(ids, view(exact, T, 70));
  for (int workers : {1, 2, 3, 8}) {
    fg::thread_pool pool(workers);
    fg::network<decoder, fg::cpu> same_net(fg::cpu(pool), {.deviation = 0.2, .seed = 3});
    auto frozen = fg::quantize<F>(same_net);
    numbers y(T * 70, poison);
    frozen(ids, view(y, T, 70));
    if (first.empty()) {
      first = y;
      if (F == f32) CHECK(same(y, exact));
      auto cache = frozen.make_cache(T);
      for (int t = 0; t < T; ++t) {
        numbers one(70, poison);
        frozen.infer({.tokens = 1, .ids = std::span(ids).subspan(std::size_t(t), 1)}, {},
                     view(one, 1, 70), &cache);
        REQUIRE(same(one, rows(y, 70, t, 1)));
      }
    }
    CHECK(same(y, first));
  }
}

TEMPLATE_TEST_CASE_SIG(
    "frozen latent attention has the same bits token by token and on any threads", "",
    EVERY_FORMAT) {
  constexpr int T = 70;
  numbers const x = random_numbers(T * 72, 5);
  numbers first;
  for (int workers : {1, 2, 3, 8}) {
    fg::thread_pool pool(workers);
    fg::network<latent, fg::cpu> net(fg::cpu(pool), {.deviation = 0.2, .seed = 3});
    auto frozen = fg::quantize<F>(net);
    numbers y(T * 72, poison);
    frozen(view(x, T, 72), view(y, T, 72));
    if (first.empty()) {
      first = y;
      auto cache = frozen.make_cache(T);
      for (int t = 0; t < T; ++t) {
        numbers const one = rows(x, 72, t, 1);
        numbers z(72, poison);
        frozen.infer({.tokens = 1}, view(one, 1, 72), view(z, 1, 72), &cache);
        REQUIRE(same(z, rows(y, 72, t, 1)));
      }
    }
    CHECK(same(y, first));
  }
}

TEST_CASE("a frozen decoder's weights take the bytes of their formats") {
  constexpr fg::architecture large{
      .hidden = 1024,
      .layers = 2,
      .vocabulary = 4096,
      .heads = 8,
      .kv_heads = 8,
      .head_dim = 128,
      .dense_layers = 1,
      .dense_width = 4096,
      .moe = {.hidden = 1024, .width = 512, .routed = 8, .top_k = 2, .shared = 1}};
  using E = fg::decoder<large>;
  constexpr double table = 4096 * 1024, all = double(fg::weights_size<E>()) - table;
  constexpr auto ratio = [](std::int64_t bytes, double bits) {
    return double(bytes) / (bits / 8 * all + 2 * table);
  };
  static_assert(ratio(on_cpu<E, bf16>::weight_bytes(), 16) < 1.02);
  static_assert(ratio(on_cpu<E, int8>::weight_bytes(), 8) < 1.02);
  static_assert(ratio(on_cpu<E, int4>::weight_bytes(), 4.5) < 1.02);
  // A number that a compiler can tell: nothing is divided by columns that are not there.
  static_assert(on_cpu<straight_latent, int8>::weight_bytes() <
                on_cpu<latent, int8>::weight_bytes());
}

}  // namespace
