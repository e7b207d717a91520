// study: an ablation. Models times seeds, trained on the same text in the same order, and resumed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/random.hpp"
#include "../expr/describe.hpp"
#include "../io/atomic_file.hpp"
#include "../io/safetensors.hpp"
#include "corpus.hpp"
#include "folder.hpp"
#include "interrupt.hpp"
#include "jsonl.hpp"
#include "learner.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "settings.hpp"
#include "training_means.hpp"
#include "validation.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The paper's name for a mixture: 1+7/63 has one shared expert, and sends a token to 7 of 63.
inline std::string rung_name(config const& c) {
  return std::to_string(c.shared) + "+" + std::to_string(c.top_k) + "/" + std::to_string(c.routed);
}

/// Models times paired seeds:
///
///   study s(text, {.out = "out/ladder", .seeds = 3});
///   for_each(ladder{}, [&]<config C>(at<C>) { s.add<network<model<C>, cpu>>(rung_name(C)); });
///   if (s.run()) s.report("Validation loss");
///
/// What a run is (model, settings, seed, text, version) makes its id. log.jsonl holds what is the
/// same whenever it is run; times stand apart, in time.jsonl, and what trained models are asked, in
/// asked.jsonl. Runs that the log shows complete are not run again; one that was stopped, by Ctrl-C
/// or by a kill, goes on from its last checkpoint and ends with the bits of one that was not.
/// Studies that name the same pool share its runs: a model that two of them have is trained once.
class study {
 public:
  /// It tells how it goes on `tell`, or not at all if that is null. Throws file_error when another
  /// process works in the folder, and invalid_argument when the text is too short.
  study(corpus const& text, study_settings settings, std::FILE* tell = stderr)
      : text_(text),
        settings_(std::move(settings)),
        text_hash_(text::hex(text.fingerprint())),
        log_((prepare_folders(), settings_.pool + "/log.jsonl")),
        times_(settings_.pool + "/time.jsonl"),
        asked_(settings_.pool + "/asked.jsonl"),
        progress_(tell) {
    check(settings_);
    settings_.validation =
        std::min(settings_.validation, text_.validation_windows(settings_.length));
    std::int64_t const texts = text_.texts();
    settings_.validation = std::max(settings_.validation / texts, std::int64_t{1}) * texts;
    remove_unfinished(settings_.pool + "/runs");
  }

  template <class Network>
  class added;

  /// A model: a network from the text's tokens to logits over them, by a name of its own. Throws
  /// invalid_argument.
  template <class Network>
  added<Network> add(std::string name, typename Network::executor on = {}) {
    return add<Network>(std::move(name), settings_.training, on);
  }
  /// The same, trained as `how` says in place of the study's settings.
  template <class Network>
  added<Network> add(std::string name, training const& how, typename Network::executor on = {}) {
    return add<Network>(std::move(name), how, settings_.optimizer, on);
  }
  /// And with an optimiser of its own.
  template <class Network>
  added<Network> add(std::string name, training const& how, adamw const& optimizer,
                     typename Network::executor on = {}) {
    study_settings own = settings_;
    own.training = how;
    own.optimizer = optimizer;
    return add<Network>(std::move(name), own, on);
  }
  /// With settings() changed for this model: it may have other steps, sequences, evaluations and first
  /// weights too. It is a run of a study with such settings, so the windows that validate it, which
  /// are the others', come in batches of its own `sequences`: where a router compares the tokens of a
  /// batch, as expert choice does, it compares others than in the other models.
  template <class Network>
  added<Network> add(std::string name, study_settings const& own,
                     typename Network::executor on = {}) {
    using E = typename Network::expression;
    if (Network::out != text_.vocabulary())
      throw invalid_argument("a model of %lld logits cannot learn a text of %d different tokens",
                             detail::shown(Network::out), text_.vocabulary());
    if (name.empty() || entry_called(name))
      throw invalid_argument(
          "a study has one model of each name, which is not empty: \"%.200s\" cannot be added",
          name.c_str());
    std::string const settings = about(name, [&] {
      check(own);
      if (own.out != settings_.out || own.pool != settings_.pool || own.seeds != settings_.seeds ||
          own.length != settings_.length || own.validation != settings_.validation)
        throw invalid_argument(
            "folders, seeds, the length of windows and how many validate are a study's, for all "
            "models: a model's settings are those of study.settings(), changed otherwise");
      learner_of<Network>::check(own.optimizer, own.training);
      return settings_text(own, own.training);
    });
    bool const mixed = extent_on(on, 1, true).kept == format::bf16;
    studied_model m{.name = std::move(name),
                    .parameters = parameters(E{}),
                    .active = active_parameters(E{}),
                    .flops = flops(E{}, settings_.length) / settings_.length,
                    .steps = own.steps,
                    .settings = describe(E{}) + full_name<Network>() + "\nmixed precision " +
                                (mixed ? "1" : "0") + settings + "\ntext " + text_hash_ +
                                "\nversion " FINEGRAIN_VERSION "\n",
                    .runs = {},
                    .measured = training_means::names(Network::make_log().layers.size()),
                    .routers = router_names(list_weights<E>()),
                    .top_k = mean_top_k<E>(),
                    .validated = settings_.validation * settings_.length};
    name_runs(m);
    auto const own_to_run = std::make_shared<own_functions<Network>>();
    std::string const base = m.settings;
    models_.push_back({std::move(m),
                       [own, on, own_to_run](std::uint64_t seed) -> std::unique_ptr<learner> {
                         training of_run = own.training;
                         of_run.routing.seed = random_word(own.training.routing.seed, seed);
                         return std::make_unique<learner_of<Network>>(
                             initialisation{own.deviation, seed, own.by_inputs}, on, own.optimizer,
                             of_run, own_to_run);
                       },
                       own, base});
    return {*this, own_to_run};
  }
  template <Expr E, class... A>
  void add(std::string const&, A const&...) {
    static_assert(detail::never<E>,
                  "study: a model is a network, not an expression: add<network<E, cpu>>(name)");
  }
  study_settings const& settings() const { return settings_; }
  /// The names of a mixture's texts.
  std::vector<std::string> const& domains() const { return text_.domains(); }

  /// A height to compare with, in the table and in the picture.
  void compare(std::string name, double bits) { levels_.push_back({std::move(name), bits}); }

  /// Runs what is not done yet. False: it was interrupted, and everything is saved.
  bool run() {
    interruption const stop;
    left_ = {};
    for (entry const& e : models_)
      for (int seed = 0; seed < settings_.seeds; ++seed)
        if (!end_of(e, seed)) left_.expect(step_work(e) * double(e.steps));
    auto const train_all = [&] {
      for (entry const& e : models_)
        for (int seed = 0; seed < settings_.seeds; ++seed)
          if (!end_of(e, seed))
            if (stop || !about(e.name, [&] { return train(e, seed, stop); })) return false;
      return !stop;  // in the last evaluation, too, it is not for what the program does next
    };
    if (train_all()) return true;
    progress_.say("stopped, and saved in " + settings_.pool +
                  "; the same command goes on from here");
    return false;
  }

  /// What the log holds on the models and runs of this study.
  study_results results() const {
    std::vector<studied_model> models;
    for (entry const& e : models_) models.push_back(e);
    return gather(models, log_.records(), times_.records(), levels_, text_.unit());
  }
  /// Writes table.md, table.tex, table.csv, curves.svg, load.svg, and values.csv for other programs.
  study_results report(std::string const& title) const {
    study_results const all = results();
    auto const write = [&](char const* name, std::string const& content) {
      write_atomically(settings_.out + "/" + name, content);
    };
    table const t = all.summary();
    write("table.md", t.markdown());
    write("table.tex", t.latex());
    write("table.csv", t.csv());
    write("values.csv", all.values().csv());
    write("curves.svg", all.curves(title));
    write("load.svg", all.load());
    return all;
  }

  /// How a model does, at the weights of its trained runs, under a request to its routers: an answer
  /// a seed. Untrained: at the weights that training started from. It asks whatever weights there
  /// are, those of a run without a result too. Throws invalid_argument where training is not at its
  /// end.
  std::vector<answer> ask(std::string const& model, routing_request const& how = {},
                          bool trained = true) {
    entry const& e = entry_of(model);
    std::string const question = request_text(how) + (trained ? "" : "\nuntrained");
    std::vector<answer> all;
    for (int seed = 0; seed < settings_.seeds; ++seed) {
      record const* known = nullptr;
      for (record const& r : asked_.records())
        if (r.text("run") == run_of(e, seed) && r.text("request") == question &&
            std::ssize(r.numbers("bits")) == text_.texts())  // equal tokens, divided otherwise
          known = &r;
      if (!known) {
        asked_.append(validate(*made(e, seed, trained), text_, e.how, how)
                          .line(record().set("run", run_of(e, seed)).set("request", question)));
        known = &asked_.records().back();
      }
      all.push_back(answer(*known));
    }
    return all;
  }
  /// The file of a run's weights, once it is trained, for what no request asks: load_weights(net, file).
  std::string weights_file(std::string const& model, int seed = 0) const {
    if (seed < 0 || seed >= settings_.seeds)
      throw invalid_argument("the study has seeds 0 to %d, not %d", settings_.seeds - 1, seed);
    return checkpoint_of(run_of(entry_of(model), seed));
  }
  /// The rows of a trained model's routers, of the first seed: [layer][expert][hidden]. They are the
  /// weights called .router; routers of one's own, mixture<C, Router>, have none.
  std::vector<number_table> routers(std::string const& model) const {
    return made(entry_of(model), 0, true)->routers();
  }

  /// A prompt, and what the best model (of the first seed) writes after it; nothing where none has a
  /// result. Throws invalid_argument where tokens are not bytes.
  std::string sample(std::string const& prompt, std::int64_t bytes, sampling how = {}) {
    if (text_.text().empty())
      throw invalid_argument(
          "a study samples bytes: of other tokens, generate from weights_file()");
    entry const* best = nullptr;
    double least = std::numeric_limits<double>::infinity();  // NaN is none
    for (entry const& e : models_)
      if (record const* r = end_of(e, 0))
        if (double const bits = result_of(*r); bits < least) best = &e, least = bits;
    if (!best) return {};
    auto const model = made(*best, 0, true);
    // A model knows places up to the length that it was trained on: it sees the last half of that
    // at most, and writes on for as long.
    std::int64_t const half = std::max<std::int64_t>(1, settings_.length / 2);
    std::string text = prompt;
    for (std::int64_t left = bytes; left > 0; left -= half, ++how.seed)
      model->write(text, half, std::min(left, half), how);
    return text;
  }

 private:
  struct entry : studied_model {
    std::function<std::unique_ptr<learner>(std::uint64_t seed)> make;
    study_settings how;
    std::string base;                             // the settings without
    std::map<std::string, std::string> own = {};  // what the user's own functions hold, by kind
  };
  /// What f() returns; if its arguments do not fit, the sentence begins with the model's name.
  template <class F>
  static std::invoke_result_t<F> about(std::string const& model, F const& f) {
    try {
      return f();
    } catch (invalid_argument const& e) {
      throw invalid_argument("the model \"%.200s\": %s", model.c_str(), e.what());
    }
  }

  /// Training since the last evaluation.
  struct pace {
    double tokens = 0, seconds = 0;
    record line(std::string const& run) const {
      return record().set("run", run).set("tokens", tokens).set("seconds", seconds);
    }
  };

  void name_runs(studied_model& m) const {
    m.runs.clear();
    for (int seed = 0; seed < settings_.seeds; ++seed)
      m.runs.push_back(text::hex(text::fingerprint(m.settings + "seed " + std::to_string(seed))));
  }
  static std::string const& run_of(entry const& e, int seed) {
    return e.runs[static_cast<std::size_t>(seed)];
  }
  std::string checkpoint_of(std::string const& run) const {
    return settings_.pool + "/runs/" + run + ".safetensors";
  }

  /// What a network's type adds to that which decides a run's bits: its whole name.
  template <class Network>
  static std::string full_name() {
    return __PRETTY_FUNCTION__;
  }
  template <Expr E>
  static double mean_top_k() {
    auto const& routers = detail::router_configs<E>::list;
    double sum = 0;
    for (config const* c : routers) sum += c->top_k;
    return sum / std::max(1.0, static_cast<double>(routers.size()));
  }
  entry const* entry_called(std::string const& model) const {
    for (entry const& e : models_)
      if (e.name == model) return &e;
    return nullptr;
  }
  entry const& entry_of(std::string const& model) const {
    if (entry const* const e = entry_called(model)) return *e;
    throw invalid_argument("the study has no model named \"%.200s\"", model.c_str());
  }
  std::unique_ptr<learner> made(entry const& e, int seed, bool trained) const {
    if (trained && !end_of(e, seed))
      throw invalid_argument("the model \"%.200s\" is not trained yet: run() does it",
                             e.name.c_str());
    auto model = e.make(static_cast<std::uint64_t>(seed));
    if (trained) model->load(checkpoint_of(run_of(e, seed)));
    return model;
  }

  /// One run, from where its checkpoint stands. False: it was stopped, and saved.
  bool train(entry const& e, int seed, interruption const& stop) {
    std::string const& run = run_of(e, seed);
    auto const start = static_cast<std::uint64_t>(seed);
    auto model = e.make(start);
    training_means since;  // the last evaluation
    if (find(run, 0) && detail::exists(checkpoint_of(run))) {
      model->load(checkpoint_of(run));
      auto const kept = note_of(run);
      // A machine that crashed may have kept the checkpoint and lost lines of the log before it.
      if (kept && measured_before(e, seed, model->steps()) &&
          model->adapt(kept->numbers("adapted"))) {
        since = training_means(*kept);
      } else {
        model = e.make(start);
      }
    }
    left_.skip(step_work(e) * double(model->steps()));

    windows batch;
    timer whole, saved;
    bool stopped = false;  // looked at once a step, so that what stops it is saved
    for (pace speed;;) {
      if (e.how.evaluates_at(model->steps())) {
        if (!find(run, model->steps())) {
          log_.append(measure(*model, e, seed, since));
          if (speed.tokens > 0) times_.append(speed.line(run));
          warn(e, seed, model->steps(), since);
        }
        speed = {}, since = {};
      }
      if (model->steps() == e.steps) break;
      if (stopped) return false;

      timer const step;
      text_.draw(start, model->steps(), e.how.sequences, e.how.length, batch);
      step_report const report = model->step(batch);
      speed.tokens += double(report.tokens);
      speed.seconds += step.seconds();
      since.add(report, model->step_log());
      tell(e, seed, model->steps(), report.loss, speed);
      stopped = bool(stop);
      if (e.how.evaluates_at(model->steps()) || stopped || saved.seconds() > 60) {
        model->save(checkpoint_of(run), since.line().set("adapted", model->adapted()).line());
        saved.restart();
      }
    }
    progress_.say(e.name + seed_text(seed) + ": " +
                  text::fixed(end_of(e, seed)->number("validation"), 3) + " bits/" + text_.unit() +
                  " after " + std::to_string(e.steps) + " steps, " +
                  text::duration(whole.seconds()));
    return true;
  }

  record measure(learner& model, entry const& e, int seed, training_means const& since) const {
    answer const a = validate(model, text_, e.how);
    record r;
    r.set("run", run_of(e, seed)).set("model", e.name).set("seed", double(seed));
    r.set("step", double(model.steps())).set("tokens", double(model.steps() * e.how.tokens()));
    r.set("validation", a.mean()).set_rows("load", a.total_load());
    std::vector<double> const own = model.measured();
    std::size_t const others = e.measured.size() - own.size();
    if (since.steps() > 0) {
      std::vector<double> const trained = since.values();
      for (std::size_t i = 0; i < others; ++i) r.set("measured." + e.measured[i], trained[i]);
    }
    for (std::size_t i = 0; i < own.size(); ++i)
      r.set("measured." + e.measured[others + i], own[i]);
    return r;
  }
  void warn(entry const& e, int seed, std::int64_t step, training_means const& since) {
    if (since.skipped() > 0)
      progress_.say(e.name + seed_text(seed) + ": " + text::shortest(since.skipped()) + " of " +
                    text::shortest(since.steps()) + " steps up to step " + std::to_string(step) +
                    " had no finite gradient, and changed nothing");
  }

  /// What a checkpoint keeps beside the training's state; nothing if that cannot be read.
  std::optional<record> note_of(std::string const& run) const {
    safetensors_file const file(checkpoint_of(run));
    std::string const* const note = file.metadata("note");
    return note ? record::parse(*note) : std::nullopt;
  }

  /// Whether the log has all that a run measures before a step.
  bool measured_before(entry const& e, int seed, std::int64_t step) const {
    for (std::int64_t s = 0; s < step; ++s)
      if (e.how.evaluates_at(s) && !find(run_of(e, seed), s)) return false;
    return true;
  }
  record const* find(std::string const& run, std::int64_t step) const {
    for (record const& r : log_.records())
      if (r.text("run") == run && r.number("step") == double(step)) return &r;
    return nullptr;
  }
  /// What a run measured at its end, or null before.
  record const* end_of(entry const& e, int seed) const { return find(run_of(e, seed), e.steps); }

  double step_work(entry const& e) const {
    return 3 * double(e.flops) * double(e.how.tokens()) + 10 * double(e.parameters);
  }
  std::string seed_text(int seed) const {
    return settings_.seeds > 1 ? " seed " + std::to_string(seed) : std::string();
  }
  void tell(entry const& e, int seed, std::int64_t step, double loss, pace const& speed) {
    left_.done(step_work(e));
    std::string const learned =
        e.own.contains("loss") ? "loss " + text::fixed(loss, 2)
                               : text::fixed(loss / std::numbers::ln2, 2) + " bits/" + text_.unit();
    progress_.show(e.name + seed_text(seed) + "  step " + std::to_string(step) + "/" +
                   std::to_string(e.steps) + "  " + learned + "  " +
                   text::rounded(speed.tokens / speed.seconds) + " tokens/s  " +
                   text::duration(left_.seconds()) + " left");
  }

  static void check(study_settings const& s) {
    if (s.steps < 1 || s.seeds < 1 || s.evaluations < 1)
      throw invalid_argument("a study needs at least one step, one seed and one evaluation");
    if (s.sequences < 1 || s.validation < 1)
      throw invalid_argument("a study needs windows to train on and to validate with");
  }
  void prepare_folders() {
    if (settings_.pool.empty()) settings_.pool = settings_.out;
    make_folder(settings_.out);
    make_folder(settings_.pool + "/runs");
  }

  corpus const& text_;
  study_settings settings_;
  std::string text_hash_;
  record_log log_, times_, asked_;
  std::vector<entry> models_;
  std::vector<picture::level> levels_;
  progress progress_;
  time_left left_;  // of run()
};

}  // namespace finegrain::inline FINEGRAIN_ABI

#include "added.hpp"
