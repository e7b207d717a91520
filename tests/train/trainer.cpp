// A trainer's steps: what they learn, what they report, what they leave alone.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/trainer.hpp>
#include <numeric>
#include <stdexcept>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using network = fg::network<tiny::decoder, fg::cpu>;

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

/// One matrix in double: its gradient and its steps can be written down.
using line = fg::network<fg::linear<2, 1>, fg::reference>;

}  // namespace

TEST_CASE("a decoder learns a repeated text by heart") {
  network net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  tiny::text const text(68);
  double const before = train.evaluate(text.inputs(), text.targets());
  CHECK(before == Approx(std::log(32)).margin(0.3));
  fg::step_report first = train.step(text.inputs(), text.targets()), last;
  for (int i = 1; i < 120; ++i) last = train.step(text.inputs(), text.targets());
  CHECK(first.loss == Approx(before));  // the loss of a step is that before it
  CHECK(last.loss < 0.1);
  CHECK(last.tokens == 68);
  CHECK(train.evaluate(text.inputs(), text.targets()) < 0.1);
  CHECK(train.steps() == 120);
}

TEST_CASE("equal logits cost log V, also where targets are left out") {
  network net({.deviation = 0});
  fg::trainer train{net};
  std::vector<std::int32_t> const ids{1, 2, 3, 4}, targets{5, -1, 6, -1};
  CHECK(train.evaluate(ids, targets) == Approx(std::log(32)));
  CHECK(train.step(ids, targets).loss == Approx(std::log(32)));
}

TEST_CASE("a step follows AdamW on the mean's gradient, cut to the clip") {
  for (double clip : {0.0, 0.125, 1000.0}) {
    line net({.deviation = 0});
    // so large an epsilon makes the step proportional to the gradient
    fg::trainer train{net,
                      fg::adamw{.lr = 1, .epsilon = 1e9, .weight_decay = 0},
                      {.schedule = {.warmup = 4}, .clip = clip}};
    double const x[] = {1, 2, 3, 5}, y[] = {1, -1};
    auto const report =
        train.step(fg::matrix<double const>(x, 2, 2), fg::matrix<double const>(y, 2, 1));
    // w = 0, so y - target = {-1, 1}: the gradient is the mean of 2 * {-1, 1} * x
    double const gradient[] = {-1 + 3, -2 + 5}, norm = std::sqrt(4.0 + 9.0);
    CHECK(report.loss == 1);
    CHECK(report.gradient_norm == Approx(norm).epsilon(1e-15));
    double const scale = clip > 0 && clip < norm ? clip / norm : 1;
    for (std::size_t i = 0; i < 2; ++i)
      CHECK(net.parameters()[i] == Approx(-0.25 * scale * gradient[i] / 1e9).epsilon(1e-7));
  }
}

TEST_CASE("settings may be given without an optimiser, which then is the default") {
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net, fg::training{.clip = 0.5}};
  fg::trainer both{twin, fg::adamw{}, fg::training{.clip = 0.5}};
  CHECK(train.settings().clip == 0.5);
  tiny::text const text(16);
  train.step(text.inputs(), text.targets());
  both.step(text.inputs(), text.targets());
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("numbers can be sorted into classes") {
  fg::network<fg::linear<2, 3>, fg::reference> net({.deviation = 0});
  fg::trainer train{net, {.lr = 0.1}};
  double const x[] = {1, 0, 0, 1, -1, -1};
  std::vector<std::int32_t> const classes{0, 1, 2};
  fg::matrix<double const> const points(x, 3, 2);
  CHECK(train.evaluate(points, classes) == Approx(std::log(3)));
  for (int i = 0; i < 50; ++i) train.step(points, classes);
  CHECK(train.evaluate(points, classes) < 0.1);
}

TEST_CASE("sequences in one batch cost the mean of what each costs") {
  network net({.deviation = 0.1});
  fg::trainer train{net};
  tiny::text const text(24);
  std::int64_t const starts[] = {0, 16, 24};
  double const together =
      train.evaluate({.tokens = 24, .ids = text.inputs(), .starts = starts}, text.targets());
  double const first = train.evaluate(text.inputs().subspan(0, 16), text.targets().subspan(0, 16));
  double const second = train.evaluate(text.inputs().subspan(16), text.targets().subspan(16));
  CHECK(together == Approx((16 * first + 8 * second) / 24).epsilon(1e-6));
  auto const report =
      train.step({.tokens = 24, .ids = text.inputs(), .starts = starts}, text.targets());
  CHECK(report.loss == together);
}

TEST_CASE("a step fills the log, its own or the batch's; the balance loss contains alpha") {
  network net({.deviation = 0.1});
  fg::trainer train{net, {}, {.routing = {.balance = {.expert = 0.5}}}};
  tiny::text const text(32);
  auto const report = train.step(text.inputs(), text.targets());
  REQUIRE(train.log().layers.size() == 1);
  std::int64_t total = 0;
  for (auto load : train.log().layers[0].load) total += load;
  CHECK(total == 2 * 32);
  CHECK(report.balance_loss == train.log().balance_loss());
  CHECK(report.balance_loss >= 0.5 * 0.9);  // alpha at perfect balance
  auto log = network::make_log();
  train.step({.tokens = 32, .ids = text.inputs(), .log = &log}, text.targets());
  CHECK(std::accumulate(log.layers[0].load.begin(), log.layers[0].load.end(), 0L) == 64);
}

TEMPLATE_TEST_CASE("a step's gradient is that of forward, cross-entropy and backward", "", fg::cpu,
                   fg::reference) {
  using S = typename TestType::scalar;
  using network = fg::network<tiny::decoder, TestType>;
  tiny::text const text(50);
  std::vector<std::int32_t> targets(text.targets().begin(), text.targets().end());
  targets[3] = targets[49] = -1;
  network net({.deviation = 0.3}), twin({.deviation = 0.3});
  fg::trainer train{net, {}, {.routing = {.balance = {.expert = 0.01}}}};
  auto const report = train.step(text.inputs(), targets);
  std::vector<S> y(50 * 32), dy(50 * 32);
  fg::matrix<S> const out(y.data(), 50, 32), dout(dy.data(), 50, 32);
  auto log = network::make_log();
  twin.forward(
      {.tokens = 50, .ids = text.inputs(), .routing = {.balance = {.expert = 0.01}}, .log = &log},
      {}, out);
  double const loss = cross_entropy(twin.on(), out, targets, 1.0 / 48, dout) / 48;
  twin.backward(dout);
  CHECK(report.loss == Approx(loss).epsilon(1e-6));
  CHECK(report.balance_loss == log.balance_loss());
  for (std::size_t i = 0; i < net.gradient().size(); ++i)
    CHECK(double(net.gradient()[i]) ==
          Approx(double(twin.gradient()[i])).epsilon(1e-5).margin(1e-7));
}

TEST_CASE("a trainer keeps no logits of all tokens") {
  using large =
      fg::network<std::remove_cvref_t<decltype(fg::embedding<1000, 4>{} | fg::head<4, 50'000>{})>,
                  fg::cpu>;
  std::int64_t const tokens = 4096, all = tokens * 50'000 * 4;
  fg::extent const e{tokens, 1, true};
  CHECK(large::learning_bytes(e) < all / 10);
  CHECK(large::learning_bytes(e) < large::workspace_bytes(e) + all / 10);
}

TEST_CASE("training with a balance coefficient evens the load") {
  auto const spread = [](double balance) {
    network net({.deviation = 0.3, .seed = 3});
    fg::trainer train{net, {.lr = 1e-2}, {.routing = {.balance = {.expert = balance}}}};
    tiny::text const text(68);
    for (int i = 0; i < 60; ++i) train.step(text.inputs(), text.targets());
    auto const& load = train.log().layers[0].load;
    return *std::max_element(load.begin(), load.end()) -
           *std::min_element(load.begin(), load.end());
  };
  CHECK(spread(1.0) < spread(0));
}

TEST_CASE("evaluating changes no weight") {
  network net({.deviation = 0.1});
  fg::trainer train{net};
  auto const before = weights_of(net);
  tiny::text const text(16);
  train.evaluate(text.inputs(), text.targets());
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 0);
}

TEST_CASE("an evaluation has as many experts a token as training, unless it is asked otherwise") {
  network net({.deviation = 0.3});
  fg::trainer plain{net}, train{net, {}, {.routing = {.top_k = 1, .shared = false}}};
  tiny::text const text(16);
  fg::batch const one{.tokens = 16, .ids = text.inputs(), .routing = {.top_k = 1, .shared = false}};
  double const both = plain.evaluate(text.inputs(), text.targets());
  double const alone = plain.evaluate(one, text.targets());
  CHECK(alone != both);
  CHECK(train.evaluate(text.inputs(), text.targets()) == alone);
  CHECK(train.evaluate({.tokens = 16, .ids = text.inputs(), .routing = {.top_k = 2}},
                       text.targets()) == both);
}

TEST_CASE("a sequence alone is gathered and enqueued by the words of a step") {
  tiny::text const text(40);
  network a({.deviation = 0.1}), b({.deviation = 0.1}), c({.deviation = 0.1});
  fg::trainer stepped{a}, gathered{b}, enqueued{c};
  double const loss = stepped.step(text.inputs(), text.targets()).loss;
  CHECK(gathered.gather(text.inputs(), text.targets()).loss == loss);
  gathered.finish();
  enqueued.enqueue(text.inputs(), text.targets());
  CHECK(enqueued.report().loss == loss);
  CHECK(weights_of(b) == weights_of(a));
  CHECK(weights_of(c) == weights_of(a));

  double const numbers[] = {1, 2, 3, 5};
  fg::matrix<double const> const x(numbers, 2, 2), y(numbers, 2, 1);
  line one({.deviation = 0}), other({.deviation = 0});
  fg::trainer first{one}, second{other};
  first.gather(x, y);
  first.finish();
  second.enqueue(x, y);
  CHECK(weights_of(one) == weights_of(other));
}

TEST_CASE("a step whose threads fail before a weight has moved can be taken again") {
  struct failing {
    int left = -1;  // loops that run before one fails; -1: all
    static void run(void* self, std::int64_t tasks, fg::parallel::body body, void* context) {
      if (int& left = static_cast<failing*>(self)->left; left >= 0 && left-- == 0)
        throw std::runtime_error("no thread is left");
      for (std::int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    }
  };
  tiny::text const text(16);
  network twin({.deviation = 0.1});
  fg::trainer expected{twin};
  for (int i = 0; i < 2; ++i) expected.step(text.inputs(), text.targets());
  int failed = 0;
  for (int loops = 0;; ++loops) {
    failing threads;
    network net({.deviation = 0.1}, fg::cpu{fg::parallel(failing::run, &threads, 2)});
    fg::trainer train{net};
    train.step(text.inputs(), text.targets());
    auto const before = weights_of(net);
    threads.left = loops;
    try {
      train.step(text.inputs(), text.targets());
      break;  // it has no more loops
    } catch (std::runtime_error const&) {
    }
    threads.left = -1;
    if (weights_of(net) != before) continue;
    ++failed;
    train.step(text.inputs(), text.targets());
    CHECK(weights_of(net) == weights_of(twin));
  }
  CHECK(failed > 10);
}

TEST_CASE("batches of a step, each weighed by its targets, are one batch") {
  network parts({.deviation = 0.1}), whole({.deviation = 0.1});
  fg::trainer train{parts, fg::adamw{.lr = 1e-2}}, plain{whole, fg::adamw{.lr = 1e-2}};
  tiny::text const text(60);
  std::vector<std::int64_t> const starts{0, 44, 60};
  std::vector<std::int32_t> targets(text.targets().begin(), text.targets().end());
  targets[3] = targets[50] = -1;
  double const norm =
      plain.step({.tokens = 60, .ids = text.inputs(), .starts = starts}, targets).gradient_norm;
  auto const gather = [&](std::size_t first, std::size_t count, double counted) {
    train.settings().loss_scale = counted;
    train.gather(text.inputs().subspan(first, count), fg::id_list(targets).subspan(first, count));
  };
  gather(0, 44, 43);
  gather(44, 16, 15);
  train.settings().loss_scale = 58.0 / 2;
  CHECK(train.finish() == Approx(norm).epsilon(1e-5));
  auto const got = weights_of(parts), expected = weights_of(whole);
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, std::abs(double(got[i]) - expected[i]));
  CHECK(worst < 1e-4);
}

TEST_CASE("a step that is refused changes nothing, and the next one works") {
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net}, other{twin};
  tiny::text const text(16);
  train.step(text.inputs(), text.targets());
  other.step(text.inputs(), text.targets());
  auto const before = weights_of(net);
  std::vector<std::int32_t> const unknown(16, 32);
  std::int64_t const starts[] = {0, 9};
  CHECK_THROWS_WITH(train.step(text.inputs(), text.targets().subspan(1)),
                    "the batch has 16 tokens and 15 targets");
  CHECK_THROWS_WITH(train.step(text.inputs(), unknown), ContainsSubstring("target 0 is 32"));
  CHECK_THROWS_WITH(train.step(unknown, text.targets()),
                    ContainsSubstring("token 0 has the id 32"));
  CHECK_THROWS_AS(
      train.step({.tokens = 16, .ids = text.inputs(), .starts = starts}, text.targets()),
      fg::invalid_argument);
  CHECK_THROWS_WITH(train.step(text.inputs(), fg::matrix<float const>()),
                    "the matrix of targets is 0 x 0; this call needs 16 x 32");
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 1);
  train.step(text.inputs(), text.targets());
  other.step(text.inputs(), text.targets());
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("numbers of the optimiser that make no sense are refused, from the next step on too") {
  network net;
  CHECK_THROWS_AS((fg::trainer{net, {.lr = INFINITY}}), fg::invalid_argument);
  fg::trainer train{net};
  auto const before = weights_of(net);
  tiny::text const text(8);
  for (double const rate : {double(NAN), double(INFINITY), -1.0}) {
    train.optimizer().lr = rate;
    CHECK_THROWS_WITH(train.step(text.inputs(), text.targets()), ContainsSubstring("adamw needs"));
  }
  CHECK_THROWS_WITH(train.step(text.inputs(), text.targets()), ContainsSubstring("not lr -1, "));
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 0);
  // what f32 has no number for would divide 0 by 0 where an expert has no token
  for (double const epsilon : {0.0, 1e-60, double(INFINITY), double(NAN)})
    CHECK_THROWS_WITH((fg::trainer{net, {.epsilon = epsilon}}), ContainsSubstring("epsilon"));
  for (double const clip : {-1.0, double(INFINITY), double(NAN)})
    CHECK_THROWS_WITH(
        (fg::trainer{net, fg::training{.clip = clip}}),
        "the norm to cut gradients to must be a finite number of at least 0 (0: never)");
}

TEST_CASE("a step of several batches is not finished by numbers that make no sense") {
  network net({.deviation = 0.1}), twin({.deviation = 0.1});
  fg::trainer train{net}, other{twin};
  tiny::text const text(8);
  auto const before = weights_of(net);
  train.gather(text.inputs(), text.targets());
  train.optimizer().lr = NAN;
  CHECK_THROWS_WITH(train.finish(), ContainsSubstring("adamw needs"));
  train.optimizer().lr = other.optimizer().lr;
  train.settings().loss_scale = 0;
  CHECK_THROWS_WITH(train.finish(), "the scale of a loss must be a number above 0");
  train.settings().loss_scale = 1;
  CHECK(weights_of(net) == before);
  CHECK(train.steps() == 0);
  train.finish();  // what was gathered is still there
  other.step(text.inputs(), text.targets());
  CHECK(weights_of(net) == weights_of(twin));
}

TEST_CASE("a network that was moved from has nothing to train, and a trainer stays where it is") {
  network net, other = std::move(net);
  CHECK_THROWS_AS(fg::trainer{net}, fg::invalid_argument);
  CHECK_NOTHROW(fg::trainer{other});
  STATIC_REQUIRE(!std::is_move_constructible_v<fg::trainer<network>>);
}

TEST_CASE("a gradient that is not finite moves no weight, and is reported") {
  line net({.deviation = 0.5});
  fg::trainer train{net};
  double const x[] = {1e300, 1}, y[] = {-1e300};
  std::vector<double> const before(net.parameters().begin(), net.parameters().end());
  auto const report =
      train.step(fg::matrix<double const>(x, 1, 2), fg::matrix<double const>(y, 1, 1));
  CHECK(!std::isfinite(report.gradient_norm));
  CHECK(std::equal(before.begin(), before.end(), net.parameters().begin()));
  CHECK(train.steps() == 1);
  double const good[] = {1, 1};
  CHECK(std::isfinite(
      train.step(fg::matrix<double const>(good, 1, 2), fg::matrix<double const>(good, 1, 1)).loss));
  CHECK(std::isfinite(net.parameters()[0]));
}

TEST_CASE("weights that are held keep their bits, and all others learn") {
  network net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, {}, {.groups = {{"*.router", 0}, {"*.experts.*", 0}}}};
  auto const before = weights_of(net);
  tiny::text const text(40);
  for (int i = 0; i < 3; ++i) train.step(text.inputs(), text.targets());
  auto const after = weights_of(net);
  int held = 0, learnt = 0;
  for (fg::weight_entry const& entry : net.entries()) {
    if (entry.role == fg::role::selection_bias) continue;
    bool const stays = entry.name.ends_with(".router") || fg::matches(entry.name, "*.experts.*");
    auto const from = before.begin() + entry.offset, to = from + entry.rows * entry.cols;
    CAPTURE(entry.name);
    CHECK(std::equal(from, to, after.begin() + entry.offset) == stays);
    ++(stays ? held : learnt);
  }
  CHECK((held > 2 && learnt > 2));
}

TEST_CASE("groups that make no sense, or change later, are refused") {
  network net;
  using fg::training;
  CHECK_THROWS_WITH((fg::trainer{net, {}, training{.groups = {{"*.router", -1}}}}),
                    "rate and decay of the weights \"*.router\" must be numbers of at least 0");
  CHECK_THROWS_WITH((fg::trainer{net, {}, training{.groups = {{"gate"}}}}),
                    "no weight that is trained has a name like \"gate\"");
  fg::trainer train{net};
  train.settings().groups = {{"*.router", 0}};
  auto const before = weights_of(net);
  tiny::text const text(8);
  CHECK_THROWS_WITH(train.step(text.inputs(), text.targets()),
                    "groups of weights are set when a trainer is made, and then stay");
  CHECK(weights_of(net) == before);
}

namespace {
/// A rate that halves every two steps; losses and biases from the third step on.
struct halving : fg::training_rule {
  void set(std::int64_t steps, fg::adamw& optimizer, fg::training& how) const override {
    optimizer.lr = 1e-2 * std::pow(0.5, double(steps / 2));
    how.clip = steps < 4 ? 0.5 : 0.25;
    how.routing.top_k = steps < 2 ? 1 : 0;
    how.routing.balance.expert = steps < 2 ? 0 : 0.1;
  }
};
}  // namespace

TEST_CASE("a rule sets what each step differs in, as by hand, and in a run that is resumed") {
  halving const rule;
  tiny::text const text(40);
  folder const dir;
  network by_hand({.deviation = 0.1, .seed = 1}), ruled({.deviation = 0.1, .seed = 1}), other,
      gathered({.deviation = 0.1, .seed = 1});
  fg::trainer one{by_hand}, two{ruled, {}, {.rule = &rule}}, three{other, {}, {.rule = &rule}},
      four{gathered, {}, {.rule = &rule}};
  for (int step = 0; step < 6; ++step) {
    rule.set(step, one.optimizer(), one.settings());
    one.step(text.inputs(), text.targets());
    two.step(text.inputs(), text.targets());
    four.gather({.tokens = 40, .ids = text.inputs()}, text.targets());
    four.finish();
    CHECK(two.optimizer().lr == one.optimizer().lr);
    CHECK(weights_of(ruled) == weights_of(by_hand));
    CHECK(weights_of(gathered) == weights_of(by_hand));
    if (step == 2) two.save(dir / "file");
  }
  three.load(dir / "file");
  while (three.steps() < 6) three.step(text.inputs(), text.targets());
  CHECK(weights_of(other) == weights_of(by_hand));
}

TEST_CASE("an evaluation of a run that is resumed goes by what the rule had set") {
  struct fewer_first : fg::training_rule {
    void set(std::int64_t steps, fg::adamw&, fg::training& how) const override {
      how.routing.top_k = steps < 3 ? 1 : 2;
    }
  } const rule;
  tiny::text const text(40);
  folder const dir;
  network net({.deviation = 0.5, .seed = 1}), other;
  fg::trainer train{net, {}, {.rule = &rule}};
  for (int steps : {1, 3, 4}) {
    while (train.steps() < steps) train.step(text.inputs(), text.targets());
    train.save(dir / "file");
    fg::trainer resumed{other, {}, {.rule = &rule}};
    resumed.load(dir / "file");
    CHECK(resumed.settings().routing.top_k == train.settings().routing.top_k);
    CHECK(resumed.evaluate(text.inputs(), text.targets()) ==
          train.evaluate(text.inputs(), text.targets()));
  }
}

TEST_CASE("a report is of the loss scale that the step had, whatever the settings say since") {
  network net({.deviation = 0.1});
  fg::trainer train{net, {}, {.routing = {.balance = {.expert = 0.01}}, .loss_scale = 64}};
  tiny::text const text(40);
  double const first =
      train.gather({.tokens = 40, .ids = text.inputs()}, text.targets()).balance_loss;
  train.settings().loss_scale = 1;
  train.finish();
  CHECK(first > 0);
  CHECK(train.report().balance_loss == first);
}

TEST_CASE("a loss scaled by a power of two changes no bit of what is learnt") {
  network plain({.deviation = 0.1, .seed = 1}), large({.deviation = 0.1, .seed = 1});
  fg::training how{.routing = {.balance = {.expert = 0.01, .z = 0.001}}};
  fg::trainer train{plain, fg::adamw{.lr = 1e-2f}, how};
  how.loss_scale = 1024;
  fg::trainer scaled{large, fg::adamw{.lr = 1e-2f}, how};
  tiny::text const text(68);
  for (int i = 0; i < 3; ++i) {
    auto const a = train.step(text.inputs(), text.targets()),
               b = scaled.step(text.inputs(), text.targets());
    CHECK(a.loss == b.loss);
    CHECK(a.balance_loss == b.balance_loss);
    CHECK(a.gradient_norm == b.gradient_norm);
  }
  CHECK(weights_of(plain) == weights_of(large));
  how.loss_scale = 0;
  CHECK_THROWS_AS((fg::trainer{large, fg::adamw{}, how}), fg::invalid_argument);
}

TEST_CASE("no tokens, or none that count, cost 0 and give no gradient") {
  network net({.deviation = 0.1});
  fg::trainer train{net, {.weight_decay = 0}};
  auto const before = weights_of(net);
  std::vector<std::int32_t> const ids{1, 2}, targets{-1, -1}, none;
  auto report = train.step(none, none);
  CHECK(report.loss == 0);
  CHECK(report.gradient_norm == 0);
  report = train.step(ids, targets);
  CHECK(report.loss == 0);
  CHECK(report.gradient_norm == 0);
  CHECK(train.evaluate(none, none) == 0);
  CHECK(weights_of(net) == before);
}

TEMPLATE_TEST_CASE("a run that is saved and resumed has the bits of one that was not interrupted",
                   "", fg::cpu, fg::reference) {
  using network = fg::network<tiny::decoder, TestType>;
  folder const here;
  tiny::text const text(40);
  fg::training const settings{.schedule = {.warmup = 3, .steps = 12, .decay = fg::decay::cosine},
                              .routing = {.balance = {.expert = 0.01}}};
  network whole({.deviation = 0.1, .seed = 4});
  fg::trainer through{whole, {.lr = 1e-2}, settings};
  for (int i = 0; i < 10; ++i) through.step(text.inputs(), text.targets());

  network first({.deviation = 0.1, .seed = 4}), second({.deviation = 0.7, .seed = 5});
  fg::trainer begin{first, {.lr = 1e-2}, settings}, resume{second, {.lr = 1e-2}, settings};
  for (int i = 0; i < 6; ++i) begin.step(text.inputs(), text.targets());
  begin.save(here / "run");
  resume.step(text.inputs(), text.targets());  // moments of its own, to be overwritten
  resume.load(here / "run");
  CHECK(resume.steps() == 6);
  CHECK(weights_of(second) == weights_of(first));
  for (int i = 6; i < 10; ++i) resume.step(text.inputs(), text.targets());
  CHECK(weights_of(second) == weights_of(whole));
  begin.save(here / "again");
  CHECK(contents(here / "again") == contents(here / "run"));
}

TEMPLATE_TEST_CASE("training has the same bits for any number of threads", "", fg::cpu,
                   fg::reference) {
  using network = fg::network<tiny::decoder, TestType>;
  tiny::text const text(150);
  std::vector<std::vector<typename TestType::scalar>> results;
  for (int workers : {1, 2, 5}) {
    fg::thread_pool pool(workers);
    network net({.deviation = 0.1}, TestType{pool});
    fg::trainer train{net, {.lr = 1e-2}, {.routing = {.balance = {.expert = 0.1}}}};
    for (int i = 0; i < 3; ++i) train.step(text.inputs(), text.targets());
    results.push_back(weights_of(net));
  }
  CHECK(results[1] == results[0]);
  CHECK(results[2] == results[0]);
}
