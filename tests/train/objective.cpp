// Losses of a user's own in the trainer's steps: what they are asked, what is made of their answer.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/gradient_check.hpp>
#include <finegrain/train/trainer.hpp>
#include <functional>
#include <stdexcept>

#include "../catch.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using network = fg::network<tiny::decoder, fg::cpu>;
using classifier = fg::network<fg::linear<2, 4>, fg::reference>;
using line = fg::network<fg::linear<2, 1>, fg::reference>;

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

fg::id_list part(fg::id_list targets, std::int64_t first, std::int64_t rows) {
  return targets.subspan(std::size_t(first), std::size_t(rows));
}

/// Cross-entropy, a mean over the targets that count.
struct entropy {
  fg::id_list targets;
  double terms() const {
    return double(std::ranges::count_if(targets, [](int t) { return t >= 0; }));
  }
  template <class X, class S = typename X::scalar>
  double operator()(X const& on, std::int64_t first, fg::matrix<S const> y,
                    fg::matrix<S> dy) const {
    return cross_entropy(on, y, part(targets, first, y.rows), 1, dy);
  }
};

/// Cross-entropy with smoothed labels, and a z-loss: log^2 of the softmax's sum, times `z`.
struct smooth {
  fg::id_list targets;
  double e = 0.1, z = 0.01;
  template <class X, class S = typename X::scalar>
  double operator()(X const& on, std::int64_t first, fg::matrix<S const> y,
                    fg::matrix<S> dy) const {
    auto const mine = part(targets, first, y.rows);
    double sum = cross_entropy(on, y, mine, 1, dy);
    for (std::int64_t t = 0; t < y.rows; ++t) {
      double mean = 0, total = 0;
      for (std::int64_t v = 0; v < y.cols; ++v) {
        mean += double(y(t, v)) / double(y.cols);
        total += std::exp(double(y(t, v)));
      }
      double const log = std::log(total), right = double(y(t, mine[std::size_t(t)]));
      sum += e * (right - mean) + z * log * log;
      if (!dy.data) continue;
      dy(t, mine[std::size_t(t)]) += S(e);
      for (std::int64_t v = 0; v < y.cols; ++v)
        dy(t, v) += S(2 * z * log * std::exp(double(y(t, v))) / total - e / double(y.cols));
    }
    return sum;
  }
};

/// A loss that is a function.
double first_output(fg::reference const&, std::int64_t, fg::matrix<double const> y,
                    fg::matrix<double> dy) {
  double sum = 0;
  for (std::int64_t t = 0; t < y.rows; ++t) {
    sum += y(t, 0);
    if (dy.data) dy(t, 0) = 1;
  }
  return sum;
}

/// Points in the plane and their classes.
struct points {
  std::vector<double> x;
  std::vector<std::int32_t> classes;
  explicit points(std::uint64_t n) {
    for (std::uint64_t i = 0; i < 2 * n; ++i) x.push_back(fg::random_normal(1, i));
    for (std::uint64_t t = 0; t < n; ++t)
      classes.push_back((x[2 * t] > 0 ? 1 : 0) + (x[2 * t + 1] > 0 ? 2 : 0));
  }
  fg::matrix<double const> in() const { return {x.data(), std::int64_t(classes.size()), 2}; }
};

void check_same(fg::step_report const& a, fg::step_report const& b) {
  CHECK(a.loss == b.loss);
  CHECK(a.balance_loss == b.balance_loss);
  CHECK(a.gradient_norm == b.gradient_norm);
  CHECK(a.tokens == b.tokens);
}

}  // namespace

TEST_CASE("an own cross-entropy is the library's, to the bit") {
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::training const how{.routing = {.balance = {.expert = 0.01}}, .loss_scale = 64};
  fg::trainer train{net, {.lr = 1e-2}, how}, plain{twin, {.lr = 1e-2}, how};
  tiny::text const text(64);  // 1 / 64 scales without rounding
  std::int64_t const starts[] = {0, 20, 64};
  fg::batch const b{.tokens = 64, .ids = text.inputs(), .starts = starts};
  entropy const own{text.targets()};
  for (int i = 0; i < 3; ++i) check_same(train.step(b, own), plain.step(b, text.targets()));
  check_same(train.step(text.inputs(), own), plain.step(text.inputs(), text.targets()));
  CHECK(train.evaluate(b, own) == plain.evaluate(b, text.targets()));
  for (int i = 0; i < 2; ++i)
    CHECK(train.gather(b, own).loss == plain.gather(b, text.targets()).loss);
  CHECK(train.finish() == plain.finish());
  train.enqueue(b, own);
  plain.enqueue(b, text.targets());
  check_same(train.report(), plain.report());
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("a loss is asked for some tokens after the others") {
  points const p(2048);
  classifier net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net, {.lr = 0.1}}, plain{twin, {.lr = 0.1}};
  std::vector<std::int64_t> asked;
  auto const own = [&](auto const& on, std::int64_t first, fg::matrix<double const> y,
                       fg::matrix<double> dy) {
    asked.push_back(first);
    if (dy.data)
      for (std::int64_t i = 0; i < dy.size(); ++i)
        if (dy.data[i] != 0) throw std::logic_error("dy is not 0");
    return cross_entropy(on, y, part(p.classes, first, y.rows), 1, dy);
  };
  for (int i = 0; i < 3; ++i) check_same(train.step(p.in(), own), plain.step(p.in(), p.classes));
  CHECK(train.evaluate({.tokens = 2048}, p.in(), own) ==
        plain.evaluate({.tokens = 2048}, p.in(), p.classes));
  CHECK(asked == std::vector<std::int64_t>{0, 1024, 0, 1024, 0, 1024, 0, 1024});
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("an own squared error is the library's, to the bit, with its number of terms") {
  struct square {
    fg::matrix<float const> target;
    double terms() const { return double(target.size()); }
    double operator()(fg::cpu const& on, std::int64_t first, fg::matrix<float const> y,
                      fg::matrix<float> dy) const {
      return squared_error(on, y, target.middle_rows(first, y.rows), 1, dy);
    }
  };
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net}, plain{twin};
  tiny::text const text(16);
  std::vector<float> const numbers(16 * 32, 0.5f);
  fg::matrix<float const> const target(numbers.data(), 16, 32);
  for (int i = 0; i < 3; ++i)
    check_same(train.step(text.inputs(), square{target}), plain.step(text.inputs(), target));
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("the terms of an own loss are tokens, unless it says others") {
  line net({.deviation = 0});
  fg::trainer train{net};
  double const x[] = {1, 2, 3, 5}, y[] = {1, -1};
  fg::matrix<double const> const in(x, 2, 2);
  auto const by_hand = [&](auto const&, std::int64_t first, fg::matrix<double const> out,
                           fg::matrix<double> dy) {
    double sum = 0;
    for (std::int64_t t = 0; t < out.rows; ++t) {
      double const off = out(t, 0) - y[first + t];
      sum += off * off;
      if (dy.data) dy(t, 0) = 2 * off;
    }
    return sum;
  };
  struct halved : decltype(by_hand) {
    double terms() const { return 0.5; }
  };
  CHECK(train.evaluate(in, by_hand) == 1);
  CHECK(train.evaluate(in, halved{by_hand}) == 4);
  CHECK(train.gather(in, by_hand).loss == 1);
  CHECK(train.finish() == Approx(std::sqrt(13.0)).epsilon(1e-15));
  line fresh({.deviation = 0});
  CHECK(fg::trainer{fresh}.step(in, halved{by_hand}).gradient_norm ==
        Approx(4 * std::sqrt(13.0)).epsilon(1e-15));
}

TEST_CASE("a function is a loss, and so is what holds one") {
  line net({.deviation = 0});
  double const x[] = {1, 2, 3, 5};
  fg::matrix<double const> const in(x, 2, 2);
  std::function const held = first_output;
  fg::trainer train{net, {.weight_decay = 0}};
  CHECK(train.evaluate(in, first_output) == 0);
  CHECK(train.evaluate(in, &first_output) == 0);
  double const norm = std::sqrt(2 * 2 + 3.5 * 3.5);
  train.gather(in, first_output);
  train.gather(in, held);
  CHECK(train.finish() == Approx(norm).epsilon(1e-15));
  CHECK(train.evaluate(in, held) < 0);
}

TEST_CASE("a right loss passes the check of gradients, and a wrong one does not") {
  fg::network<tiny::decoder, fg::reference> net({.deviation = 0.3, .seed = 2});
  tiny::text const text(6);
  fg::batch const b{.tokens = 6, .ids = text.inputs()};
  smooth const right{text.targets()};
  auto const found = check_gradients(net, b, {}, right, {.every = 5});
  CHECK(found.worst < 1e-6);
  CHECK(found.partials > 100);

  auto const twice = [&](fg::reference const& on, std::int64_t first, fg::matrix<double const> y,
                         fg::matrix<double> dy) {
    return 2 * cross_entropy(on, y, part(text.targets(), first, y.rows), 1, dy);
  };
  CHECK(check_gradients(net, b, {}, twice, {.every = 5}).worst > 0.1);
  auto const firstless = [&](fg::reference const& on, std::int64_t, fg::matrix<double const> y,
                             fg::matrix<double> dy) {
    return cross_entropy(on, y, part(text.targets(), 0, y.rows), 1, dy);
  };
  CHECK_THAT(check_gradients(net, b, {}, firstless).finding,
             ContainsSubstring("the tokens of y are first, first + 1"));
}

TEST_CASE("a loss of several parts reads y after dy is written, and is learnt") {
  network net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, {.lr = 1e-2}};
  tiny::text const text(68);
  smooth const loss{text.targets()};
  double const before = train.evaluate(text.inputs(), loss);
  CHECK(train.step(text.inputs(), loss).loss == Approx(before));
  for (int i = 1; i < 60; ++i) train.step(text.inputs(), loss);
  CHECK(train.evaluate(text.inputs(), loss) < 0.6 * before);
  // smoothed labels and the penalty keep it from being as sure as it could be
  CHECK(train.evaluate(text.inputs(), text.targets()) < 0.7);
}

TEST_CASE("without tokens an own loss is 0 and not asked") {
  network net({.deviation = 0.1});
  fg::trainer train{net, {.weight_decay = 0}};
  auto const before = weights_of(net);
  std::vector<std::int32_t> const none;
  auto const never = [](auto const&, std::int64_t, fg::matrix<float const>,
                        fg::matrix<float>) -> double { throw std::logic_error("asked"); };
  auto const report = train.step(none, never);
  CHECK(report.loss == 0);
  CHECK(report.gradient_norm == 0);
  CHECK(train.evaluate(none, never) == 0);
  CHECK(train.evaluate(none, entropy{none}) == 0);
  CHECK(weights_of(net) == before);
}

TEST_CASE("a loss that throws changes nothing, and the next step works") {
  points const p(2048);
  classifier net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net}, plain{twin};
  auto const failing = [&](auto const& on, std::int64_t first, fg::matrix<double const> y,
                           fg::matrix<double> dy) -> double {
    if (first > 0) throw std::runtime_error("no second chunk");
    return cross_entropy(on, y, part(p.classes, first, y.rows), 1, dy);
  };
  train.step(p.in(), p.classes);
  plain.step(p.in(), p.classes);
  CHECK_THROWS_WITH(train.step(p.in(), failing), "no second chunk");
  CHECK(weights_of(net) == weights_of(twin));
  CHECK(train.steps() == 1);
  // What was gathered may hold gradients of the pass that threw, and is forgotten.
  train.gather(p.in(), p.classes);
  CHECK_THROWS_WITH(train.gather(p.in(), failing), "no second chunk");
  CHECK_THROWS_WITH(train.finish(), "a step needs a batch before it is finished");
  // A batch that is refused leaves it as it was.
  train.gather(p.in(), p.classes);
  CHECK_THROWS_AS(train.gather(p.in(), part(p.classes, 0, 7)), fg::invalid_argument);
  CHECK_THROWS_AS(train.step(p.in(), part(p.classes, 0, 7)), fg::invalid_argument);
  train.finish();
  plain.step(p.in(), p.classes);
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("a loss does not run its own network in the memory of the pass that asks it") {
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net}, other{twin};
  tiny::text const text(12);
  auto const before = weights_of(net);
  std::function<void()> run;
  auto const loss = [&](fg::cpu const& on, std::int64_t first, fg::matrix<float const> y,
                        fg::matrix<float> dy) {
    run();
    return cross_entropy(on, y, part(text.targets(), first, y.rows), 1, dy);
  };
  tiny::text const longer(300);
  std::vector<float> logits(300 * 32), alone(300 * 32);
  fg::matrix<float> const y(logits.data(), 300, 32);
  for (std::function<void()> const& nested :
       {std::function<void()>([&] { net(longer.inputs(), y); }),
        std::function<void()>([&] { net.forward({.tokens = 300, .ids = longer.inputs()}, {}, y); }),
        std::function<void()>([&] { train.evaluate(text.inputs(), text.targets()); }),
        std::function<void()>([&] { net.reserve(5000); })}) {
    run = nested;
    CHECK_THROWS_WITH(train.step(text.inputs(), loss), ContainsSubstring("is in a pass"));
    CHECK(weights_of(net) == before);
  }
  // in other memory it may
  twin(longer.inputs(), fg::matrix<float>(alone.data(), 300, 32));
  fg::buffer<> const room(net.workspace_bytes(net.extent_of(300)));
  run = [&] {
    std::as_const(net).infer({.tokens = 300, .ids = longer.inputs()}, {}, y,
                             {room.data(), std::size_t(room.size())});
  };
  train.step(text.inputs(), loss);
  CHECK(logits == alone);
  run = [] {};
  other.step(text.inputs(), loss);
  CHECK(weights_of(net) == weights_of(twin));
  // a loss that goes on after it was refused has changed nothing
  auto const plain = [&](fg::cpu const& on, std::int64_t first, fg::matrix<float const> made,
                         fg::matrix<float> dy) {
    return cross_entropy(on, made, part(longer.targets(), first, made.rows), 1, dy);
  };
  run = [&] {
    CHECK_THROWS_WITH(train.step(longer.inputs(), plain), ContainsSubstring("is in a pass"));
    CHECK_THROWS_WITH(train.gather(longer.inputs(), plain), ContainsSubstring("is in a pass"));
    CHECK_THROWS_WITH(train.finish(), ContainsSubstring("is in a pass"));
    CHECK_THROWS_WITH(train.load("absent"), ContainsSubstring("is in a pass"));
  };
  train.gather(text.inputs(), loss);
  train.gather(text.inputs(), loss);
  train.finish();
  run = [] {};
  other.gather(text.inputs(), loss);
  other.gather(text.inputs(), loss);
  other.finish();
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("a gradient of an own loss that is not finite is counted, and changes nothing") {
  network net({.deviation = 0.1});
  fg::trainer train{net};
  auto const before = weights_of(net);
  tiny::text const text(16);
  for (float const bad : {NAN, INFINITY}) {
    auto const own = [&](auto const&, std::int64_t, fg::matrix<float const>, fg::matrix<float> dy) {
      if (dy.data) dy(3, 5) = bad;
      return bad;
    };
    auto const report = train.step(text.inputs(), own);
    CHECK(!std::isfinite(report.loss));
    CHECK(!std::isfinite(report.gradient_norm));
  }
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 2);
  CHECK(std::isfinite(train.step(text.inputs(), text.targets()).loss));
}

TEST_CASE("a number of terms that no mean has is refused") {
  struct of_terms {
    double count;
    double terms() const { return count; }
    double operator()(fg::cpu const&, std::int64_t, fg::matrix<float const>,
                      fg::matrix<float>) const {
      return 0;
    }
  };
  network net;
  fg::trainer train{net};
  auto const before = weights_of(net);
  tiny::text const text(16);
  for (double const bad : {0.0, -1.0, double(INFINITY), double(NAN)}) {
    CHECK_THROWS_WITH(train.step(text.inputs(), of_terms{bad}),
                      ContainsSubstring("the mean of a loss needs a number of terms above 0, not"));
    CHECK_THROWS_AS(train.evaluate(text.inputs(), of_terms{bad}), fg::invalid_argument);
  }
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 0);
}
