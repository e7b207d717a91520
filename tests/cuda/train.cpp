// A training step that nobody waits for, and one that is recorded and replayed.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <finegrain/finegrain.hpp>
#include <fstream>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

using namespace under_test;

namespace {

using model = fg::network<tiny::decoder, fg::cuda>;
constexpr std::int64_t T = 96;

fg::training const how{.schedule = {.warmup = 5, .steps = 60, .decay = fg::decay::cosine},
                       .clip = 0.5,
                       .routing = {.balance = {.expert = 0.01, .sequence = 0.001}},
                       .bias = {.speed = 0.01, .centre = true}};

/// A step's text, other tokens and other borders each time; some targets are left out.
struct lesson {
  std::vector<std::int32_t> ids, targets;
  std::vector<std::int64_t> starts;
  explicit lesson(std::uint64_t n) : starts{0, static_cast<std::int64_t>(1 + n * 7 % 90), T} {
    for (std::uint64_t t = 0; t < T; ++t) {
      ids.push_back(static_cast<std::int32_t>(fg::random_word(n, t) % (n % 3 == 0 ? 4 : 32)));
      targets.push_back(t % 5 == n % 5 ? -1 : static_cast<std::int32_t>((t + n) % 32));
    }
  }
  fg::batch batch() const { return {.tokens = T, .ids = ids, .starts = starts}; }
};

/// The same on the device.
struct blackboard {
  fg::device_buffer<std::int32_t> ids{T}, targets{T};
  fg::device_buffer<std::int64_t> starts{3};
  void write(lesson const& l) const {
    using run = fg::device::runtime;
    run::copy(ids.data(), l.ids.data(), ids.bytes(), nullptr);
    run::copy(targets.data(), l.targets.data(), targets.bytes(), nullptr);
    run::copy(starts.data(), l.starts.data(), starts.bytes(), nullptr);
  }
  fg::batch batch() const { return {.tokens = T, .ids = ids, .starts = starts}; }
};

template <class Network>
std::vector<bf16> weights(Network const& net) {
  return fg::place<fg::cuda>::fetched(net.on(), net.parameters());
}

}  // namespace

template <fg::Expr E>
void compare_recorded(fg::training const& how = ::how) {
  using model = fg::network<E, fg::cuda>;
  model net({.deviation = 0.1}), other({.deviation = 0.1});
  fg::trainer plain{net, fg::adamw{.lr = 1e-2}, how};
  fg::trainer train{other, fg::adamw{.lr = 1e-2}, how};
  blackboard const board;
  auto step = train.record(board.batch(), board.targets);
  CHECK(train.steps() == 0);
  CHECK(same_bits(weights(net), weights(other)));
  std::uint64_t const steps = on_device::emulated() ? 4 : 20;
  for (std::uint64_t n = 0; n < steps; ++n) {
    INFO(n);
    lesson const text(n);
    auto const did = plain.step(text.batch(), text.targets);
    board.write(text);
    step();
    if (n % 4 != 3) continue;  // nobody waits for the others
    auto const same = train.report();
    CHECK(same.loss == did.loss);
    CHECK(same.balance_loss == did.balance_loss);
    CHECK(same.gradient_norm == did.gradient_norm);
    CHECK(same.tokens == T);
    CHECK(train.steps() == plain.steps());
    for (std::size_t l = 0; l < plain.log().layers.size(); ++l)
      CHECK(train.log().layers[l].load == plain.log().layers[l].load);
    CHECK(same_bits(weights(net), weights(other)));
  }
  // Checkpoints know nothing of it.
  auto const folder = std::filesystem::temp_directory_path();
  auto const a = (folder / "finegrain_recorded_a").string();
  auto const b = (folder / "finegrain_recorded_b").string();
  plain.save(a), train.save(b);
  auto const bytes = [](std::string const& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  CHECK(bytes(a) == bytes(b));
  // A trainer that loads one goes on, recorded or not, in the middle of its schedule.
  lesson const next(99);
  board.write(next);
  double const after = plain.step(next.batch(), next.targets).loss;
  train.load(b);
  step();
  CHECK(train.report().loss == after);
  CHECK(train.steps() == std::int64_t(steps) + 1);
  CHECK(same_bits(weights(net), weights(other)));
  std::filesystem::remove(a), std::filesystem::remove(b);
}

TEST_CASE("a recorded training step is the step, to the bit, with other tokens each time") {
  NEED_GPU();
  compare_recorded<tiny::decoder>();
}

TEST_CASE("a recorded step draws random numbers of its own") {
  NEED_GPU();
  constexpr fg::architecture noisy = [] {
    fg::architecture a = tiny::numbers;
    a.moe.noisy = true;
    return a;
  }();
  compare_recorded<fg::decoder<noisy>>();
}

TEST_CASE("weights rounded by chance are so in recorded steps and from files too") {
  NEED_GPU();
  auto by_chance = how;
  by_chance.rounding = fg::weight_rounding::stochastic;
  compare_recorded<tiny::decoder>(by_chance);

  auto const learned = [](fg::training const& how) {
    model net({.deviation = 0.1});
    fg::trainer train{net, fg::adamw{.lr = 1e-2}, how};
    for (std::uint64_t n = 0; n < 2; ++n) train.step(lesson(n).batch(), lesson(n).targets);
    return weights(net);
  };
  auto to_nearest = how;
  to_nearest.rounding = fg::weight_rounding::nearest;
  CHECK(same_bits(learned(how), learned(to_nearest)));
  CHECK(!same_bits(learned(how), learned(by_chance)));
  fg::network<tiny::decoder, fg::basic_cuda<fg::fp16>> half;
  CHECK_THROWS_WITH((fg::trainer{half, {}, by_chance}),
                    "weights are rounded by chance to bf16, not to fp16");
  fg::network<tiny::decoder, fg::basic_cuda<float>> exact;
  CHECK_THROWS_WITH((fg::trainer{exact, {}, to_nearest}),
                    "this network's weights are f32, and nothing rounds them");
}

TEST_CASE("a run that is resumed rounds weights as its rule had it") {
  NEED_GPU();
  struct late : fg::training_rule {
    void set(std::int64_t steps, fg::adamw&, fg::training& how) const override {
      how.rounding = steps < 1 ? fg::weight_rounding::in_products : fg::weight_rounding::stochastic;
    }
  } const rule;
  auto const file = (std::filesystem::temp_directory_path() / "finegrain_late_rounding").string();
  model net({.deviation = 0.1}), other({.deviation = 0.1, .seed = 2});
  fg::trainer train{net, fg::adamw{.lr = 1e-2}, {.rule = &rule}};
  fg::trainer resumed{other, fg::adamw{.lr = 1e-2}, {.rule = &rule}};
  for (std::uint64_t n = 0; n < 2; ++n) train.step(lesson(n).batch(), lesson(n).targets);
  train.save(file);
  resumed.load(file);
  CHECK(same_bits(weights(net), weights(other)));
  for (auto* one : {&train, &resumed}) one->step(lesson(2).batch(), lesson(2).targets);
  CHECK(same_bits(weights(net), weights(other)));
  std::filesystem::remove(file);
}

TEST_CASE("weights that are written after a trainer was made are those that learn") {
  NEED_GPU();
  model source({.deviation = 0.1, .seed = 7});
  auto const given = weights(source);
  auto const learned = [&](fg::training const& how, bool late) {
    model net({.deviation = 0.1});
    auto const copy = [&] { fg::place<fg::cuda>::store(net.on(), given, net.parameters()); };
    if (!late) copy();
    fg::trainer train{net, fg::adamw{.lr = 1e-2}, how};
    if (late) copy();
    for (std::uint64_t n = 0; n < 4; ++n) {
      static_cast<void>(net.parameters());  // might have been written: those in f32 stay
      train.step(lesson(n).batch(), lesson(n).targets);
    }
    return weights(net);
  };
  auto by_chance = how;
  by_chance.rounding = fg::weight_rounding::stochastic;
  for (auto const& training : {how, by_chance}) {
    auto const early = learned(training, false);
    CHECK(same_bits(early, learned(training, true)));
    CHECK(!same_bits(early, given));
  }
}

TEST_CASE("biases that are written late learn with their rests, and are saved without a step") {
  NEED_GPU();
  using on_host = fg::network<tiny::decoder, fg::cpu>;
  auto const folder = std::filesystem::temp_directory_path();
  auto const given = (folder / "finegrain_late_given").string();
  auto const saved = (folder / "finegrain_late_saved").string();
  std::string_view const biases = "layers.1.mixture.bias";
  on_host source({.deviation = 0.1, .seed = 7}), again;
  for (int i = 0; i < tiny::numbers.moe.routed; ++i)
    source.weight(biases)(0, i) = 1 + 0.001f * static_cast<float>(i);
  fg::save_weights(source, given);

  model net({.deviation = 0.1});
  fg::trainer train{net};
  fg::load_weights(net, given);
  train.save(saved);
  fg::trainer{again}.load(saved);
  for (int i = 0; i < tiny::numbers.moe.routed; ++i)
    CHECK(std::abs(again.weight(biases)(0, i) - source.weight(biases)(0, i)) < 2e-5);
  // And what is written between a step's batches is not what its end overwrites.
  fg::trainer gathering{net, fg::adamw{.lr = 0}};
  lesson const text(3);
  gathering.gather(text.batch(), text.targets);
  auto const other = weights(model({.deviation = 0.1, .seed = 9}));
  fg::place<fg::cuda>::store(net.on(), other, net.parameters());
  gathering.finish();
  CHECK(same_bits(weights(net), other));
  std::filesystem::remove(given), std::filesystem::remove(saved);
}

TEST_CASE("steps that nobody waits for are the same steps") {
  NEED_GPU();
  model net({.deviation = 0.1}), other({.deviation = 0.1});
  fg::trainer plain{net, fg::adamw{.lr = 1e-2}, how};
  fg::trainer train{other, fg::adamw{.lr = 1e-2}, how};
  CHECK_THROWS_AS(train.report(), fg::invalid_argument);
  fg::step_report did;
  for (std::uint64_t n = 0; n < 6; ++n) {
    lesson const text(n);
    did = plain.step(text.batch(), text.targets);
    train.enqueue(text.batch(), text.targets);
  }
  lesson const held_out(50);
  double const score = train.evaluate(held_out.batch(), held_out.targets);
  CHECK(score == plain.evaluate(held_out.batch(), held_out.targets));
  CHECK(train.report().loss == did.loss);  // of the step, not of what came after it
  CHECK(train.report().gradient_norm == did.gradient_norm);
  blackboard const board;
  board.write(held_out);
  CHECK(train.evaluate(board.batch(), board.targets) == score);
  CHECK(same_bits(weights(net), weights(other)));
}

TEST_CASE("a step of several batches moves biases by all of them") {
  NEED_GPU();
  model net({.deviation = 0.1});
  fg::network<tiny::decoder, fg::cpu> host({.deviation = 0.1});
  auto quiet = how;
  quiet.schedule = {};
  fg::trainer train{net, fg::adamw{.lr = 0}, quiet};
  fg::trainer plain{host, fg::adamw{.lr = 0}, quiet};
  for (std::uint64_t n = 0; n < 8; ++n) {
    lesson const text(n);
    double const loss = train.gather(text.batch(), text.targets).loss;
    CHECK(loss == Approx(plain.gather(text.batch(), text.targets).loss).epsilon(0.02));
    if (n % 2 == 1) CHECK(train.finish() == Approx(plain.finish()).epsilon(0.05));
  }
  std::size_t moved = 0, off = 0;
  auto const now = weights(net);
  for (auto const& e : net.entries())
    for (std::int64_t i = 0; e.role == fg::role::selection_bias && i < e.rows * e.cols; ++i) {
      auto const at = static_cast<std::size_t>(e.offset + i);
      float const theirs = host.parameters()[at];
      moved += theirs != 0;
      off += std::abs(static_cast<float>(now[at]) - theirs) > 0.002f;
    }
  CHECK(moved > 0);
  CHECK(off <= moved / 4);  // a choice that bf16 made otherwise may turn a sign
}

TEST_CASE("what cannot be recorded is refused, and nothing has changed") {
  NEED_GPU();
  model net({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2}, how};
  lesson const text(1);
  blackboard const board;
  auto const before = weights(net);
  CHECK_THROWS_AS(train.record(text.batch(), board.targets), fg::invalid_argument);
  CHECK_THROWS_AS(train.record(board.batch(), text.targets), fg::invalid_argument);
  auto step = train.record(board.batch(), board.targets);
  CHECK(step.stands());
  std::vector<std::int32_t> const more(3 * T, 1);
  train.evaluate({.tokens = 3 * T, .ids = more}, more);  // moves the network's memory
  CHECK_FALSE(step.stands());
  CHECK_THROWS_AS(step(), fg::invalid_argument);
  train.settings().bias.quantile = true;
  CHECK_THROWS_AS(train.record(board.batch(), board.targets), fg::invalid_argument);
  CHECK(train.steps() == 0);
  CHECK(same_bits(weights(net), before));
}

namespace {

/// Cross-entropy of some tokens, squared error of the others, or one of them alone: of targets on the
/// device, by the device's losses.
struct parts {
  fg::id_list targets;
  fg::matrix<bf16 const> numbers;
  std::int64_t border;  // from here on numbers
  double count;
  bool first_part = true, second_part = true;
  double terms() const { return count; }
  double operator()(fg::cuda const& on, std::int64_t first, fg::matrix<bf16 const> y,
                    fg::matrix<bf16> dy) const {
    std::int64_t const rows = std::clamp<std::int64_t>(border - first, 0, y.rows);
    auto const of = [&](auto m, std::int64_t begin, std::int64_t end) {
      return m.data ? m.middle_rows(begin, end - begin) : m;
    };
    if (first_part && rows > 0)
      cross_entropy(on, of(y, 0, rows), targets.subspan(std::size_t(first), std::size_t(rows)), 1,
                    of(dy, 0, rows));
    if (second_part && rows < y.rows)
      squared_error(on, of(y, rows, y.rows), of(numbers, first + rows, first + y.rows), 1,
                    of(dy, rows, y.rows));
    return 0;
  }
};

}  // namespace

TEST_CASE("a loss of one's own is put together of the device's, and recorded") {
  NEED_GPU();
  model net({.deviation = 0.1}), other({.deviation = 0.1}), recorded({.deviation = 0.1});
  fg::trainer plain{net, fg::adamw{.lr = 1e-2}, how};
  fg::trainer train{other, fg::adamw{.lr = 1e-2}, how};
  fg::trainer replay{recorded, fg::adamw{.lr = 1e-2}, how};
  blackboard const board;
  fg::device_buffer<bf16> const numbers(T * 32);
  fg::place<fg::cuda>::clear(net.on(), numbers);
  auto const lessons = [](std::uint64_t n) {  // of which 64 targets count: a power of two
    lesson l(n);
    for (std::size_t t = 0; t < std::size_t(T); ++t)
      l.targets[t] = t % 3 == 0 ? -1 : std::int32_t(t % 32);
    return l;
  };
  parts const entropy{board.targets, {numbers.data(), T, 32}, T, 64};
  auto step = replay.record(board.batch(), entropy);
  for (std::uint64_t n = 0; n < 3; ++n) {
    lesson const text = lessons(n);
    board.write(text);
    auto const did = plain.step(text.batch(), text.targets);
    auto const own = train.step(board.batch(), entropy);
    step();
    auto const again = replay.report();
    CHECK(own.loss == did.loss);
    CHECK(own.gradient_norm == did.gradient_norm);
    CHECK(again.loss == did.loss);
    CHECK(again.gradient_norm == did.gradient_norm);
  }
  CHECK(same_bits(weights(net), weights(other)));
  CHECK(same_bits(weights(net), weights(recorded)));

  parts both = entropy, one = entropy, two = entropy;
  both.border = one.border = two.border = 40;
  one.second_part = two.first_part = false;
  double const sum = train.evaluate(board.batch(), one) + train.evaluate(board.batch(), two);
  CHECK(train.evaluate(board.batch(), both) == Approx(sum).epsilon(1e-6));
  auto const host = [&](fg::cuda const&, std::int64_t, fg::matrix<bf16 const>, fg::matrix<bf16>) {
    return 48;
  };
  CHECK(train.evaluate(board.batch(), host) == 0.5);
  auto const nothing = train.step(board.batch(), host);  // dy is 0 where nobody wrote
  CHECK(nothing.loss == 0.5);

  // A larger batch moves the room of the loss's gradient.
  CHECK(step.stands());
  std::vector<std::int32_t> const more(2 * T, 1);
  recorded.reserve_learning(2 * T);
  step = replay.record(board.batch(), entropy);
  replay.step({.tokens = 2 * T, .ids = more}, host);
  CHECK_FALSE(step.stands());

  // Nobody asks where it is who has none; and reserve() has made it large enough.
  plain.reserve(2 * T);
  auto const of_targets = plain.record(board.batch(), board.targets);
  plain.step(board.batch(), host);
  CHECK(of_targets.stands());
  auto const of_loss = plain.record(board.batch(), entropy);
  plain.step({.tokens = 2 * T, .ids = more}, host);
  CHECK(of_loss.stands());
}
