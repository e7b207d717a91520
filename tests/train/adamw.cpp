// AdamW against its formulas in plain double, number by number.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <finegrain/plan/init.hpp>
#include <finegrain/train/adamw.hpp>
#include <numeric>

#include "../catch.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

/// A network's weights, a gradient for each step, and the optimiser's moments.
template <class S>
struct model {
  std::vector<fg::weight_entry> entries = fg::list_weights<tiny::formed_decoder>();
  std::vector<fg::trained_range> ranges = fg::trained_ranges(entries);
  std::vector<S> w, g, m, v;

  model()
      : w(std::size_t(fg::weights_size<tiny::formed_decoder>()), S(0)),
        g(w.size()),
        m(w.size(), S(0)),
        v(w.size(), S(0)) {
    fg::initialise(entries, w.data(), {.deviation = 0.5, .seed = 1});
    for (auto const& entry : entries)  // biases too, so that a change of them would show
      for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i)
        w[std::size_t(entry.offset + i)] += S(0.25);
  }
  void draw_gradient(std::uint64_t step) {
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = S(fg::random_normal(step, i));
  }
  fg::update_step<S> step(std::int64_t number, double rate, double scale) {
    return {number, rate, scale, g.data(), w.data(), m.data(), v.data()};
  }
};

constexpr fg::adamw how{
    .lr = 0.01, .beta1 = 0.8, .beta2 = 0.97, .epsilon = 1e-3, .weight_decay = 0.2};

template <class S>
double worst_difference(double scale) {
  model<S> a;
  model<double> b;
  for (std::size_t i = 0; i < a.w.size(); ++i) b.w[i] = double(a.w[i]);
  for (int step = 1; step <= 5; ++step) {
    a.draw_gradient(std::uint64_t(step));
    fg::adamw_update({}, how, a.step(step, how.lr / step, scale), a.ranges);
    for (auto const& entry : b.entries)
      for (std::size_t i = std::size_t(entry.offset);
           i < std::size_t(entry.offset + entry.rows * entry.cols); ++i) {
        if (entry.role == fg::role::selection_bias) continue;
        double const g = scale * double(a.g[i]), rate = how.lr / step;
        b.m[i] = how.beta1 * b.m[i] + (1 - how.beta1) * g;
        b.v[i] = how.beta2 * b.v[i] + (1 - how.beta2) * g * g;
        double const m_hat = b.m[i] / (1 - std::pow(how.beta1, step));
        double const v_hat = b.v[i] / (1 - std::pow(how.beta2, step));
        double const decay = entry.role == fg::role::projection ? how.weight_decay : 0;
        b.w[i] -= rate * (m_hat / (std::sqrt(v_hat) + how.epsilon) + decay * b.w[i]);
      }
  }
  double worst = 0;
  for (std::size_t i = 0; i < a.w.size(); ++i)
    worst = std::max({worst, std::abs(double(a.w[i]) - b.w[i]), std::abs(double(a.m[i]) - b.m[i]),
                      std::abs(double(a.v[i]) - b.v[i])});
  return worst;
}

}  // namespace

TEST_CASE("weights and moments follow AdamW's formulas") {
  CHECK(worst_difference<double>(1) < 1e-14);
  CHECK(worst_difference<double>(0.125) < 1e-14);
  CHECK(worst_difference<float>(1) < 1e-5);
  CHECK(worst_difference<long double>(1) < 1e-14);
}

TEMPLATE_TEST_CASE("moments of weights without gradients end at 0, not among subnormal numbers", "",
                   float, double) {
  using S = TestType;
  S const least = std::numeric_limits<S>::min();
  model<S> net;
  net.draw_gradient(1);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  std::fill(net.g.begin(), net.g.end(), S(0));
  auto const subnormal = [&](std::vector<S> const& moments) {
    return std::count_if(moments.begin(), moments.end(),
                         [&](S x) { return x != 0 && std::abs(x) < least; });
  };
  std::ptrdiff_t first = 0, second = 0;
  for (int step = 2; step < 25000 && net.v != std::vector<S>(net.v.size(), S(0)); ++step) {
    fg::adamw_update({}, how, net.step(step, how.lr, 1), net.ranges);
    if (step % 100 == 0) first += subnormal(net.m), second += subnormal(net.v);
  }
  CHECK(first == 0);
  CHECK(second == 0);
  CHECK(net.m == std::vector<S>(net.m.size(), S(0)));
  CHECK(net.v == std::vector<S>(net.v.size(), S(0)));
  // a second moment that small beside a first one that is not is what divides it
  std::fill(net.m.begin(), net.m.end(), S(16) * least);
  std::fill(net.v.begin(), net.v.end(), least / 4);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  CHECK(subnormal(net.v) > 0);
  // and a gradient's first moment moves its weight, however small it is
  std::fill(net.m.begin(), net.m.end(), S(0));
  std::fill(net.g.begin(), net.g.end(), least);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  CHECK(subnormal(net.m) > 0);
}

TEST_CASE("only projections decay, and selection biases stay") {
  model<double> net;
  std::vector<double> const before = net.w;
  std::fill(net.g.begin(), net.g.end(), 0.0);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  int decayed = 0, kept = 0;
  for (auto const& entry : net.entries) {
    auto const i = std::size_t(entry.offset);
    if (entry.role == fg::role::projection) {
      CHECK(net.w[i] == before[i] * (1 - how.lr * how.weight_decay));
      ++decayed;
    } else {
      CHECK(net.w[i] == before[i]);
      ++kept;
    }
  }
  CHECK(decayed > 10);
  CHECK(kept >= 5);
  net.draw_gradient(1);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  for (auto const& entry : net.entries) {
    bool const stays = entry.role == fg::role::selection_bias;
    CHECK((net.w[std::size_t(entry.offset)] == before[std::size_t(entry.offset)]) == stays);
  }
}

TEST_CASE("the ranges are the trained weights, each once") {
  model<double> net;
  std::vector<int> times(net.w.size(), 0);
  for (auto const& range : net.ranges)
    for (std::int64_t i = 0; i < range.count; ++i) ++times[std::size_t(range.offset + i)];
  for (auto const& entry : net.entries)
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i)
      REQUIRE(times[std::size_t(entry.offset + i)] == (entry.role != fg::role::selection_bias));
  CHECK(std::accumulate(times.begin(), times.end(), std::int64_t(0)) ==
        fg::parameters(tiny::formed_decoder{}));
  auto const large = fg::trained_ranges({{"w", 3, 20000, 64, fg::role::projection}});
  std::int64_t end = 64;
  for (auto const& range : large) {
    CHECK(range.offset == end);
    end += range.count;
  }
  CHECK(end == 64 + 60000);
  CHECK(large.size() > 1);
}

TEST_CASE("a star in a pattern stands for any characters, or none") {
  static_assert(fg::matches("layers.3.mixture.router", "layers.*.router"));
  static_assert(fg::matches("router", "*router*"));
  static_assert(fg::matches("aab", "*ab") && fg::matches("", "*") && fg::matches("", ""));
  static_assert(!fg::matches("layers.3.mixture.router", "router"));
  static_assert(!fg::matches("layers.3.mixture.router", "layers.*.route"));
  static_assert(!fg::matches("ab", "a*b*b"));
  CHECK(fg::matches("layers.12.mixture.experts.3.up", "layers.1*.experts.*"));
}

TEST_CASE("groups have rates and decays of their own, and the last that has a weight decides") {
  model<float> net, plain;
  net.ranges = fg::trained_ranges(
      net.entries, {{"*", 0.5}, {"*.router", 0}, {"*.experts.*", 2, 0}, {"*.experts.0.*", 1}});
  net.draw_gradient(1), plain.draw_gradient(1);
  model<float> const start = plain;
  auto const moved_by = [&](double lr, double decay) {
    model<float> other = start;
    fg::adamw numbers = how;
    numbers.lr = lr, numbers.weight_decay = decay;
    fg::adamw_update({}, numbers, other.step(1, lr, 1), other.ranges);
    return other.w;
  };
  auto const half = moved_by(how.lr / 2, how.weight_decay), same = moved_by(how.lr, 0.2),
             twice = moved_by(how.lr * 2, 0);
  fg::adamw_update({}, how, net.step(1, how.lr, 1), net.ranges);
  double sum = 0;
  for (auto const& entry : net.entries) {
    bool const held = entry.name.ends_with(".router") || entry.role == fg::role::selection_bias;
    bool const expert = fg::matches(entry.name, "*.experts.*");
    bool const first = fg::matches(entry.name, "*.experts.0.*");
    auto const& expected = held ? start.w : first ? same : expert ? twice : half;
    CAPTURE(entry.name);
    auto const from = std::size_t(entry.offset), to = from + std::size_t(entry.rows * entry.cols);
    for (std::size_t i = from; i < to; ++i) {
      REQUIRE(net.w[i] == expected[i]);
      if (held) REQUIRE((net.m[i] == 0 && net.v[i] == 0));
      if (!held) sum += double(net.g[i]) * double(net.g[i]);
    }
  }
  std::vector<double> partial(net.ranges.size());
  CHECK(fg::gradient_norm({}, net.ranges, net.g.data(), partial.data()) ==
        Approx(std::sqrt(sum)).epsilon(1e-14));
}

TEST_CASE("a group without a trained weight is an error") {
  auto const entries = fg::list_weights<tiny::formed_decoder>();
  CHECK_THROWS_WITH(fg::trained_ranges(entries, {{"*.routr", 0}}),
                    "no weight that is trained has a name like \"*.routr\"");
  CHECK_THROWS_WITH(fg::trained_ranges(entries, {{"*", 0}}),
                    "every weight is held, and none is left to train");
}

TEST_CASE("the gradient's norm is that of the trained weights") {
  model<double> net;
  net.draw_gradient(3);
  double sum = 0;
  for (auto const& range : net.ranges)
    for (std::int64_t i = 0; i < range.count; ++i)
      sum += std::pow(net.g[std::size_t(range.offset + i)], 2);
  std::vector<double> partial(net.ranges.size());
  double const norm = fg::gradient_norm({}, net.ranges, net.g.data(), partial.data());
  CHECK(norm == Approx(std::sqrt(sum)).epsilon(1e-14));
}

TEST_CASE("an optimiser's step has the same bits for any number of threads") {
  model<float> one;
  one.draw_gradient(1);
  std::vector<double> partial(one.ranges.size());
  double const norm = fg::gradient_norm({}, one.ranges, one.g.data(), partial.data());
  model<float> const start = one;
  fg::adamw_update({}, how, one.step(1, how.lr, 0.5), one.ranges);
  for (int workers : {2, 3, 5}) {
    fg::thread_pool pool(workers);
    model<float> many = start;
    CHECK(fg::gradient_norm(pool, many.ranges, many.g.data(), partial.data()) == norm);
    fg::adamw_update(pool, how, many.step(1, how.lr, 0.5), many.ranges);
    CHECK(std::memcmp(many.w.data(), one.w.data(), sizeof(float) * one.w.size()) == 0);
  }
}

TEMPLATE_TEST_CASE("an update's bits do not depend on where an array is cut", "", float, double,
                   long double) {
  using S = TestType;
  constexpr std::int64_t size = 147, margin = 3;
  auto const draw = [](std::uint64_t seed, double sign) {
    std::vector<S> x(std::size_t(size + 2 * margin));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] =
          S(sign == 0 ? fg::random_normal(seed, i) : sign * std::abs(fg::random_normal(seed, i)));
    return x;
  };
  std::vector<S> const g = draw(1, 0), w = draw(2, 0), m = draw(3, 0), v = draw(4, 1);
  auto const update = [&](std::vector<fg::trained_range> const& ranges) {
    std::vector<S> all = w, first = m, second = v;
    fg::adamw_update<S>({}, how,
                        {.number = 3,
                         .rate = how.lr,
                         .scale = 0.5,
                         .gradient = g.data(),
                         .weights = all.data(),
                         .first = first.data(),
                         .second = second.data()},
                        ranges);
    all.insert(all.end(), first.begin(), first.end());
    all.insert(all.end(), second.begin(), second.end());
    return all;
  };
  std::vector<S> const whole = update({{margin, size}});
  for (std::size_t i = 0; i < margin; ++i) {  // what lies beside a range stays
    CHECK(whole[i] == w[i]);
    CHECK(whole[margin + size + i] == w[margin + size + i]);
    CHECK(whole[2 * margin + size + i] == m[i]);
    CHECK(whole[w.size() + margin + size + i] == m[margin + size + i]);
  }
  CHECK(whole[margin] != w[margin]);
  CHECK(whole[margin + size - 1] != w[margin + size - 1]);
  for (std::int64_t cut = 1; cut < size; ++cut)
    REQUIRE(update({{margin, cut}, {margin + cut, size - cut}}) == whole);
}

TEST_CASE("a gradient's norm does not depend on the machine's registers") {
  std::vector<float> g(133);
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = float(fg::random_normal(5, i));
  double column[16] = {}, sum = 0, partial = 0;
  for (std::size_t i = 0; i < g.size(); ++i) column[i % 16] += double(g[i]) * double(g[i]);
  for (double const c : column) sum += c;
  std::vector<fg::trained_range> const ranges{{0, 133, 1, 0}};
  CHECK(fg::gradient_norm({}, ranges, g.data(), &partial) == std::sqrt(sum));
}
