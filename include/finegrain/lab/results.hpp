// What a study found: its log gathered into a table and pictures.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../base/math.hpp"
#include "answer.hpp"
#include "claims.hpp"
#include "curves.hpp"
#include "heatmap.hpp"
#include "intervals.hpp"
#include "jsonl.hpp"
#include "routing.hpp"
#include "statistics.hpp"
#include "table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A model of a study: what it is, and the ids of its runs, one a seed.
struct studied_model {
  std::string name;
  std::int64_t parameters = 0, active = 0;
  std::int64_t flops = 0;     // forward, a token
  std::int64_t steps = 0;     // of a run that is at its end
  std::string settings = {};  // all that decides its runs' bits, the seed apart
  std::vector<std::string> runs = {};
  std::vector<std::string> measured = {};  // names of what is measured beside loss and load:
                                           // training_means::names, and the user's own
  std::vector<std::string> routers = {};   // what they are called: see router_names
  double top_k = 0;                        // of its routers, their mean
  std::int64_t validated = 0;              // tokens of an evaluation
};

/// A model's runs, measured. Values of different models at one place belong to one seed.
struct model_results {
  studied_model model;
  /// Bits of a token at the end, a seed each; NaN of a run that no step changed since the evaluation
  /// before, since no gradient was finite: it stopped learning before its end.
  std::vector<double> validation = {};
  double steps = 0, skipped = 0;    // of all runs; skipped: those without a finite gradient
  std::vector<double> tokens = {};  // the curve's places, in training tokens,
  number_table curve = {};          // and at each the seeds' bits,
  std::vector<std::vector<load_balance>> balance = {};  // and how even their experts' load was
  std::vector<double> experts = {};  // of a layer that a token was sent to at the end, a seed each
  number_table load = {};            // [layer][expert] at the end, of the first seed
  std::vector<number_table> measured = {};  // of each name, like curve; NaN where there is none
  double tokens_per_second = std::numeric_limits<double>::quiet_NaN();

  /// What was measured under a name, [place][seed], or null.
  number_table const* measured_as(std::string const& name) const {
    auto const at = std::find(model.measured.begin(), model.measured.end(), name);
    if (at == model.measured.end()) return nullptr;
    return &measured[static_cast<std::size_t>(at - model.measured.begin())];
  }
  /// One number of the seeds' balances at a place: balance_at(i, &load_balance::entropy).
  std::vector<double> balance_at(std::size_t place, double load_balance::*what) const {
    std::vector<double> out;
    for (load_balance const& b : balance[place]) out.push_back(b.*what);
    return out;
  }
  /// A curve of the seeds' means against training tokens: values(i) are what they had at a place.
  template <class Values>
  picture::curve over_training(Values&& values) const {
    picture::curve c{model.name, {}, {}};
    for (std::size_t i = 0; i < tokens.size(); ++i) c.add(tokens[i], estimate_mean(values(i)));
    return c;
  }
};

/// What all runs of a study came to, as a table and pictures.
struct study_results {
  std::vector<model_results> models;
  std::vector<picture::level> levels;  // what was given to compare with
  std::string unit = "byte";           // what a token is

  /// Mean bits of a token with 95 % intervals, paired differences to the first model, costs, speed
  /// and balance; below, what was given to compare with. Speed is worth telling only where all runs
  /// were made on one machine, with nothing beside them. Where tokens used fewer experts than top_k, as
  /// a rule or a request may have it, there is a column of how many.
  table summary(bool speed = true) const {
    bool const fewer = any_used_fewer();
    auto const cells = [=](std::vector<std::string> row) {
      if (!speed) row.erase(row.begin() + 7);
      if (!fewer) row.erase(row.begin() + 5);
      return row;
    };
    table t(cells({"model", std::string("bits/") + unit, "difference", "parameters", "active",
                   "experts/token", "FLOPs/token", "tokens/s", "max/mean load", "load entropy"}),
            caption(speed, fewer));
    for (model_results const& m : models) {
      bool const first = &m == &models.front();
      auto const difference =
          first || m.validation.size() != models[0].validation.size()
              ? std::string("–")
              : signed_text(estimate_difference(m.validation, models[0].validation));
      auto const balance = [&](double load_balance::*what, int digits) {
        if (m.load.empty()) return std::string("–");
        return text::fixed(estimate_mean(m.balance_at(m.balance.size() - 1, what)).mean, digits);
      };
      t.add(cells({marked_name(m), mean_text(estimate_mean(m.validation)), difference,
                   text::rounded(double(m.model.parameters)), text::rounded(double(m.model.active)),
                   m.experts.empty() ? "–" : text::fixed(estimate_mean(m.experts).mean, 2),
                   text::rounded(double(m.model.flops)),
                   m.tokens_per_second > 0 ? text::rounded(m.tokens_per_second) : "–",
                   balance(&load_balance::max_over_mean, 2), balance(&load_balance::entropy, 3)}));
    }
    for (picture::level const& l : levels)
      t.add(cells({l.name, text::fixed(l.y, 3), "", "", "", "", "", "", "", ""}));
    return t;
  }

  /// Every evaluation of every run in plain numbers, for other programs: a line each.
  table values() const {
    std::vector<std::string> header{
        "model",        "seed",           "tokens",      "bits", "max over mean load",
        "load entropy", "load variation", "idle experts"};
    std::vector<std::string> const names = measured();
    header.insert(header.end(), names.begin(), names.end());
    table t(header);
    for (model_results const& m : models)
      for (std::size_t i = 0; i < m.tokens.size(); ++i)
        for (std::size_t seed = 0; seed < m.curve[i].size(); ++seed) {
          load_balance const& b = m.balance[i][seed];
          bool const routed = b.max_over_mean != 0;  // not of a model without routers
          auto const cell = [&](double v) { return routed ? text::shortest(v) : std::string(); };
          std::vector<std::string> row{m.model.name,
                                       std::to_string(seed),
                                       text::shortest(m.tokens[i]),
                                       text::shortest(m.curve[i][seed]),
                                       cell(b.max_over_mean),
                                       cell(b.entropy),
                                       cell(b.variation),
                                       cell(b.idle)};
          for (std::string const& name : names) {
            number_table const* const own = m.measured_as(name);
            bool const known = own && !math::isnan((*own)[i][seed]);
            row.push_back(known ? text::shortest((*own)[i][seed]) : std::string());
          }
          t.add(std::move(row));
        }
    return t;
  }
  /// Names of what was measured beside loss and load, of any model.
  std::vector<std::string> measured() const {
    std::vector<std::string> all;
    for (model_results const& m : models)
      for (std::string const& name : m.model.measured)
        if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
    return all;
  }

  /// Validation bits of a token against training tokens, with 95 % bands where there are seeds: every
  /// model's end is in the picture, but of one that learned nothing, whose label says so.
  std::string curves(std::string const& title) const {
    picture::curve_plot plot{title, "training tokens", std::string("bits per ") + unit, {}, levels};
    double start = plot.highest;  // the least of what models had before their first step
    for (model_results const& m : models) {
      picture::curve c = m.over_training([&](std::size_t i) { return m.curve[i]; });
      if (!c.points.empty() && c.points[0].x == 0) start = std::min(start, c.points[0].y);
      if (c.points.size() > 1) plot.highest = std::min(plot.highest, height_for(c));
      plot.curves.push_back(std::move(c));
    }
    for (picture::curve const& c : plot.curves)
      if (c.end() && c.end()->y < start) plot.highest = std::max(plot.highest, c.end()->y + 0.1);
    for (picture::level const& l : levels) plot.highest = std::max(plot.highest, l.y + 0.2);
    return picture::draw(plot);
  }

  /// What each model's bits differ by from the first's, seed by seed.
  std::string differences(std::string const& title) const {
    picture::interval_plot plot{
        title, std::string("difference in bits per ") + unit + " (left is better)", {}};
    for (model_results const& m : models) {
      if (&m == &models[0] || m.validation.size() != models[0].validation.size()) continue;
      estimate const e = estimate_difference(m.validation, models[0].validation);
      if (e.count == 0) continue;
      plot.rows.push_back({m.model.name, e, {}});
      for (std::size_t s = 0; s < m.validation.size(); ++s)
        plot.rows.back().values.push_back(m.validation[s] - models[0].validation[s]);
    }
    if (!models.empty()) plot.x_axis += ", against " + models[0].model.name;
    return picture::draw(plot);
  }

  /// How much the busiest expert had, against training tokens.
  std::string load_over_training(std::string const& title) const {
    picture::curve_plot plot{title, "training tokens", "busiest expert's load over the mean", {}};
    for (model_results const& m : models) {
      if (m.load.empty()) continue;
      plot.curves.push_back(m.over_training(
          [&](std::size_t i) { return m.balance_at(i, &load_balance::max_over_mean); }));
    }
    return picture::draw(plot);
  }

  /// What was measured under a name, against training tokens, of the models that have it.
  std::string measured_over_training(std::string const& name, std::string const& title) const {
    picture::curve_plot plot{title, "training tokens", name, {}};
    for (model_results const& m : models)
      if (number_table const* const own = m.measured_as(name))
        plot.curves.push_back(m.over_training([&](std::size_t i) { return (*own)[i]; }));
    return picture::draw(plot);
  }

  /// A model's results by its name. Throws invalid_argument.
  model_results const& of(std::string const& name) const {
    for (model_results const& m : models)
      if (m.model.name == name) return m;
    throw invalid_argument("the study has no model named \"%.200s\"", name.c_str());
  }

  /// Each model's load of experts on the validation text, of its first seed.
  std::string load() const {
    std::vector<picture::load_map> maps;
    for (model_results const& m : models)
      if (!m.load.empty()) maps.push_back({m.model.name, m.load, m.model.routers});
    return picture::draw_load("Expert load on validation text, first seed", maps);
  }

 private:
  /// Whether tokens of a model used fewer experts than its config says, by a rule or as was asked.
  bool any_used_fewer() const {
    return std::any_of(models.begin(), models.end(), [](model_results const& m) {
      return !m.experts.empty() && estimate_mean(m.experts).mean < m.model.top_k - 0.005;
    });
  }
  /// What the summary's columns are.
  std::string caption(bool speed, bool fewer) const {
    return "bits/" + unit + ": of held-out text, the mean of seeds (± its 95 % interval); " +
           "difference: from " + (models.empty() ? "the first" : models[0].model.name) +
           ", seed by seed; active: parameters that a token uses" +
           (fewer ? " at most; experts/token: routed experts of a layer that one was sent to, mean "
                    "of layers; FLOPs: forward, at most; "
                  : "; FLOPs: forward; ") +
           (speed ? "tokens/s: in training; " : "") +
           "max/mean load: of the busiest expert of any layer, over its layer's mean; load "
           "entropy: over that of equal loads, mean of layers" +
           (std::any_of(models.begin(), models.end(),
                        [](model_results const& m) { return m.skipped > 0; })
                ? "; skipped: steps without a finite gradient, which changed nothing; a run that "
                  "ended in such steps has no result."
                : ".");
  }
  static std::string marked_name(model_results const& m) {
    if (m.skipped == 0) return m.model.name;
    return m.model.name + " (" + text::shortest(m.skipped) + " of " + text::shortest(m.steps) +
           " steps skipped)";
  }
  /// A little above the first value after the start: what lies higher tells nothing of the models apart.
  static double height_for(picture::curve const& c) { return c.points[1].y + 0.1; }
};

/// Bits of a token that a run came to, of what it measured at its end; NaN if no step since the
/// evaluation before had a finite gradient.
inline double result_of(record const& end) {
  bool const stopped =
      end.number("measured.skipped steps") > 0 && math::isnan(end.number("measured.gradient norm"));
  return stopped ? std::numeric_limits<double>::quiet_NaN() : end.number("validation");
}

namespace detail {

/// Takes an evaluation into the curve, at the place of its tokens.
inline void add_evaluation(model_results& r, record const& line) {
  auto const place = std::find(r.tokens.begin(), r.tokens.end(), line.number("tokens"));
  std::size_t const i = static_cast<std::size_t>(place - r.tokens.begin());
  if (place == r.tokens.end()) {
    r.tokens.push_back(line.number("tokens"));
    r.curve.emplace_back();
    r.balance.emplace_back();
    for (number_table& own : r.measured) own.emplace_back();
  }
  r.curve[i].push_back(line.number("validation"));
  r.balance[i].push_back(balance_of(line.rows("load")));
  for (std::size_t n = 0; n < r.measured.size(); ++n)
    r.measured[n][i].push_back(line.number("measured." + r.model.measured[n]));
}

inline model_results gather(studied_model const& m, std::vector<record> const& log,
                            std::vector<record> const& times) {
  model_results r{.model = m, .measured = std::vector<number_table>(m.measured.size())};
  double tokens = 0, seconds = 0;
  for (std::string const& run : m.runs) {
    record const* end = nullptr;
    double steps = 0;
    for (record const& line : log) {
      if (line.text("run") != run) continue;
      if (line.number("step") == double(m.steps)) end = &line;
      steps = std::max(steps, line.number("step"));
      if (double const n = line.number("measured.skipped steps"); n > 0) r.skipped += n;
      add_evaluation(r, line);
    }
    for (record const& line : times)
      if (line.text("run") == run)
        tokens += line.number("tokens"), seconds += line.number("seconds");
    r.steps += steps;
    if (!end) continue;  // interrupted: it has a curve, and no result
    r.validation.push_back(result_of(*end));
    number_table const load = end->rows("load");
    if (!load.empty() && m.validated > 0) r.experts.push_back(experts_of_token(load, m.validated));
    if (r.load.empty()) r.load = load;
  }
  if (seconds > 0) r.tokens_per_second = tokens / seconds;
  return r;
}

}  // namespace detail

/// Gathers what logs hold on these models' runs.
inline study_results gather(std::vector<studied_model> const& models,
                            std::vector<record> const& log, std::vector<record> const& times,
                            std::vector<picture::level> const& levels, std::string unit = "byte") {
  study_results all{{}, levels, std::move(unit)};
  for (studied_model const& m : models) all.models.push_back(detail::gather(m, log, times));
  return all;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
