// An optimiser of one's own: what it is told, what it moves, and what AdamW moves in its place.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/trainer.hpp>
#include <limits>
#include <mutex>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

template <class X>
using network = fg::network<tiny::decoder, X>;
constexpr fg::adamw numbers{.lr = 1e-2};

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

/// A rule by a lambda.
template <class F>
struct rule_of : fg::update_rule {
  F f;
  explicit rule_of(F f) : f(f) {}
  bool move(fg::weight_update<float> const& w) const override { return f(w); }
  bool move(fg::weight_update<double> const& w) const override { return f(w); }
};

constexpr auto nothing = [](auto const&) { return false; };
/// AdamW, as its paper writes it.
constexpr auto adam = []<class S>(fg::weight_update<S> const& w) {
  double const t = double(w.step);
  for (std::int64_t i = 0; i < w.weight.size(); ++i) {
    double const g = w.scale * double(w.gradient.data[i]);
    double const m = numbers.beta1 * double(w.first.data[i]) + (1 - numbers.beta1) * g;
    double const v = numbers.beta2 * double(w.second.data[i]) + (1 - numbers.beta2) * g * g;
    double const moved = m / (1 - std::pow(numbers.beta1, t)) /
                         (std::sqrt(v / (1 - std::pow(numbers.beta2, t))) + numbers.epsilon);
    w.first.data[i] = S(m), w.second.data[i] = S(v);
    w.weight.data[i] = S((1 - w.decay) * double(w.weight.data[i]) - w.rate * moved);
  }
  return true;
};
/// Momentum in the sign's direction, of matrices alone.
constexpr auto sign_of_matrices = []<class S>(fg::weight_update<S> const& w) {
  if (w.role != fg::role::projection) return false;
  for (std::int64_t i = 0; i < w.weight.size(); ++i) {
    w.first.data[i] = S(0.9) * w.first.data[i] + S(w.scale) * w.gradient.data[i];
    w.weight.data[i] -= S(w.rate) * S((w.first.data[i] > 0) - (w.first.data[i] < 0));
  }
  return true;
};

/// Weights after some steps, and the last loss.
template <class X>
auto learn(X const& on, fg::training how, int steps = 4) {
  network<X> net({.deviation = 0.1, .seed = 1}, on);
  fg::trainer train{net, numbers, how};
  tiny::text const text(68);
  double loss = 0;
  for (int i = 0; i < steps; ++i) loss = train.step(text.inputs(), text.targets()).loss;
  return std::pair(weights_of(net), loss);
}

}  // namespace

TEST_CASE("what a rule does not move, AdamW moves: the same bits") {
  rule_of const rule(nothing);
  for (fg::weight_rounding how : {fg::weight_rounding::in_products, fg::weight_rounding::nearest,
                                  fg::weight_rounding::stochastic}) {
    bool const rounded = how != fg::weight_rounding::in_products;
    fg::cpu const on{fg::parallel{}, rounded ? fg::format::bf16 : fg::format::f32};
    CHECK(learn(on, {.rounding = how}) == learn(on, {.rounding = how, .update = &rule}));
  }
  CHECK(learn(fg::reference(), {}) == learn(fg::reference(), {.update = &rule}));
}

TEST_CASE("AdamW as a rule moves weights as AdamW does, with clip, schedule and groups") {
  rule_of const rule(adam);
  fg::training how{
      .schedule = {.warmup = 3}, .clip = 0.1, .groups = {{"*.router", 0.5, 2}, {"*.experts.*", 0}}};
  auto const [ours, loss] = learn(fg::reference(), how);
  how.update = &rule;
  auto const [ruled, same] = learn(fg::reference(), how);
  double worst = 0;
  for (std::size_t i = 0; i < ours.size(); ++i)
    worst = std::max(worst, std::abs(ours[i] - ruled[i]));
  CHECK(worst < 1e-13);
  CHECK(std::abs(loss - same) < 1e-12);
}

TEST_CASE("a rule is told names when the network it trains has been replaced, too") {
  network<fg::cpu> net({.deviation = 0.1});
  std::set<std::string> asked;
  std::mutex several;
  rule_of const rule([&](auto const& w) {
    std::lock_guard const alone(several);
    return asked.insert(std::string(w.name)).second;
  });
  fg::trainer train{net, numbers, {.update = &rule}};
  net = network<fg::cpu>({.deviation = 0.2});
  tiny::text const text(68);
  train.step(text.inputs(), text.targets());
  CHECK(asked.contains("layers.1.mixture.router"));
}

TEST_CASE("a rule is asked once a step for each weight that learns, by its name and shape") {
  network<fg::cpu> net({.deviation = 0.1});
  std::mutex several;
  std::multiset<std::string> asked;
  rule_of const rule([&]<class S>(fg::weight_update<S> const& w) {
    std::lock_guard const alone(several);
    asked.insert(std::string(w.name));
    fg::matrix<float> const of = net.weight(std::string(w.name).c_str());
    bool const itself = static_cast<void const*>(w.weight.data) == of.data &&
                        w.weight.rows == of.rows && w.gradient.cols == of.cols;
    if (!itself || w.step != 1) asked.insert("wrong");
    return false;
  });
  fg::trainer train{net, numbers, {.groups = {{"*.down", 0}}, .update = &rule}};
  tiny::text const text(30);
  train.step(text.inputs(), text.targets());
  std::multiset<std::string> expected;
  for (auto const& entry : net.entries())
    if (fg::is_trained(entry.role) && !entry.name.ends_with(".down")) expected.insert(entry.name);
  CHECK(asked == expected);
}

TEST_CASE("a rule for some weights: the same bits for any number of threads") {
  rule_of const rule(sign_of_matrices);
  auto const one = learn(fg::cpu(fg::parallel{}), {.update = &rule});
  CHECK(one != learn(fg::cpu(fg::parallel{}), {}));
  for (int workers : {2, 3, 8}) {
    fg::thread_pool pool(workers);
    CHECK(learn(fg::cpu(pool), {.update = &rule}) == one);
  }
}

TEST_CASE("what a rule has moved is rounded for products of bf16 as what AdamW has") {
  rule_of const rule(sign_of_matrices);
  fg::cpu const on{fg::parallel{}, fg::format::bf16};
  CHECK(learn(on, {.rounding = fg::weight_rounding::nearest, .update = &rule}) ==
        learn(on, {.update = &rule}));
}

TEST_CASE("a run with a rule, or one by turns with AdamW, that was stopped goes on with its bits") {
  rule_of const rule(sign_of_matrices);
  struct : fg::training_rule {
    fg::update_rule const* at_odd_steps;
    void set(std::int64_t steps, fg::adamw&, fg::training& how) const override {
      how.update = steps % 2 == 1 ? at_odd_steps : nullptr;
    }
  } turns;
  turns.at_odd_steps = &rule;
  for (fg::training const& how : {fg::training{.update = &rule}, fg::training{.rule = &turns}}) {
    folder const dir;
    tiny::text const text(40);
    network<fg::cpu> whole({.deviation = 0.1, .seed = 1}), resumed;
    fg::trainer one{whole, numbers, how}, two{resumed, numbers, how};
    for (int i = 0; i < 5; ++i) {
      one.step(text.inputs(), text.targets());
      if (i == 2) one.save(dir / "file");
    }
    two.load(dir / "file");
    while (two.steps() < 5) two.step(text.inputs(), text.targets());
    CHECK(weights_of(resumed) == weights_of(whole));
  }
}

TEST_CASE("several batches are one step for a rule too: it is told their mean") {
  rule_of const rule([]<class S>(fg::weight_update<S> const& w) {
    for (std::int64_t i = 0; i < w.weight.size(); ++i)
      w.weight.data[i] -= S(w.scale) * w.gradient.data[i];
    return true;
  });
  tiny::text const text(40);
  network<fg::reference> once({.deviation = 0.1, .seed = 1}), twice({.deviation = 0.1, .seed = 1});
  fg::training const how{.clip = 0, .update = &rule};
  fg::trainer one{once, numbers, how}, two{twice, numbers, how};
  one.step(text.inputs(), text.targets());
  for (int i = 0; i < 2; ++i) two.gather({.tokens = 40, .ids = text.inputs()}, text.targets());
  two.finish();
  auto const a = weights_of(once), b = weights_of(twice);
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  CHECK(worst < 1e-14);
}

TEST_CASE("of a gradient that is not finite a rule hears nothing") {
  network<fg::cpu> net({.deviation = 0.1});
  int asked = 0;
  rule_of const rule([&](auto const&) { return ++asked, false; });
  fg::trainer train{net, numbers, {.update = &rule}};
  for (auto& w : net.parameters()) w = std::numeric_limits<float>::quiet_NaN();
  tiny::text const text(10);
  train.step(text.inputs(), text.targets());
  CHECK(asked == 0);
  CHECK(train.steps() == 1);
}
