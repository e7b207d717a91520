// What a model of a study is given of a user's own: its start, and what is done after each step.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <finegrain/io/weights.hpp>
#include <finegrain/lab/study.hpp>
#include <finegrain/reference/reference.hpp>
#include <map>
#include <memory>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "small_study.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config biased{.hidden = 8, .width = 4, .routed = 4, .top_k = 2, .bias = true};
struct reader : fg::named {
  static constexpr auto expr =
      fg::embedding<256, 8>{} |
      fg::repeat<2>(fg::residual(fg::rmsnorm<8>{} | fg::mixture<biased>{})) | fg::head<8, 256>{};
};
struct plain_reader : fg::named {
  static constexpr auto expr = fg::embedding<256, 8>{} | fg::mlp<8, 4>{} | fg::head<8, 256>{};
};
using network = fg::network<reader, fg::basic_reference<float>>;
using dense = fg::network<plain_reader, fg::basic_reference<float>>;
using trainer = fg::trainer<network>;
using small_study::text;

fg::study_settings settings(std::string out) {
  auto made = small_study::settings(std::move(out));
  made.training.routing.capacity = 1;
  return made;
}
/// The log, and the weights and moments of all runs.
std::string bits_of(folder const& dir) {
  std::map<std::string, std::string> files;
  for (auto const& file : std::filesystem::directory_iterator(dir / "runs"))
    files[file.path().filename()] = contents(file.path());
  std::string all = contents(dir / "log.jsonl");
  for (auto const& [name, content] : files) all += name + content;
  return all;
}
/// A study of one model, to which `give` gives functions.
template <class Give>
std::unique_ptr<fg::study> studied(folder const& dir, Give const& give) {
  auto study = std::make_unique<fg::study>(text(), settings(dir.path), nullptr);
  give(study->add<network>("a"));
  return study;
}
/// Runs it, interrupted by SIGINT at each of these calls of interrupt().
class interruptions {
 public:
  explicit interruptions(std::set<int> at) : at_(std::move(at)) {}
  void call() {
    if (at_.contains(++calls_)) std::raise(SIGINT);
  }
  template <class Give>
  std::string run(Give const& give) {
    folder const dir;
    std::size_t stopped = 0;
    while (!studied(dir, give)->run()) ++stopped;
    CHECK(stopped == at_.size());
    return bits_of(dir);
  }

 private:
  std::set<int> at_;
  int calls_ = 0;
};

}  // namespace

TEST_CASE("a run starts from the weights that its model is given, once it has its own") {
  folder const dir;
  auto const small_router = [](network& net, std::uint64_t seed) {
    auto const router = net.weight("layers.0.mixture.router");
    CHECK(router(0, 0) != 0);  // initialised before
    for (std::int64_t i = 0; i < router.size(); ++i) router.data[i] *= 0.1f * float(seed + 1);
  };
  auto how = settings(dir.path);
  fg::study study(text(), how, nullptr);
  study.add<network>("plain");
  study.add<network>("small").start("routers times 0.1 (seed + 1)", small_router);
  auto const models = study.results().models;
  CHECK(models[0].model.runs != models[1].model.runs);
  CHECK_THAT(models[1].model.settings, ContainsSubstring("\nstart routers times 0.1 (seed + 1)\n"));
  REQUIRE(study.run());

  fg::study_results const all = study.results();
  CHECK(all.of("small").curve[0] == fg::means(study.ask("small", {}, false)));
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    network net({how.deviation, seed}), trained;
    small_router(net, seed);
    fg::windows w;
    text().validate(0, 2, 4, 16, w);
    auto training = how.training;
    training.routing.seed = fg::random_word(0, seed);
    fg::trainer train{net, how.optimizer, training};
    double nats = train.evaluate(w.batch(), w.y);
    text().validate(2, 2, 4, 16, w);
    nats += train.evaluate(w.batch(), w.y);
    CHECK(all.of("small").curve[0][seed] == Approx(nats / 2 / std::numbers::ln2));
    for (int step = 0; step < 7; ++step) {
      text().draw(seed, step, how.sequences, how.length, w);
      train.step(w.batch(), w.y);
    }
    fg::load_weights(trained, study.weights_file("small", int(seed)));
    CHECK(
        std::equal(net.parameters().begin(), net.parameters().end(), trained.parameters().begin()));
  }
}

TEST_CASE("a study's first weights may go by their inputs") {
  folder const dir;
  auto how = settings(dir.path);
  how.by_inputs = true;
  float found = 0;
  fg::study study(text(), how, nullptr);
  study.add<network>("a").start("looks", [&](network& net, std::uint64_t) {
    found = net.weight("layers.1.mixture.router")(0, 0);
  });
  CHECK_THAT(study.results().of("a").model.settings, ContainsSubstring("\nby_inputs 1\n"));
  static_cast<void>(study.ask("a", {}, false));
  network net({.deviation = how.deviation, .seed = 1, .by_inputs = true});
  CHECK(found == net.weight("layers.1.mixture.router")(0, 0));
}

TEST_CASE("a controller after each step has the same bits when its run is interrupted") {
  // Selection biases by what experts lack, and a coefficient by how far the last step's router was
  // from balance: weights, and a number of the settings, both of which follow from all steps before.
  auto const with = [](interruptions& stops, trainer& train, fg::step_report const& did) {
    CHECK(did.tokens == 32);
    fg::routing_report const& last = train.log().layers[1];
    auto const bias = train.network().weight("layers.1.mixture.bias");
    for (int e = 0; e < 4; ++e) bias(0, e) += 0.01f * float(16 - last.load[std::size_t(e)]);
    auto const most = *std::max_element(last.load.begin(), last.load.end());
    train.settings().routing.balance.expert *= most > 20 ? 1.5 : 0.75;
    train.optimizer().lr *= 0.9;
    stops.call();
  };
  auto const bits = [&](std::set<int> const& at) {
    interruptions stops(at);
    return stops.run([&](auto added) {
      added.after_step("a controller", [&](trainer& train, fg::step_report const& did) {
        with(stops, train, did);
      });
    });
  };
  auto const whole = bits({});
  for (std::set<int> const& at : std::vector<std::set<int>>{{1}, {3}, {4}, {7}, {2, 5, 9, 13}})
    CHECK((bits(at) == whole));

  folder const dir;
  auto const free = studied(dir, [](auto) {});
  REQUIRE(free->run());
  CHECK((bits_of(dir) != whole));
}

TEST_CASE("what a resumed run would not know of is refused after a step, by the model's name") {
  auto const refused = [](auto change) {
    folder const dir;
    auto const study = studied(dir, [&](auto added) {
      added.after_step("changes", [&](trainer& train, fg::step_report const&) { change(train); });
    });
    CHECK_THROWS_WITH(study->run(), ContainsSubstring("the model \"a\": your own function after a "
                                                      "step may change weights"));
  };
  fg::windows w;
  text().draw(0, 0, 2, 16, w);
  refused([](trainer& train) { train.settings().routing.top_k = 1; });
  refused([](trainer& train) { train.settings().routing.seed = 1; });
  refused([](trainer& train) { train.settings().groups = {{"*", 0.5}}; });
  refused([](trainer& train) { train.settings().schedule.warmup = 3; });
  refused([](trainer& train) { train.settings().bias.centre = true; });
  refused([](trainer& train) { train.settings().rounding = fg::weight_rounding::stochastic; });
  refused([&](trainer& train) { train.step(w.batch(), w.y); });
}

TEST_CASE("rates of groups are none of the numbers that a function after a step may change") {
  folder const dir;
  auto how = settings(dir.path);
  how.training.groups = {{"*.router", 0.5}};
  fg::study study(text(), how, nullptr);
  study.add<network>("a").after_step("a rate", [](trainer& train, fg::step_report const&) {
    train.settings().groups[0].rate *= 0.9;
  });
  CHECK_THROWS_WITH(study.run(), ContainsSubstring("real numbers of the optimiser and the settings "
                                                   "but those of groups"));
}

TEST_CASE("passes that a controller makes are no part of what training measures") {
  folder const dir;
  fg::windows w;
  text().draw(5, 0, 2, 16, w);
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<network>("plain");
  study.add<network>("passes").after_step(
      "gathers", [&](trainer& train, fg::step_report const&) { train.gather(w.batch(), w.y); });
  REQUIRE(study.run());
  fg::study_results const all = study.results();
  REQUIRE(all.of("plain").curve == all.of("passes").curve);
  for (char const* name : {"training loss", "training load", "dropped", "dropped.0", "dropped.1"})
    for (std::size_t place = 1; place < 4; ++place) {
      CAPTURE(name, place);
      CHECK((*all.of("passes").measured_as(name))[place] ==
            (*all.of("plain").measured_as(name))[place]);
    }
}

TEST_CASE("a run whose checkpoint has other numbers of a controller's than there are begins anew") {
  auto const bits = [](int stop_at, std::string const& adapted) {
    folder const dir;
    int calls = 0;
    auto const give = [&](auto added) {
      added.after_step("lower", [&](trainer& train, fg::step_report const&) {
        train.optimizer().lr *= 0.9;
        train.settings().routing.balance.expert *= 1.5;
        if (++calls == stop_at) std::raise(SIGINT);
      });
    };
    bool const whole = studied(dir, give)->run();
    REQUIRE(whole == (stop_at == 0));
    if (!whole) {
      std::string const file = studied(dir, give)->results().models[0].model.runs[0];
      std::string const path = dir / "runs/" + file + ".safetensors";
      std::string note = *fg::safetensors_file(path).metadata("note");
      std::size_t const from = note.find("[", note.find("\"adapted\"")), to = note.find("]", from);
      REQUIRE(to != note.npos);
      note.replace(from, to + 1 - from, adapted);
      fg::learner_of<network> copy({}, {}, {}, {});
      copy.load(path);
      copy.save(path, note);
      REQUIRE(studied(dir, give)->run());
    }
    return bits_of(dir);
  };
  std::string const whole = bits(0, "");
  CHECK((bits(4, "[0.5, 0.5]") == whole));
  CHECK((bits(4, "[]") == whole));
}

TEST_CASE("what a model's functions hold makes its runs' ids, in whichever order they are given") {
  folder const dir;
  auto const nothing = [](network&, std::uint64_t) {};
  auto const none = [](trainer&, fg::step_report const&) {};
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<network>("plain");
  study.add<network>("one").start("x", nothing).after_step("y", none);
  study.add<network>("two").after_step("y", none).start("x", nothing);
  study.add<network>("other").start("y", nothing).after_step("x", none);
  auto const models = study.results().models;
  CHECK(models[1].model.runs == models[2].model.runs);
  CHECK(models[1].model.runs != models[3].model.runs);
  CHECK(models[1].model.runs != models[0].model.runs);
  CHECK_THROWS_WITH(study.add<network>("a").start("", nothing),
                    ContainsSubstring("the model \"a\": your own start must say in its settings"));
  CHECK_THROWS_WITH(study.add<network>("b").after_step("", none),
                    ContainsSubstring("your own function after a step must say"));
  CHECK_THROWS_WITH(study.add<network>("c").start("x", nothing).start("y", nothing),
                    "the model \"c\" has its own start already");
  CHECK_THROWS_WITH(study.add<network>("d").after_step("x\nstart y", none),
                    "the model \"d\": the settings of your own function after a step are one line");
}

TEST_CASE("a model's empty functions are refused as they are given") {
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  auto added = study.add<network>("a");
  CHECK_THROWS_WITH(added.start("x", nullptr),
                    "the model \"a\": your own start is an empty function");
  CHECK_THROWS_WITH(added.after_step("x", nullptr),
                    "the model \"a\": your own function after a step is an empty function");
  CHECK_THROWS_WITH(added.measure("x", nullptr),
                    "the model \"a\": your own measurement is an empty function");
  CHECK_NOTHROW(added.start("x", [](network&, std::uint64_t) {}));
}

TEST_CASE("training's means since the last evaluation stand in the log, the values and a picture") {
  folder const dir;
  auto const how = settings(dir.path);
  fg::study study(text(), how, nullptr);
  study.add<network>("mixture");
  study.add<dense>("dense");
  REQUIRE(study.run());
  fg::study_results const all = study.report("Loss");

  fg::training in_run = how.training;
  in_run.routing.seed = fg::random_word(0, 1);
  network net({how.deviation, 1});
  fg::trainer train{net, how.optimizer, in_run};
  fg::model_results const& mixture = all.of("mixture");
  REQUIRE(mixture.tokens == std::vector<double>{0, 96, 160, 224});
  fg::windows w;
  for (std::size_t place = 1; place < 4; ++place) {
    double loss = 0, balance = 0, norm = 0, steps = 0, dropped[2] = {}, chosen[2] = {};
    for (; double(train.steps() * 32) < mixture.tokens[place]; ++steps) {
      text().draw(1, train.steps(), how.sequences, how.length, w);
      fg::step_report const did = train.step(w.batch(), w.y);
      loss += did.loss, balance += did.balance_loss, norm += did.gradient_norm;
      for (std::size_t r = 0; r < 2; ++r)
        for (std::size_t e = 0; e < 4; ++e) {
          dropped[r] += double(train.log().layers[r].dropped[e]);
          chosen[r] += double(train.log().layers[r].load[e]);
        }
    }
    auto const seen = [&](char const* name) { return (*mixture.measured_as(name))[place][1]; };
    CHECK(seen("training loss") == loss / steps);
    CHECK(seen("balance loss") == balance / steps);
    CHECK(seen("gradient norm") == norm / steps);
    CHECK(seen("skipped steps") == 0);
    CHECK(dropped[0] > 0);
    CHECK(seen("dropped.0") == dropped[0] / chosen[0]);
    CHECK(seen("dropped.1") == dropped[1] / chosen[1]);
    CHECK(seen("dropped") == (dropped[0] + dropped[1]) / (chosen[0] + chosen[1]));
    CHECK(seen("training load") > 1);
  }
  CHECK(std::isnan((*mixture.measured_as("dropped"))[0][1]));  // no step was before
  CHECK(all.of("dense").measured_as("dropped") == nullptr);
  CHECK(all.of("dense").measured_as("gradient norm") != nullptr);
  CHECK_THAT(contents(dir / "log.jsonl"), ContainsSubstring("\"measured.dropped.1\": "));
  CHECK_THAT(contents(dir / "values.csv"),
             ContainsSubstring("training loss,balance loss,gradient norm,skipped steps,training "
                               "load,dropped,dropped.0,dropped.1\n"));
  CHECK_THAT(all.measured_over_training("dropped", "Dropped"), ContainsSubstring("Dropped"));
}

TEST_CASE(
    "a model without finite gradients is marked, and where it learned nothing has no result") {
  folder const dir;
  auto const lost_from = [](std::int64_t from, std::int64_t to) {
    return [=, step = std::int64_t{0}](fg::windows const& w) mutable {
      bool const lost = step % 7 >= from && step % 7 < to;
      ++step;
      return [=, &w](auto const& on, std::int64_t first, fg::matrix<float const> y,
                     fg::matrix<float> dy) {
        auto const mine = std::span(w.y).subspan(std::size_t(first), std::size_t(y.rows));
        double const sum = cross_entropy(on, y, mine, 1, dy);
        if (lost && dy.data) dy(0, 0) = std::numeric_limits<float>::quiet_NaN();
        return sum;
      };
    };
  };
  std::FILE* const told = std::tmpfile();
  REQUIRE(told);
  fg::study study(text(), settings(dir.path), told);
  study.add<network>("sound");
  study.add<network>("never").loss("never finite", lost_from(0, 7));
  study.add<network>("late").loss("not finite in the end", lost_from(4, 7));
  study.add<network>("once").loss("once not finite", lost_from(1, 2));
  REQUIRE(study.run());

  fg::study_results const all = study.report("Loss");
  CHECK(all.of("sound").skipped == 0);
  CHECK(all.of("never").skipped == 14);
  CHECK(all.of("late").skipped == 6);
  CHECK(all.of("once").skipped == 2);
  for (double const bits : all.of("never").validation) CHECK(std::isnan(bits));
  for (double const bits : all.of("late").validation) CHECK(std::isnan(bits));
  for (double const bits : all.of("once").validation) CHECK(bits > 1);
  CHECK((*all.of("once").measured_as("skipped steps"))[1] == std::vector<double>{1, 1});
  CHECK((*all.of("once").measured_as("training loss"))[1][0] > 1);  // of the others
  CHECK(std::isnan((*all.of("never").measured_as("training loss"))[1][0]));
  std::string const table = contents(dir / "table.md");
  CHECK_THAT(table, ContainsSubstring("| never (14 of 14 steps skipped) |"));
  CHECK_THAT(table, ContainsSubstring("| once (2 of 14 steps skipped) "));
  CHECK_THAT(table, ContainsSubstring("| sound  "));
  CHECK_THAT(table, ContainsSubstring("skipped: steps without a finite gradient"));
  CHECK(sentence(fg::claim("never < sound", all.of("never").validation, all.of("sound").validation)
                     .difference) == "undecided: a value is not a number");

  std::rewind(told);
  std::string words(1 << 16, '\0');
  words.resize(std::fread(words.data(), 1, words.size(), told));
  std::fclose(told);
  CHECK_THAT(words, ContainsSubstring("never seed 0: 3 of 3 steps up to step 3 had no finite "
                                      "gradient, and changed nothing\n"));
  CHECK_THAT(words, ContainsSubstring("once seed 1: 1 of 3 steps up to step 3 had"));
  CHECK_THAT(words, !ContainsSubstring("sound seed 0: 0 of"));
}

TEST_CASE("a model without a result is not the best, however little its bits") {
  auto const written = [](bool beside) {
    folder const dir;
    auto how = settings(dir.path);
    how.seeds = 1;
    how.optimizer.lr = 1;  // from which the sound one is worse than untrained
    fg::study study(text(), how, nullptr);
    study.add<network>("sound");
    if (beside)
      study.add<network>("never").loss("never finite", [](fg::windows const&) {
        return [](auto const&, std::int64_t, fg::matrix<float const>, fg::matrix<float> dy) {
          if (dy.data) dy(0, 0) = std::numeric_limits<float>::quiet_NaN();
          return 0.0;
        };
      });
    REQUIRE(study.run());
    if (beside) {
      fg::study_results const all = study.results();
      REQUIRE(all.of("never").curve.back()[0] < all.of("sound").validation[0]);
    }
    return study.sample("ab", 20);
  };
  CHECK(written(true) == written(false));
}
