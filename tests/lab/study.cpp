// Studies: the same bits however often they are killed, nothing done twice, runs told apart.
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/wait.h>

#include <finegrain/config/ladder.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/weights.hpp>
#include <finegrain/lab/study.hpp>
#include <finegrain/reference/reference.hpp>
#include <map>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "small_study.hpp"

namespace fg = finegrain;

namespace {

using small_study::text, small_study::settings;

/// Passes numbers on, and keeps the seeds that its passes in training had.
struct seed_watch : fg::stage<8> {
  static inline std::set<std::uint64_t> seen;
};
std::string details(seed_watch) { return "version 2"; }

}  // namespace

template <class X>
struct finegrain::plan<X, seed_watch> {
  using S = typename X::scalar;
  using saved = nothing;
  using scratch = nothing;
  template <class W>
  static void forward(pass<X> p, W const&, saved const&, matrix<S const> x, matrix<S> y) {
    if (p.extent.training) seed_watch::seen.insert(p.batch.routing.seed);
    for (std::int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), 8, y.row(t));
  }
  template <class W, class V>
  static void backward(pass<X>, W const&, saved const&, matrix<S const>, matrix<S const> dy,
                       V const&, matrix<S> dx) {
    for (std::int64_t t = 0; t < dy.rows; ++t) std::copy_n(dy.row(t), 8, dx.row(t));
  }
};

namespace {

constexpr fg::config base = fg::conventional<4, 2>({.hidden = 8, .width = 4});
using ladder = fg::ladder<base, base.segmented(2).isolated(1)>;

template <fg::config C>
struct reader : fg::named {
  static constexpr auto expr = fg::embedding<256, 8>{} |
                               fg::residual(fg::rmsnorm<8>{} | fg::mixture<C>{}) |
                               fg::head<8, 256>{};
};

struct wide_reader : fg::named {
  static constexpr auto expr = fg::embedding<300, 8>{} |
                               fg::residual(fg::rmsnorm<8>{} | fg::mixture<base>{}) |
                               fg::head<8, 300>{};
};

struct watched : fg::named {
  static constexpr auto expr = fg::tied(fg::embedding<256, 8>{}, seed_watch{});
};

template <fg::config C>
using tiny = fg::network<reader<C>, fg::basic_reference<float>>;
bool run(fg::study_settings const& how) {
  fg::study study(text(), how, nullptr);
  fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) { study.add<tiny<C>>(fg::rung_name(C)); });
  if (!study.run()) return false;
  study.report("Loss");
  return true;
}

/// What must be equal: the log and every run's weights and moments.
std::map<std::string, std::string> bits_of(folder const& dir) {
  std::map<std::string, std::string> all{{"log.jsonl", contents(dir / "log.jsonl")}};
  for (auto const& file : std::filesystem::directory_iterator(dir / "runs"))
    all[file.path().filename()] = contents(file.path());
  return all;
}
std::map<std::string, std::string> uninterrupted() {
  folder const dir;
  REQUIRE(run(settings(dir.path)));
  return bits_of(dir);
}

}  // namespace

TEST_CASE("A study leaves a log of every evaluation, a checkpoint a run, tables and pictures") {
  folder const dir;
  REQUIRE(run(settings(dir.path)));
  auto const bits = bits_of(dir);
  CHECK(bits.size() == 1 + 4);
  CHECK(std::count(bits.at("log.jsonl").begin(), bits.at("log.jsonl").end(), '\n') == 4 * 4);
  for (char const* name :
       {"table.md", "table.tex", "table.csv", "values.csv", "curves.svg", "load.svg"})
    CHECK(contents(dir / name).size() > 50);
}

TEST_CASE("A study that is done does nothing again") {
  folder const dir;
  REQUIRE(run(settings(dir.path)));
  auto const bits = bits_of(dir);
  std::string const table = contents(dir / "table.csv"), times = contents(dir / "time.jsonl");
  for (auto const& file : std::filesystem::directory_iterator(dir / "runs"))
    std::filesystem::last_write_time(file, {});
  REQUIRE(run(settings(dir.path)));
  CHECK(bits_of(dir) == bits);
  CHECK(contents(dir / "table.csv") == table);
  CHECK(contents(dir / "time.jsonl") == times);
  for (auto const& file : std::filesystem::directory_iterator(dir / "runs"))
    CHECK(std::filesystem::last_write_time(file) == std::filesystem::file_time_type{});
}

TEST_CASE("A study killed at any moment, again and again, ends with the same bits") {
  auto const whole = uninterrupted();
  int killed = 0;
  for (std::uint64_t trial = 0; trial < 12; ++trial) {
    folder const dir;
    for (std::uint64_t attempt = 0;; ++attempt) {
      REQUIRE(attempt < 200);
      pid_t const child = ::fork();
      if (child == 0) {
        bool const done = run(settings(dir.path));
        ::_exit(done ? 0 : 1);
      }
      double const wait = 20e3 * fg::random_uniform(trial, attempt) * (1.0 + 0.1 * double(attempt));
      ::usleep(static_cast<useconds_t>(wait));
      ::kill(child, SIGKILL);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      if (WIFEXITED(status)) {
        REQUIRE(WEXITSTATUS(status) == 0);
        break;
      }
      ++killed;
    }
    REQUIRE(bits_of(dir) == whole);
  }
  CHECK(killed > 12);
}

TEST_CASE("A study whose log has lost lines before a checkpoint has all of them in the end") {
  auto const expected = uninterrupted();
  std::string const& whole = expected.at("log.jsonl");
  for (std::size_t lines : {0u, 1u, 2u, 6u}) {
    folder const dir;
    REQUIRE(run(settings(dir.path)));
    std::size_t end = 0;
    for (std::size_t line = 0; line < lines; ++line) end = whole.find('\n', end) + 1;
    std::filesystem::resize_file(dir / "log.jsonl", end);
    REQUIRE(run(settings(dir.path)));
    CHECK(bits_of(dir) == expected);
  }
}

TEST_CASE("A study that is asked to stop saves, says so, and goes on with the same bits") {
  auto const whole = uninterrupted();
  folder const dir;
  int stopped = 0;
  ::signal(SIGINT, SIG_DFL);  // not the test program's handlers, which no child is to inherit
  ::signal(SIGTERM, SIG_DFL);
  for (int attempt = 0; attempt < 200; ++attempt) {
    pid_t const child = ::fork();
    if (child == 0) ::_exit(run(settings(dir.path)) ? 0 : 7);
    ::usleep(static_cast<useconds_t>(4000 + 400 * attempt));  // a slow machine gets there too
    ::kill(child, attempt % 2 ? SIGTERM : SIGINT);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    stopped += WIFEXITED(status) && WEXITSTATUS(status) == 7;
  }
  CHECK(stopped > 0);
  CHECK(bits_of(dir) == whole);
}

TEST_CASE("Another setting, seed, text or model is another run, and the folder holds them all") {
  folder const dir;
  auto const how = settings(dir.path);
  std::set<std::string> distinct;
  std::size_t expected = 0;
  auto const insert = [&](fg::study const& study) {
    for (auto const& m : study.results().models)
      for (auto const& id : m.model.runs) distinct.insert(id), ++expected;
  };
  auto const count = [&](fg::study_settings const& s, fg::corpus const& c) {
    fg::study study(c, s, nullptr);
    study.add<tiny<base>>("a");
    insert(study);
  };
  count(how, text());
  auto const with = [&](auto change) {
    auto s = how;
    change(s);
    count(s, text());
  };
  with([](auto& s) { s.steps = 8; });
  with([](auto& s) { s.sequences = 3; });
  with([](auto& s) { s.length = 8; });
  with([](auto& s) { s.evaluations = 2; });
  with([](auto& s) { s.validation = 3; });
  with([](auto& s) { s.deviation = 0.2; });
  with([](auto& s) { s.optimizer.lr = 2e-2; });
  with([](auto& s) { s.optimizer.beta1 = 0.8; });
  with([](auto& s) { s.optimizer.beta2 = 0.8; });
  with([](auto& s) { s.optimizer.epsilon = 1e-7; });
  with([](auto& s) { s.optimizer.weight_decay = 0; });
  with([](auto& s) { s.training.clip = 2; });
  with([](auto& s) { s.training.routing.balance.expert = 0.1; });
  with([](auto& s) { s.training.schedule.warmup = 2; });
  with([](auto& s) { s.training.schedule = {.steps = 100, .decay = fg::decay::steps}; });
  count(how, fg::corpus(std::string(text().text()) + "x"));
  for (auto const products : {fg::format::f32, fg::format::bf16}) {
    fg::study study(text(), how, nullptr);
    study.add<fg::network<reader<base>, fg::cpu>>("a", fg::cpu{products});
    insert(study);
  }
  CHECK(distinct.size() == expected);

  auto more = how;  // seeds that are done already are not run again
  more.seeds = 1;
  REQUIRE(run(more));
  auto const before = contents(dir / "log.jsonl");
  REQUIRE(run(how));
  CHECK(contents(dir / "log.jsonl").starts_with(before.substr(0, before.find("\n"))));
  CHECK(bits_of(dir).size() == 1 + 4);
}

TEST_CASE("Models that share a seed see the same text in the same order") {
  folder const dir;
  REQUIRE(run(settings(dir.path)));
  fg::record_log const log(dir / "log.jsonl");
  std::map<double, int> seeds;
  for (auto const& r : log.records()) ++seeds[r.number("seed")];
  CHECK(seeds == std::map<double, int>{{0, 8}, {1, 8}});
}

TEST_CASE("What is drawn in training follows the run's seed and step; else bits are a trainer's") {
  folder const dir;
  fg::study study(text(), settings(dir / "a"), nullptr);
  seed_watch::seen.clear();
  study.add<fg::network<watched, fg::basic_reference<float>>>("watched");
  study.add<tiny<base>>("plain");
  REQUIRE(study.run());
  CHECK(seed_watch::seen.size() == 2 * 7);
  CHECK_THAT(study.results().of("watched").model.settings, ContainsSubstring("version 2\n"));

  auto const how = settings({});
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    tiny<base> net({how.deviation, seed}), loaded;
    fg::trainer train{net, how.optimizer, how.training};
    fg::windows w;
    for (int step = 0; step < 7; ++step) {
      text().draw(seed, step, how.sequences, how.length, w);
      train.step(w.batch(), w.y);
    }
    fg::load_weights(loaded, study.weights_file("plain", int(seed)));
    CHECK(
        std::equal(net.parameters().begin(), net.parameters().end(), loaded.parameters().begin()));
  }
}

TEST_CASE("Studies that share a pool train a model once, whatever they call it") {
  folder const dir;
  auto first = settings(dir / "a"), second = settings(dir / "b");
  first.pool = second.pool = dir / "pool";
  REQUIRE(run(first));
  CHECK(!std::filesystem::exists(dir / "a/log.jsonl"));
  auto const log = contents(dir / "pool/log.jsonl");
  {
    fg::study study(text(), second, nullptr);
    study.add<tiny<base>>("another name");
    REQUIRE(study.run());
    study.report("Loss");
  }
  CHECK(contents(dir / "pool/log.jsonl") == log);
  CHECK(contents(dir / "b/table.csv").find("another name") != std::string::npos);
  CHECK(contents(dir / "a/table.csv").find("another name") == std::string::npos);
}

TEST_CASE("A model may be trained otherwise than the others: another run") {
  folder const dir;
  auto const how = settings(dir.path);
  auto other = how.training;
  other.routing.balance.expert = 0.5;
  fg::study study(text(), how, nullptr);
  study.add<tiny<base>>("a");
  study.add<tiny<base>>("b", other);
  study.add<tiny<base>>("c", how.training);
  auto const models = study.results().models;
  CHECK(models[0].model.runs != models[1].model.runs);
  CHECK(models[0].model.runs == models[2].model.runs);
  study.add<tiny<base>>("d", how.training, fg::adamw{.lr = 2e-2});
  study.add<tiny<base>>("e", how.training, how.optimizer);
  CHECK(study.results().models[3].model.runs != models[0].model.runs);
  CHECK(study.results().models[4].model.runs == models[0].model.runs);
  REQUIRE(study.run());
  CHECK(study.results().of("a").validation != study.results().of("b").validation);
  CHECK(study.results().of("a").validation != study.results().of("d").validation);

  // The same as a study whose optimiser is so for all.
  folder const apart;
  auto faster = settings(apart.path);
  faster.optimizer = {.lr = 2e-2};
  fg::study alone(text(), faster, nullptr);
  alone.add<tiny<base>>("d");
  CHECK(alone.results().of("d").model.runs == study.results().of("d").model.runs);
}

TEST_CASE("A model may have other steps and batches than the others: those of a study with such") {
  folder const dir;
  auto const how = settings(dir / "a");
  fg::study study(text(), how, nullptr);
  auto other = study.settings();
  other.steps = 11, other.sequences = 3, other.evaluations = 4, other.deviation = 0.2;
  study.add<tiny<base>>("usual");
  study.add<tiny<base>>("same", study.settings());
  study.add<tiny<base>>("other", other);
  REQUIRE(study.run());
  auto const all = study.report("Loss");
  CHECK(all.of("same").model.runs == all.of("usual").model.runs);
  CHECK(all.of("usual").tokens.back() == 7 * 2 * 16);
  CHECK(all.of("other").tokens.back() == 11 * 3 * 16);
  CHECK(all.of("other").curve.size() == 5);
  CHECK(fg::means(study.ask("other")) == all.of("other").validation);

  auto apart = settings(dir / "b");
  apart.steps = 11, apart.sequences = 3, apart.evaluations = 4, apart.deviation = 0.2;
  fg::study alone(text(), apart, nullptr);
  alone.add<tiny<base>>("other");
  REQUIRE(alone.run());
  CHECK(alone.results().of("other").model.runs == all.of("other").model.runs);
  CHECK(alone.results().of("other").validation == all.of("other").validation);

  auto const refused = [&](auto change, char const* words) {
    auto none = study.settings();
    change(none);
    CHECK_THROWS_WITH(study.add<tiny<base>>("x", none), ContainsSubstring(words));
  };
  refused([](auto& s) { s.length = 8; }, "the model \"x\": folders, seeds, the length of windows");
  refused([](auto& s) { s.seeds = 1; }, "folders, seeds");
  refused([](auto& s) { s.validation = 2; }, "how many validate");
  refused([](auto& s) { s.out = "c"; }, "folders, seeds");
  refused([](auto& s) { s.steps = 0; }, "the model \"x\": a study needs at least one step");
}

TEST_CASE("A model that cannot be trained as it is to be is refused as it is added") {
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  auto const refused = [&](fg::training const& how, char const* words) {
    CHECK_THROWS_WITH(study.add<tiny<base>>("a", how), ContainsSubstring(words));
  };
  refused({.schedule = {.decay = fg::decay::cosine}}, "needs more steps");
  refused({.clip = -1}, "the norm to cut gradients to");
  refused({.clip = std::numeric_limits<double>::infinity()}, "must be a finite number");
  refused({.bias = {.speed = 0.1}}, "no router here has selection biases");
  refused({.routing = {.top_k = 99}}, "a token can be sent to");
  refused({.routing = {.jitter = 0.1}}, "jitter");
  refused({.groups = {{"nothing"}}}, "the model \"a\": no weight that is trained has a name like");
  CHECK_THROWS_AS(study.add<tiny<base>>("a", {}, fg::adamw{.lr = -1}), fg::invalid_argument);
  CHECK_NOTHROW(study.add<tiny<base>>("a"));
}

TEST_CASE("A study has one model of each name, and none without") {
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<tiny<base>>("a");
  CHECK_THROWS_WITH(
      study.add<tiny<base.segmented(2)>>("a"),
      "a study has one model of each name, which is not empty: \"a\" cannot be added");
  CHECK_THROWS_AS(study.add<tiny<base>>(""), fg::invalid_argument);
  CHECK(study.results().models.size() == 1);
}

TEST_CASE("A run's weights can be loaded and asked what no request asks") {
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<tiny<base>>("a");
  REQUIRE(study.run());
  for (int seed = 0; seed < 2; ++seed) {
    tiny<base> net;
    fg::load_weights(net, study.weights_file("a", seed));
    fg::windows some;
    text().validate(0, 4, 4, 16, some);
    double const nats = fg::trainer{net}.evaluate(some.batch(), some.y);
    CHECK(nats / std::numbers::ln2 ==
          Approx(study.results().of("a").validation[std::size_t(seed)]));
  }
  CHECK_THROWS_WITH(study.weights_file("a", 2), "the study has seeds 0 to 1, not 2");
  CHECK_THROWS_AS(study.weights_file("no such"), fg::invalid_argument);
}

TEST_CASE("Trained models are asked at fixed weights, and what they said is kept") {
  folder const dir;
  std::vector<fg::answer> before;
  for (int time = 0; time < 2; ++time) {
    fg::study study(text(), settings(dir.path), nullptr);
    study.add<tiny<base>>("a");
    if (time == 0) CHECK_THROWS_WITH(study.ask("a"), ContainsSubstring("not trained yet"));
    REQUIRE(study.run());
    auto const all = study.ask("a");
    CHECK(fg::means(all) == study.results().of("a").validation);
    CHECK(all[0].total_load() == study.results().of("a").load);
    auto const one = study.ask("a", {.top_k = 1});
    CHECK(fg::means(one) != fg::means(all));
    CHECK(fg::means(study.ask("a", {}, false)) != fg::means(all));
    CHECK(study.routers("a")[0].size() == 4);
    CHECK_THROWS_AS(study.ask("no such"), fg::invalid_argument);
    CHECK_THROWS_AS(study.ask("a", {.top_k = 9}), fg::invalid_argument);
    if (time == 1) CHECK(fg::means(before) == fg::means(one));
    before = one;
  }
  auto const asked = contents(dir / "asked.jsonl");
  CHECK(std::count(asked.begin(), asked.end(), '\n') == 3 * 2);
}

TEST_CASE("A model whose experts a token follow a rule is asked as it was measured") {
  struct one_expert : fg::training_rule {
    void set(std::int64_t, fg::adamw&, fg::training& how) const override { how.routing.top_k = 1; }
    std::string settings() const override { return "one expert a token"; }
  } const rule;
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<tiny<base>>("one", {.rule = &rule});
  REQUIRE(study.run());
  CHECK(fg::means(study.ask("one")) == study.results().of("one").validation);
  CHECK(study.results().of("one").experts == std::vector<double>{1, 1});
  CHECK_THAT(study.results().summary().csv(), ContainsSubstring(",experts/token,"));
  CHECK(study.results().of("one").model.routers == std::vector<std::string>{"router 0"});
}

TEST_CASE("A mixture's texts are validated one by one") {
  folder const dir;
  std::string const other(6000, 'z');
  auto const mixed = fg::corpus::mixture({"lines", "z"}, {text().text(), other});
  auto how = settings(dir.path);
  how.validation = 5;  // and so 2 of each
  fg::study study(mixed, how, nullptr);
  study.add<tiny<base>>("a");
  REQUIRE(study.run());
  auto const answers = study.ask("a");
  REQUIRE(answers.size() == 2);
  CHECK(answers[0].bits.size() == 2);
  CHECK(answers[0].bits[1] < answers[0].bits[0]);  // a text of one letter is easy
  CHECK(fg::means(answers) == study.results().of("a").validation);
  auto const counts = answers[0].by_domain(0);
  REQUIRE(counts.size() == 2);
  for (auto const& row : counts) {
    double sum = 0;
    for (double n : row) sum += n;
    CHECK(sum == 2 * 2 * 16);
  }
}

TEST_CASE("A text that is divided otherwise is asked again, in its new parts") {
  folder const dir;
  std::string const all(text().text().substr(0, text().text().size() / 32 * 32));
  std::string_view const whole = all, half = whole.substr(0, all.size() / 2);
  auto const ask = [&](fg::corpus const& of) {
    auto how = settings(dir.path);
    how.validation = 16;
    fg::study study(of, how, nullptr);
    study.add<tiny<base>>("a");
    REQUIRE(study.run());
    return study.ask("a")[0].bits.size();
  };
  CHECK(ask(fg::corpus(all)) == 1);
  CHECK(ask(fg::corpus::mixture({"a", "b"}, {half, whole.substr(half.size())})) == 2);
  CHECK(ask(fg::corpus(all)) == 1);
}

TEST_CASE("A text of token ids is learnt as its bytes are, and its losses are of tokens") {
  folder const dir;
  fg::study bytes(text(), settings(dir / "bytes"), nullptr);
  bytes.add<tiny<base>>("a");
  REQUIRE(bytes.run());
  auto const ids_of = [&](int more) {
    std::vector<std::int32_t> ids;
    for (char c : text().text()) ids.push_back(static_cast<unsigned char>(c) + more);
    return ids;
  };
  fg::corpus const same(ids_of(0), 256), wider(ids_of(44), 300);
  fg::study tokens(same, settings(dir / "tokens"), nullptr);
  tokens.add<tiny<base>>("a");
  REQUIRE(tokens.run());
  CHECK(tokens.results().of("a").validation == bytes.results().of("a").validation);
  CHECK(tokens.results().of("a").model.runs != bytes.results().of("a").model.runs);
  CHECK(tokens.results().summary().csv().starts_with("model,bits/token,"));
  CHECK(bytes.results().summary().csv().starts_with("model,bits/byte,"));
  CHECK_THROWS_WITH(tokens.sample("line", 5), ContainsSubstring("generate from weights_file()"));

  fg::study more(wider, settings(dir / "more"), nullptr);
  CHECK_THROWS_WITH(more.add<tiny<base>>("a"),
                    "a model of 256 logits cannot learn a text of 300 different tokens");
  more.add<fg::network<wide_reader, fg::basic_reference<float>>>("wide");
  REQUIRE(more.run());
  CHECK(more.results().of("wide").validation.size() == 2);
}

TEST_CASE("A study samples from its best model, the same for the same seed") {
  folder const dir;
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<tiny<base>>("a");
  CHECK(study.sample("line", 5).empty());
  REQUIRE(study.run());
  CHECK(study.sample("line", 20, {.temperature = 1}).size() == 24);
  CHECK(study.sample("line", 20, {.temperature = 1}) ==
        study.sample("line", 20, {.temperature = 1}));
}

TEST_CASE("A model whose loss is no number is not the best") {
  folder const dir;
  auto const sample = [&](bool both) {
    fg::study study(text(), settings(dir.path), nullptr);
    if (both) study.add<tiny<base>>("lost", settings({}).training, fg::adamw{.lr = 1e30});
    study.add<tiny<base>>("a");
    REQUIRE(study.run());
    if (both) CHECK(std::isnan(study.results().of("lost").validation.at(0)));
    return study.sample("line", 20);
  };
  auto const alone = sample(false);
  CHECK(alone.size() == 24);
  CHECK(sample(true) == alone);
}

/// Interrupts training at its third pass.
struct interrupting : fg::balance_rule {
  mutable int calls = 0;
  std::string settings() const override { return "at the third pass"; }
  void factors(std::span<double const>, std::span<double> factors) const override {
    std::fill(factors.begin(), factors.end(), 0.0);
    if (++calls == 3) std::raise(SIGINT);
  }
};

TEST_CASE("A model whose training was interrupted is not asked before it is trained") {
  folder const dir;
  interrupting const rule;
  fg::training how = settings({}).training;
  how.routing.balance.rule = &rule;
  fg::study study(text(), settings(dir.path), nullptr);
  study.add<tiny<base>>("a", how);
  REQUIRE(!study.run());
  CHECK_THROWS_WITH(study.ask("a"), ContainsSubstring("not trained yet"));
  CHECK_THROWS_WITH(study.routers("a"), ContainsSubstring("not trained yet"));
  CHECK(study.ask("a", {}, false).size() == 2);
  REQUIRE(study.run());
  CHECK(study.ask("a").size() == 2);
}

TEST_CASE(
    "A study that is interrupted in its last evaluation is done, and says that it is to stop") {
  folder const dir;
  auto how = settings(dir.path);
  how.seeds = 1;
  int evaluations = 0;
  fg::study study(text(), how, nullptr);
  study.add<tiny<base>>("a").measure("evaluations", [&](tiny<base>&) {
    if (++evaluations == 4) std::raise(SIGINT);
    return double(evaluations);
  });
  CHECK(!study.run());
  CHECK(evaluations == 4);
  CHECK(study.ask("a").size() == 1);
  CHECK(study.run());
  CHECK(evaluations == 4);
}

TEST_CASE("A study keeps its text, whatever becomes of the one that it was given") {
  folder const dir;
  fg::corpus given = text();
  fg::study study(given, settings(dir.path), nullptr);
  given = fg::corpus("short");
  fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) { study.add<tiny<C>>(fg::rung_name(C)); });
  CHECK(study.run());
  CHECK(bits_of(dir) == uninterrupted());
}

TEST_CASE("A folder belongs to one study at a time, and what cannot be done is said") {
  folder const dir;
  fg::study const first(text(), settings(dir.path), nullptr);
  CHECK_THROWS_AS(fg::study(text(), settings(dir.path), nullptr), fg::file_error);
  CHECK_THROWS_AS(fg::study(fg::corpus("short"), settings(dir / "b"), nullptr),
                  fg::invalid_argument);
  put(dir / "file", "");
  CHECK_THROWS_AS(fg::study(text(), settings(dir / "file/x"), nullptr), fg::file_error);
  auto none = settings(dir / "c");
  none.steps = 0;
  CHECK_THROWS_AS(fg::study(text(), none, nullptr), fg::invalid_argument);
}

TEST_CASE(
    "what a user measures stands in the log, the values and a picture, also of resumed runs") {
  folder const dir;
  using network = tiny<base>;
  auto const largest = [](network& net) {
    double most = 0;
    for (float w : net.parameters()) most = std::max(most, double(std::abs(w)));
    return most;
  };
  auto const made = [&](int seeds) {
    auto how = settings(dir.path);
    how.seeds = seeds;
    auto study = std::make_unique<fg::study>(text(), how, nullptr);
    study->add<network>("measured").measure("largest", largest).measure("steps", [](network&) {
      return 1.0;
    });
    study->add<tiny<base.segmented(2)>>("plain");
    return study;
  };
  REQUIRE(made(1)->run());  // and the second seed is another day's
  auto const study = made(2);
  REQUIRE(study->run());

  fg::study_results const all = study->report("Loss");
  fg::model_results const& m = all.of("measured");
  REQUIRE(m.measured_as("largest"));
  CHECK(all.of("plain").measured_as("largest") == nullptr);
  auto const names = all.measured();
  REQUIRE(names.size() > 2);
  CHECK(std::vector(names.end() - 2, names.end()) == std::vector<std::string>{"largest", "steps"});
  fg::number_table const& largest_of = *m.measured_as("largest");
  REQUIRE(largest_of.size() == m.tokens.size());
  for (int seed = 0; seed < 2; ++seed) {
    network net;
    fg::load_weights(net, study->weights_file("measured", seed));
    CHECK(largest_of.back()[std::size_t(seed)] == largest(net));
  }
  std::string const values = contents(dir / "values.csv");
  CHECK_THAT(values, ContainsSubstring(",dropped,largest,steps\nmeasured,0,0,"));
  CHECK_THAT(values, ContainsSubstring(",1\nmeasured,"));
  CHECK_THAT(values, ContainsSubstring(",,\nplain,"));
  CHECK_THAT(all.measured_over_training("largest", "Weights"), ContainsSubstring("Weights"));
}

TEST_CASE("a measurement needs a name of its own, and tells nothing of runs that are done") {
  folder const dir;
  fg::study late(text(), settings(dir.path), nullptr);
  auto model = late.add<tiny<base>>("model");
  REQUIRE(late.run());
  model.measure("late", [](tiny<base>&) { return 1.0; });
  CHECK_THROWS_WITH(model.measure("late", {}), ContainsSubstring("one measurement of each name"));
  CHECK_THROWS_WITH(model.measure("", {}), ContainsSubstring("one measurement of each name"));
  fg::study_results const all = late.results();
  for (auto const& place : *all.of("model").measured_as("late"))
    for (double const value : place) CHECK(std::isnan(value));
  CHECK(!fg::study_results(all).values().csv().empty());
}

TEST_CASE("a model is trained down a loss of a user's own, and measured by the cross-entropy") {
  folder const dir;
  int made = 0;
  auto const entropy = [&](fg::windows const& w) {
    ++made;
    return
        [&w](auto const& on, std::int64_t first, fg::matrix<float const> y, fg::matrix<float> dy) {
          auto const mine = std::span(w.y).subspan(std::size_t(first), std::size_t(y.rows));
          return cross_entropy(on, y, mine, 1, dy);
        };
  };
  auto const flat = [](fg::windows const&) {
    return [](auto const&, std::int64_t, fg::matrix<float const>, fg::matrix<float>) { return 7; };
  };
  auto how = settings(dir.path);
  how.training = {};
  auto const studied = [&](std::string const& name) {
    auto study = std::make_unique<fg::study>(text(), how, nullptr);
    study->add<tiny<base>>("plain");
    study->add<tiny<base>>("own").loss(name, entropy);
    study->add<tiny<base>>("flat").loss("none", flat);
    return study;
  };
  {
    auto const study = studied("entropy");
    REQUIRE(study->run());
    CHECK(made == 14);
    auto const all = study->results();
    CHECK(all.of("own").validation == all.of("plain").validation);
    CHECK(all.of("flat").validation != all.of("plain").validation);
    CHECK(all.of("flat").validation[0] == Approx(8).margin(0.2));  // bits, not the 7 of its loss
    CHECK(study->weights_file("own") != study->weights_file("plain"));
    CHECK_THROWS_WITH(study->add<tiny<base>>("silent").loss("", flat),
                      ContainsSubstring("the model \"silent\": your own loss must say in its "
                                        "settings what it holds"));
    CHECK_THROWS_WITH(study->add<tiny<base>>("two").loss("a", flat).loss("b", flat),
                      "the model \"two\" has its own loss already");
  }
  REQUIRE(studied("entropy")->run());
  CHECK(made == 14);  // nothing is done twice
  REQUIRE(studied("entropy, version 2")->run());
  CHECK(made == 28);
}
