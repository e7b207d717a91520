// study: an ablation. Models times seeds, trained on the same text in the same order, and resumed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../base/random.hpp"
#include "../expr/describe.hpp"
#include "../io/atomic_file.hpp"
#include "corpus.hpp"
#include "folder.hpp"
#include "interrupt.hpp"
#include "jsonl.hpp"
#include "learner.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "run.hpp"
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
  study(corpus text, study_settings settings, std::FILE* tell = stderr)
      : text_(std::move(text)),
        settings_(with_folders(std::move(settings))),
        text_hash_(text::hex(text_.fingerprint())),
        pool_(settings_.pool),
        progress_(tell) {
    check(settings_);
    settings_.validation =
        std::min(settings_.validation, text_.validation_windows(settings_.length));
    std::int64_t const texts = text_.texts();
    settings_.validation = std::max(settings_.validation / texts, std::int64_t{1}) * texts;
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
    if (Network::out != text_.vocabulary())
      throw invalid_argument("a model of %lld logits cannot learn a text of %d different tokens",
                             detail::shown(Network::out), text_.vocabulary());
    if (name.empty() || model_called(name))
      throw invalid_argument(
          "a study has one model of each name, which is not empty: \"%.200s\" cannot be added",
          name.c_str());
    std::string const base = about(name, [&] {
      check_own(own);
      learner_of<Network>::check(own.optimizer, own.training);
      return base_text<Network>(own, on);
    });
    auto const functions = std::make_shared<own_functions<Network>>();
    auto const make = [own, on, functions](std::uint64_t seed) -> std::unique_ptr<learner> {
      training of_run = own.training;
      of_run.routing.seed = random_word(own.training.routing.seed, seed);
      return std::make_unique<learner_of<Network>>(
          initialisation{own.deviation, seed, own.by_inputs}, on, own.optimizer, of_run, functions);
    };
    models_.push_back({studied<Network>(std::move(name), own.steps), make, own, base});
    models_.back().name_runs();
    return {*this, functions};
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
    if (train_all(stop)) return true;
    progress_.say("stopped, and saved in " + pool_.folder + "; the same command goes on from here");
    return false;
  }

  /// What the log holds on the models and runs of this study.
  study_results results() const {
    return gather({models_.begin(), models_.end()}, pool_.log.records(), pool_.times.records(),
                  levels_, text_.unit());
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
    trainable_model const& m = model_of(model);
    std::string const question = request_text(how) + (trained ? "" : "\nuntrained");
    std::vector<answer> all;
    for (int seed = 0; seed < settings_.seeds; ++seed) {
      record const* known = nullptr;
      for (record const& r : pool_.asked.records())
        if (r.text("run") == m.run(seed) && r.text("request") == question &&
            std::ssize(r.numbers("bits")) == text_.texts())  // equal tokens, divided otherwise
          known = &r;
      if (!known) {
        pool_.asked.append(validate(*made(m, seed, trained), text_, m.how, how)
                               .line(record().set("run", m.run(seed)).set("request", question)));
        known = &pool_.asked.records().back();
      }
      all.push_back(answer(*known));
    }
    return all;
  }
  /// The file of a run's weights, once it is trained, for what no request asks: load_weights(net, file).
  std::string weights_file(std::string const& model, int seed = 0) const {
    if (seed < 0 || seed >= settings_.seeds)
      throw invalid_argument("the study has seeds 0 to %d, not %d", settings_.seeds - 1, seed);
    return pool_.checkpoint(model_of(model).run(seed));
  }
  /// The rows of a trained model's routers, of the first seed: [layer][expert][hidden]. They are the
  /// weights called .router; routers of one's own, mixture<C, Router>, have none.
  std::vector<number_table> routers(std::string const& model) const {
    return made(model_of(model), 0, true)->routers();
  }

  /// A prompt, and what the best model (of the first seed) writes after it; nothing where none has a
  /// result. Throws invalid_argument where tokens are not bytes.
  std::string sample(std::string const& prompt, std::int64_t bytes, sampling how = {}) {
    if (text_.text().empty())
      throw invalid_argument(
          "a study samples bytes: of other tokens, generate from weights_file()");
    trainable_model const* best = nullptr;
    double least = std::numeric_limits<double>::infinity();  // NaN is none
    for (trainable_model const& m : models_)
      if (record const* r = end_of(m, 0))
        if (double const bits = result_of(*r); bits < least) best = &m, least = bits;
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
  static study_settings with_folders(study_settings s) {
    if (s.pool.empty()) s.pool = s.out;
    make_folder(s.out);
    return s;
  }
  static void check(study_settings const& s) {
    if (s.steps < 1 || s.seeds < 1 || s.evaluations < 1)
      throw invalid_argument("a study needs at least one step, one seed and one evaluation");
    if (s.sequences < 1 || s.validation < 1)
      throw invalid_argument("a study needs windows to train on and to validate with");
  }
  /// Whether a model's own settings fit the study's.
  void check_own(study_settings const& own) const {
    check(own);
    if (own.out != settings_.out || own.pool != settings_.pool || own.seeds != settings_.seeds ||
        own.length != settings_.length || own.validation != settings_.validation)
      throw invalid_argument(
          "folders, seeds, the length of windows and how many validate are a study's, for all "
          "models: a model's settings are those of study.settings(), changed otherwise");
  }
  /// What f() returns; if its arguments do not fit, the sentence begins with the model's name.
  template <class F>
  static std::invoke_result_t<F> about(std::string const& model, F const& f) {
    try {
      return f();
    } catch (invalid_argument const& e) {
      throw invalid_argument("the model \"%.200s\": %s", model.c_str(), e.what());
    }
  }

  template <class Network>
  studied_model studied(std::string name, std::int64_t steps) const {
    using E = typename Network::expression;
    return {.name = std::move(name),
            .parameters = parameters(E{}),
            .active = active_parameters(E{}),
            .flops = flops(E{}, settings_.length) / settings_.length,
            .steps = steps,
            .measured = training_means::names(Network::make_log().layers.size()),
            .routers = router_names(list_weights<E>()),
            .top_k = mean_top_k<E>(),
            .validated = settings_.validation * settings_.length};
  }
  template <Expr E>
  static double mean_top_k() {
    auto const& routers = detail::router_configs<E>::list;
    double sum = 0;
    for (config const* c : routers) sum += c->top_k;
    return sum / std::max(1.0, static_cast<double>(routers.size()));
  }
  /// All that decides the bits of a model's runs, but its functions of the user's own and the seed.
  template <class Network>
  std::string base_text(study_settings const& own, typename Network::executor const& on) const {
    bool const mixed = extent_on(on, 1, true).kept == format::bf16;
    return describe(typename Network::expression{}) + full_name<Network>() + "\nmixed precision " +
           (mixed ? "1" : "0") + settings_text(own, own.training) + "\ntext " + text_hash_ +
           "\nversion " FINEGRAIN_VERSION "\n";
  }
  /// A network's type by its whole name. This function's is in it too, and so in every run's id.
  template <class Network>
  static std::string full_name() {
    return __PRETTY_FUNCTION__;
  }

  trainable_model const* model_called(std::string const& name) const {
    for (trainable_model const& m : models_)
      if (m.name == name) return &m;
    return nullptr;
  }
  trainable_model const& model_of(std::string const& name) const {
    if (trainable_model const* const m = model_called(name)) return *m;
    throw invalid_argument("the study has no model named \"%.200s\"", name.c_str());
  }
  /// What a run measured at its end, or null before.
  record const* end_of(trainable_model const& m, int seed) const {
    return pool_.find(m.run(seed), m.steps);
  }

  /// False: it was stopped.
  bool train_all(interruption const& stop) {
    time_left left;
    for (trainable_model const& m : models_)
      for (int seed = 0; seed < settings_.seeds; ++seed)
        if (!end_of(m, seed)) left.expect(m.step_work() * double(m.steps));
    for (trainable_model const& m : models_)
      for (int seed = 0; seed < settings_.seeds; ++seed)
        if (!end_of(m, seed))
          if (stop || !about(m.name, [&] {
                return study_run(m, seed, text_, pool_, progress_, left).train(stop);
              }))
            return false;
    return !stop;  // in the last evaluation, too, it is not for what the program does next
  }
  std::unique_ptr<learner> made(trainable_model const& m, int seed, bool trained) const {
    if (trained && !end_of(m, seed))
      throw invalid_argument("the model \"%.200s\" is not trained yet: run() does it",
                             m.name.c_str());
    auto net = m.make(static_cast<std::uint64_t>(seed));
    if (trained) net->load(pool_.checkpoint(m.run(seed)));
    return net;
  }

  corpus text_;
  study_settings settings_;
  std::string text_hash_;
  run_pool pool_;
  std::vector<trainable_model> models_;
  std::vector<picture::level> levels_;
  progress progress_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI

#include "added.hpp"
