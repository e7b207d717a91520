// Latent attention on the device: kernels, stages, and whole models of V2's and V3's form.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"
#include "published_model.hpp"

namespace {

using namespace under_test;
using fg::fp16;
using starts_list = std::vector<std::int64_t>;

constexpr int D = 64;
using straight =
    fg::latent_attention<D, 3, fg::latent{.kv_rank = 40, .nope = 16, .rope = 8, .value = 24}>;
using compressed =
    fg::latent_attention<D, 5,
                         fg::latent{.q_rank = 32,
                                    .kv_rank = 72,
                                    .nope = 24,
                                    .rope = 16,
                                    .value = 16,
                                    .yarn = {.factor = 40, .mscale = 1, .mscale_all = 0.5f}}>;
/// Heads and latent vectors as published ones are: the most there can be.
using published = fg::latent_attention<D, 2, fg::presets::deepseek_v3.latent>;

/// How far off values and gradients may be: |a - b| / |a|.
template <class T>
constexpr double near = 0.012;
template <>
constexpr double near<fp16> = 0.002;
template <>
constexpr double near<float> = 2e-5;

template <fg::Expr E, class T>
struct both {
  device_layer<E, T> fast;
  exact_layer<E> exact;

  explicit both(std::uint64_t seed) {
    numbers const w = rounded<T>(random_weights<E>(seed));
    fast.set_weights(w);
    exact.set_weights(w);
  }
  /// Values and gradients of a training pass, and values of one without a gradient.
  void check(std::int64_t tokens, fg::batch const& b = {},
             fg::gradients mode = fg::gradients::overwrite) {
    comparison const c = compare(fast, exact, tokens, 1, b, mode);
    // Gradients of scores are differences: of few tokens little is left of them.
    double const bound = near<T>, slack = tokens < 16 ? 20 : 4;
    INFO(fg::describe(E{}) << tokens << " tokens; the worst gradient is that of " << c.worst);
    CHECK(c.y < bound);
    CHECK(c.dx < slack * bound);
    CHECK(c.dw < slack * bound);
  }
};

/// A cache whose numbers are NaN.
template <fg::Expr E, class T>
fg::cache_of<fg::basic_cuda<T>> empty_cache(std::int64_t tokens) {
  fg::cache_of<fg::basic_cuda<T>> made(E::cache, tokens);
  made.numbers = unwritten<T>(E::cache * tokens);
  return made;
}

TEMPLATE_TEST_CASE("latent attention on the device agrees with the specification", "", bf16, fp16,
                   float) {
  NEED_GPU();
  starts_list const starts{0, 3, 3, 70, 71, 150};
  for (std::int64_t T : on_device::sizes_here({0, 1, 2, 7, 63, 64, 65, 130}))
    both<straight, TestType>(10).check(T);
  for (std::int64_t T : on_device::sizes_here({1, 33, 129}))
    both<compressed, TestType>(20).check(T);
  both<straight, TestType>(30).check(150, {.starts = starts}, fg::gradients::accumulate);
  both<compressed, TestType>(40).check(150, {.starts = starts}, fg::gradients::accumulate);
}

TEMPLATE_TEST_CASE("latent attention of published sizes agrees with the specification", "", bf16,
                   float) {
  NEED_GPU();
  for (std::int64_t T : {1, 40, 70}) both<published, TestType>(50).check(T);
}

TEMPLATE_TEST_CASE("with a cache of latent vectors the device computes what it does without", "",
                   bf16, fp16, float) {
  NEED_GPU();
  auto const check = []<fg::Expr E>(E, starts_list const& steps) {
    both<E, TestType> of(60);
    std::int64_t T = 0;
    for (std::int64_t step : steps) T += step;
    numbers const x = rounded<TestType>(random_numbers(T * D, 2));
    auto const& right = of.exact.forward(x);
    auto cache = empty_cache<E, TestType>(T + 3);
    for (std::int64_t step : steps) {
      std::int64_t const first = cache.lengths[0];
      numbers const y = of.fast.forward(rows(x, D, first, step), {}, false, &cache);
      INFO(fg::describe(E{}) << step << " tokens behind " << first);
      CHECK(off({right.begin() + first * D, right.begin() + (first + step) * D}, y) <
            2 * near<TestType>);
    }
    // The same bits again; and of all that the cache holds, what lies ahead is not read.
    auto again = empty_cache<E, TestType>(T + 3);
    numbers const before = of.fast.forward(rows(x, D, 0, steps[0]), {}, false, &again);
    of.fast.forward(x);
    again.reset(0);
    CHECK(same(before, of.fast.forward(rows(x, D, 0, steps[0]), {}, false, &again)));
  };
  check(straight{}, {1, 1, 1, 30, 0, 1, 17, 70, 1});
  check(straight{}, {5, 150, 1});  // more than meet the cache at a time
  check(compressed{}, {40, 1, 1, 20});
  check(published{}, {33, 1, 3});
}

TEMPLATE_TEST_CASE("several sequences with a cache of latent vectors are what each is alone", "",
                   bf16, float) {
  NEED_GPU();
  both<straight, TestType> some(80);
  CHECK(off_in_sequences(some.fast, some.exact) < 2 * near<TestType>);
  both<compressed, TestType> more(90);
  CHECK(off_in_sequences(more.fast, more.exact) < 2 * near<TestType>);
}

TEST_CASE("latent decode's memory is enough, and no less for more tokens") {
  using fg::device::decode_floats, fg::device::latent_floats;
  for (int query : {1, 3, 7, 16, 128})
    for (std::int64_t T = 0; T < 150; ++T) {
      std::int64_t const room = latent_floats({query, 1, 576, 512}, T);
      REQUIRE(room >= decode_floats({query, 1, 512}, T));
      REQUIRE(room <= latent_floats({query, 1, 576, 512}, T + 1));
    }
}

/// Small models whose widths the device has.
constexpr fg::architecture v2{
    .hidden = 32,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 1,
    .dense_width = 24,
    .moe = {.hidden = 32, .width = 8, .routed = 8, .top_k = 3, .shared = 2},
    .latent = {.kv_rank = 24,
               .nope = 16,
               .rope = 8,
               .value = 8,
               .yarn = {.factor = 40, .original = 4096, .mscale = 0.75f, .mscale_all = 0.75f}}};
constexpr fg::architecture v3{
    .hidden = 32,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 2,
    .dense_width = 24,
    .moe = {.hidden = 32,
            .width = 8,
            .routed = 16,
            .top_k = 4,
            .shared = 1,
            .score = fg::score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .groups = 4,
            .group_limit = 2,
            .group_score = fg::group_score::top2_sum,
            .bias = true},
    .latent = {.q_rank = 16,
               .kv_rank = 24,
               .nope = 16,
               .rope = 8,
               .value = 8,
               .yarn = {.factor = 40, .original = 4096, .mscale = 1, .mscale_all = 1}}};

TEST_CASE("models of V2's and V3's form, read by published names, agree with the specification") {
  NEED_GPU();
  check_model<v2>();
  check_model<v3>();
}

TEST_CASE("a decoder with latent attention learns on the device as on the host") {
  NEED_GPU();
  check_learning<fg::decoder<v3>>();
}

}  // namespace
