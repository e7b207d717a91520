// Weights in bf16 beside those that learn: how they are rounded, who writes them, who reads them.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/trainer.hpp>
#include <limits>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using network = fg::network<tiny::decoder, fg::cpu>;
using block = fg::network<fg::mlp<9, 21>, fg::cpu>;
constexpr auto bf16 = fg::format::bf16;
using rounding = fg::weight_rounding;
constexpr auto stochastic = rounding::stochastic;

template <class Net>
std::vector<float> weights_of(Net const& net) {
  std::vector<float> all;
  for (auto const& entry : net.entries())
    all.insert(all.end(), net.parameters().begin() + entry.offset,
               net.parameters().begin() + entry.offset + entry.rows * entry.cols);
  return all;
}
bool same(std::vector<float> const& a, std::vector<float> const& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]);
}
std::vector<float> random_numbers(std::size_t count, std::uint64_t seed) {
  std::vector<float> made(count);
  for (std::size_t i = 0; i < count; ++i) made[i] = float(fg::random_normal(seed, i));
  return made;
}
std::vector<float> rounded(std::vector<float> const& w, std::uint64_t seed,
                           fg::parallel threads = {}, std::int64_t piece = 1000) {
  std::vector<fg::bf16> to(w.size());
  std::vector<fg::trained_range> ranges;
  for (auto at = std::int64_t(0), size = std::int64_t(w.size()); at < size; at += piece)
    ranges.push_back({at, std::min(piece, size - at)});
  fg::round_weights<float>(threads, ranges, w.data(), {to.data(), true, seed});
  std::vector<float> made;
  for (fg::bf16 const one : to) made.push_back(float(one));
  return made;
}

}  // namespace

TEST_CASE("of all draws, as many round up as a number is above the one below it") {
  for (float const x : {1.0f, 1.001f, -3.3f, 1e-3f, 6.5e4f, -1e-39f}) {
    std::uint32_t const below = __builtin_bit_cast(std::uint32_t, x) & 0xffff0000u;
    std::uint32_t up = 0;
    for (std::uint32_t draw = 0; draw < 65536; ++draw) {
      auto const made = __builtin_bit_cast(std::uint32_t, float(fg::rounded_by(x, draw)));
      REQUIRE((made == below || made == below + 0x10000));
      up += made != below;
    }
    CHECK(up == (__builtin_bit_cast(std::uint32_t, x) & 0xffff));
  }
}

TEST_CASE("what bf16 holds is not moved by chance") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::uint32_t draw : {0u, 1u, 32768u, 65535u}) {
    for (float x : {0.0f, -0.0f, 1.0f, -1.5f, 0x1.fep127f, infinity, -infinity}) {
      float const made(fg::rounded_by(x, draw));
      CHECK(std::memcmp(&made, &x, sizeof x) == 0);
    }
    std::uint32_t const nan = 0x7fffffff;
    CHECK(std::isnan(float(fg::rounded_by(__builtin_bit_cast(float, nan), draw))));
  }
}

TEST_CASE("the mean of many roundings is the number itself") {
  std::vector<float> const w = random_numbers(64, 1);
  std::vector<double> mean(w.size(), 0);
  constexpr int times = 4096;
  for (std::uint64_t seed = 0; seed < times; ++seed) {
    auto const made = rounded(w, seed);
    for (std::size_t i = 0; i < w.size(); ++i) mean[i] += double(made[i]) / times;
  }
  for (std::size_t i = 0; i < w.size(); ++i) {
    double const step = std::abs(double(w[i])) * 0x1p-7;  // at least that of bf16 there
    CHECK(std::abs(mean[i] - double(w[i])) < 5 * step / 2 / std::sqrt(double(times)));
  }
}

TEST_CASE("a weight is rounded by its place and the seed, not by threads or pieces") {
  std::vector<float> const w = random_numbers(10007, 1);
  std::vector<float> const one = rounded(w, 5);
  CHECK(!same(one, rounded(w, 6)));
  for (std::int64_t piece : {1, 37, 4000}) CHECK(same(one, rounded(w, 5, {}, piece)));
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    CHECK(same(one, rounded(w, 5, pool)));
  }
}

TEST_CASE("steps that read the copy in bf16 have the bits of steps that round as they pack") {
  network copied(fg::cpu{bf16}), packed(fg::cpu{bf16});
  fg::trainer with{copied, {.lr = 1e-2}, {.rounding = rounding::nearest}};
  fg::trainer without{packed, {.lr = 1e-2}};
  tiny::text const text(68);
  for (int i = 0; i < 4; ++i) {
    CHECK(with.step(text.inputs(), text.targets()).loss ==
          without.step(text.inputs(), text.targets()).loss);
    CHECK(same(weights_of(copied), weights_of(packed)));
    with.settings().rounding = i == 2 ? rounding::in_products : rounding::nearest;  // and back
    CHECK(!copied.on().copy.rounded);  // lent for a pass
    if (i == 1)                        // weights that others write reach the copy
      for (auto* net : {&copied, &packed}) net->weight("head.weight")(3, 4) = 0.75f;
  }
  for (auto* train : {&with, &without}) {
    train->settings().rounding = rounding::in_products;
    train->gather({.tokens = 68, .ids = text.inputs()}, text.targets());
    train->gather({.tokens = 68, .ids = text.targets()}, text.inputs());
    train->settings().rounding = rounding::nearest;  // between the passes and the step
    train->finish();
    train->step(text.inputs(), text.targets());
  }
  CHECK(same(weights_of(copied), weights_of(packed)));
}

TEST_CASE("a network that takes the place of a trainer's own is read, and not the old one's copy") {
  tiny::text const text(40);
  std::vector<float> made[2];
  for (rounding const how : {rounding::in_products, rounding::nearest}) {
    fg::cpu const on{{}, bf16};
    network net({.deviation = 0.1, .seed = 1}, on), better({.deviation = 0.1, .seed = 2}, on);
    fg::trainer train{net, {.lr = 1e-2}, {.rounding = how}};
    fg::trainer beside{better, {.lr = 1e-2}, {.rounding = how}};
    for (int i = 0; i < 3; ++i) {  // as many steps each
      train.step(text.inputs(), text.targets());
      beside.step(text.inputs(), text.targets());
    }
    net = std::move(better);
    train.step(text.inputs(), text.targets());
    made[how == rounding::nearest] = weights_of(net);
  }
  CHECK(same(made[0], made[1]));
}

TEST_CASE("weights rounded by chance: the same bits for any threads, others than to the nearest") {
  tiny::text const text(68);
  auto const learn = [&](fg::parallel threads, rounding how) {
    network net(fg::cpu{threads, bf16});
    fg::trainer train{net, {.lr = 1e-2}, {.rounding = how}};
    for (int i = 0; i < 3; ++i) train.step(text.inputs(), text.targets());
    return weights_of(net);
  };
  auto const one = learn({}, stochastic);
  CHECK(!same(one, learn({}, rounding::nearest)));
  CHECK(same(learn({}, rounding::in_products), learn({}, rounding::nearest)));
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    CHECK(same(one, learn(pool, stochastic)));
  }
}

TEST_CASE("weights rounded by chance or to the nearest learn what those in f32 do") {
  tiny::text const text(68);
  auto const learn = [&](fg::cpu on, rounding how) {
    network net(on, {.deviation = 0.1, .seed = 1});
    fg::trainer train{net, {.lr = 1e-2}, {.rounding = how}};
    for (int i = 0; i < 120; ++i) train.step(text.inputs(), text.targets());
    return train.evaluate(text.inputs(), text.targets());
  };
  double const exact = learn(fg::cpu(), rounding::in_products);
  CHECK(learn(fg::cpu{bf16}, rounding::nearest) == Approx(exact).margin(0.02));
  CHECK(learn(fg::cpu{bf16}, stochastic) == Approx(exact).margin(0.02));
}

TEST_CASE("a run with weights rounded by chance goes on with the same bits") {
  folder const files;
  std::string const path = files / "run.safetensors";
  std::vector<float> x = random_numbers(5 * 9, 1), y = random_numbers(5 * 9, 2);
  auto const in = [&] { return fg::matrix<float const>(x.data(), 5, 9); };
  fg::matrix<float const> const out(y.data(), 5, 9);
  block whole(fg::cpu{bf16}), resumed(fg::cpu{bf16}, {.seed = 9});
  fg::trainer train{whole, {.lr = 1e-2}, {.rounding = stochastic}};
  train.step(in(), out);
  float const kept = std::exchange(x[0], std::numeric_limits<float>::infinity());
  CHECK(!std::isfinite(train.step(in(), out).gradient_norm));  // moves nothing, but counts
  x[0] = kept;
  train.save(path);
  fg::trainer again{resumed, {.lr = 1e-2}, {.rounding = stochastic}};
  again.load(path);
  for (int i = 0; i < 3; ++i) CHECK(train.step(in(), out).loss == again.step(in(), out).loss);
  CHECK(same(weights_of(whole), weights_of(resumed)));
}

TEST_CASE("where no product is of bf16, weights are not rounded to it") {
  block net;
  CHECK_THROWS_WITH((fg::trainer{net, {}, {.rounding = stochastic}}),
                    "weights are rounded to bf16 for a cpu that multiplies in bf16");
  fg::network<fg::mlp<9, 21>, fg::reference> exact;
  CHECK_THROWS_AS((fg::trainer{exact, {}, {.rounding = rounding::nearest}}), fg::invalid_argument);
  fg::trainer train{net};
  train.settings().rounding = rounding::nearest;
  std::vector<float> const x(9);
  fg::matrix<float const> const one(x.data(), 1, 9);
  CHECK_THROWS_AS(train.step(one, one), fg::invalid_argument);
}
