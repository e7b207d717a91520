// study_run: a model trained from one seed. Start, steps, evaluations, log, checkpoints, resuming.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

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

/// A model of a study, and how its runs are trained.
struct trainable_model : studied_model {
  std::function<std::unique_ptr<learner>(std::uint64_t seed)> make;  // at the seed's first weights
  study_settings how;
  std::string base;                             // the settings without
  std::map<std::string, std::string> own = {};  // what the user's own functions hold, by kind

  void name_runs() {
    settings = base;
    for (auto const& [kind, words] : own) settings += kind + " " + words + "\n";
    runs.clear();
    for (int seed = 0; seed < how.seeds; ++seed)
      runs.push_back(text::hex(text::fingerprint(settings + "seed " + std::to_string(seed))));
  }
  std::string const& run(int seed) const { return runs[static_cast<std::size_t>(seed)]; }
  double step_work() const {
    return 3 * double(flops) * double(how.tokens()) + 10 * double(parameters);
  }
};

/// The folder of runs, of any studies: what they measured, and their checkpoints. It belongs to one
/// process at a time.
struct run_pool {
  explicit run_pool(std::string const& path)
      : folder((make_folder(path + "/runs"), path)),
        log(path + "/log.jsonl"),
        times(path + "/time.jsonl"),
        asked(path + "/asked.jsonl") {
    remove_unfinished(path + "/runs");
  }

  std::string checkpoint(std::string const& run) const {
    return folder + "/runs/" + run + ".safetensors";
  }
  /// What a run measured at a step, or null.
  record const* find(std::string const& run, std::int64_t step) const {
    for (record const& r : log.records())
      if (r.text("run") == run && r.number("step") == double(step)) return &r;
    return nullptr;
  }

  std::string folder;
  record_log log, times, asked;
};

/// A run, as it works: made, it stands where its checkpoint does, or before its first step. One that
/// was stopped or killed ends with the bits of one that was not.
class study_run {
 public:
  study_run(trainable_model const& model, int seed, corpus const& text, run_pool& pool,
            progress& tell, time_left& left)
      : model_(model),
        seed_(static_cast<std::uint64_t>(seed)),
        id_(model.run(seed)),
        text_(text),
        pool_(pool),
        progress_(tell),
        left_(left),
        learner_(model.make(seed_)) {
    if (pool_.find(id_, 0) && detail::exists(pool_.checkpoint(id_)) && !resumes())
      learner_ = model.make(seed_);
    left_.skip(model_.step_work() * double(learner_->steps()));
  }

  /// Trains it to its end. False: it was stopped, and saved.
  bool train(interruption const& stop) {
    timer whole, saved;
    for (bool stopped = false;;) {
      if (evaluation_is_due()) evaluate();
      if (learner_->steps() == model_.steps) break;
      if (stopped) return false;
      step();
      stopped = bool(stop);  // looked at once a step, so that what stops it is saved
      if (evaluation_is_due() || stopped || saved.seconds() > 60) {
        save();
        saved.restart();
      }
    }
    say(text::fixed(pool_.find(id_, model_.steps)->number("validation"), 3) + " bits/" +
        text_.unit() + " after " + std::to_string(model_.steps) + " steps, " +
        text::duration(whole.seconds()));
    return true;
  }

 private:
  bool evaluation_is_due() const { return model_.how.evaluates_at(learner_->steps()); }

  void save() {
    learner_->save(pool_.checkpoint(id_), since_.line().set("adapted", learner_->adapted()).line());
  }
  /// Loads what save() saved. False: the run cannot go on from that.
  bool resumes() {
    learner_->load(pool_.checkpoint(id_));
    safetensors_file const file(pool_.checkpoint(id_));
    std::string const* const note = file.metadata("note");
    auto const kept = note ? record::parse(*note) : std::nullopt;
    if (!kept || !log_is_whole() || !learner_->adapt(kept->numbers("adapted"))) return false;
    since_ = training_means(*kept);
    return true;
  }
  /// A machine that crashed may have kept the checkpoint and lost lines of the log before it.
  bool log_is_whole() const {
    for (std::int64_t step = 0; step < learner_->steps(); ++step)
      if (model_.how.evaluates_at(step) && !pool_.find(id_, step)) return false;
    return true;
  }

  void step() {
    timer const clock;
    text_.draw(seed_, learner_->steps(), model_.how.sequences, model_.how.length, batch_);
    step_report const report = learner_->step(batch_);
    tokens_ += double(report.tokens);
    seconds_ += clock.seconds();
    since_.add(report, learner_->step_log());
    show(report.loss);
  }

  /// Logs the evaluation of this step, if it was not logged before the run was stopped.
  void evaluate() {
    if (!pool_.find(id_, learner_->steps())) {
      pool_.log.append(measured());
      if (tokens_ > 0)
        pool_.times.append(
            record().set("run", id_).set("tokens", tokens_).set("seconds", seconds_));
      if (since_.skipped() > 0)
        say(text::shortest(since_.skipped()) + " of " + text::shortest(since_.steps()) +
            " steps up to step " + std::to_string(learner_->steps()) +
            " had no finite gradient, and changed nothing");
    }
    tokens_ = seconds_ = 0;
    since_ = {};
  }
  record measured() const {
    std::int64_t const steps = learner_->steps();
    answer const a = validate(*learner_, text_, model_.how);
    record r;
    r.set("run", id_).set("model", model_.name).set("seed", double(seed_));
    r.set("step", double(steps)).set("tokens", double(steps * model_.how.tokens()));
    r.set("validation", a.mean()).set_rows("load", a.total_load());
    std::vector<double> const own = learner_->measured();
    std::size_t const others = model_.measured.size() - own.size();
    if (since_.steps() > 0) {
      std::vector<double> const trained = since_.values();
      for (std::size_t i = 0; i < others; ++i) r.set("measured." + model_.measured[i], trained[i]);
    }
    for (std::size_t i = 0; i < own.size(); ++i)
      r.set("measured." + model_.measured[others + i], own[i]);
    return r;
  }

  std::string name() const {
    return model_.name + (model_.how.seeds > 1 ? " seed " + std::to_string(seed_) : "");
  }
  void say(std::string const& sentence) { progress_.say(name() + ": " + sentence); }
  void show(double loss) {
    left_.done(model_.step_work());
    std::string const learned =
        model_.own.contains("loss")
            ? "loss " + text::fixed(loss, 2)
            : text::fixed(loss / std::numbers::ln2, 2) + " bits/" + text_.unit();
    progress_.show(name() + "  step " + std::to_string(learner_->steps()) + "/" +
                   std::to_string(model_.steps) + "  " + learned + "  " +
                   text::rounded(tokens_ / seconds_) + " tokens/s  " +
                   text::duration(left_.seconds()) + " left");
  }

  trainable_model const& model_;
  std::uint64_t seed_;
  std::string const& id_;
  corpus const& text_;
  run_pool& pool_;
  progress& progress_;
  time_left& left_;
  std::unique_ptr<learner> learner_;
  windows batch_;
  training_means since_;             // the last evaluation,
  double tokens_ = 0, seconds_ = 0;  // and in this process
};

}  // namespace finegrain::inline FINEGRAIN_ABI
