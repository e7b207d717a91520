// What a study found: its log gathered into a table and pictures.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "curves.hpp"
#include "heatmap.hpp"
#include "jsonl.hpp"
#include "report.hpp"
#include "routing.hpp"
#include "statistics.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A model of a study: what it is, and the ids of its runs, one a seed.
struct studied_model {
  std::string name;
  std::int64_t parameters = 0, active = 0;
  std::int64_t flops = 0;  // forward, a token
  std::string settings;    // all that decides its runs' bits, the seed apart
  std::vector<std::string> runs;
};

/// A model's runs, measured. Values of different models at one place belong to one seed.
struct model_results {
  studied_model model;
  std::vector<double> validation;          // bits per byte at the end, a seed each
  std::vector<double> tokens;              // the curve's places, in training tokens,
  std::vector<std::vector<double>> curve;  // and at each the seeds' bits per byte
  std::vector<std::vector<double>> load;   // per layer and expert, at the end, all seeds
  double tokens_per_second = std::numeric_limits<double>::quiet_NaN();
};

struct study_results {
  std::vector<model_results> models;
  std::vector<picture::level> levels;  // what was given to compare with

  /// Mean bits per byte with 95 % intervals, paired differences to the first model, costs, speed
  /// and balance; below, what was given to compare with.
  table summary() const {
    table t({"model", "bits/byte", "difference", "parameters", "active", "FLOPs/token", "tokens/s",
             "max/mean load", "load entropy"});
    for (model_results const& m : models) {
      bool const first = &m == &models.front();
      auto const difference =
          first || m.validation.size() != models[0].validation.size()
              ? std::string("–")
              : text(estimate_difference(m.validation, models[0].validation), true);
      load_balance const b = balance_of(m.load);
      t.add({m.model.name, text(estimate_mean(m.validation), false), difference,
             text::rounded(double(m.model.parameters)), text::rounded(double(m.model.active)),
             text::rounded(double(m.model.flops)),
             m.tokens_per_second > 0 ? text::rounded(m.tokens_per_second) : "–",
             m.load.empty() ? "–" : text::fixed(b.max_over_mean, 2),
             m.load.empty() ? "–" : text::fixed(b.entropy, 3)});
    }
    for (picture::level const& l : levels)
      t.add({l.name, text::fixed(l.y, 3), "", "", "", "", "", "", ""});
    return t;
  }

  /// Validation bits per byte against training tokens, with 95 % bands where there are seeds.
  std::string curves(std::string const& title) const {
    picture::curve_plot plot{title, "training tokens", "bits per byte", {}, levels};
    for (model_results const& m : models) {
      picture::curve c{m.model.name, {}, {}};
      for (std::size_t i = 0; i < m.tokens.size(); ++i) {
        estimate const e = estimate_mean(m.curve[i]);
        c.points.push_back({m.tokens[i], e.mean});
        if (e.has_interval()) c.half.push_back(e.half);
      }
      if (c.points.size() > 1) plot.highest = std::min(plot.highest, first_below(c));
      plot.curves.push_back(std::move(c));
    }
    for (picture::level const& l : levels) plot.highest = std::max(plot.highest, l.y + 0.2);
    return picture::draw(plot);
  }

  /// Each model's load of experts on the validation text.
  std::string load() const {
    std::vector<picture::load_map> maps;
    for (model_results const& m : models)
      if (!m.load.empty()) maps.push_back({m.model.name, m.load});
    return picture::draw_load("Expert load on validation text", maps);
  }

 private:
  static std::string text(estimate const& e, bool sign) {
    if (e.count == 0) return "–";
    std::string out = text::fixed(e.mean, 3);
    if (sign) out = e.mean < 0 ? "−" + out.substr(1) : "+" + out;
    return e.has_interval() ? out + " ± " + text::fixed(e.half, 3) : out;
  }
  /// The first measured value after the start: what lies above tells nothing of the models apart.
  static double first_below(picture::curve const& c) { return c.points[1].y + 0.1; }
};

/// Gathers what logs hold on these models' runs.
inline study_results gather(std::vector<studied_model> const& models,
                            std::vector<record> const& log, std::vector<record> const& times,
                            std::vector<picture::level> const& levels) {
  study_results all{{}, levels};
  for (studied_model const& m : models) {
    model_results r{m, {}, {}, {}, {}};
    double tokens = 0, seconds = 0;
    for (std::string const& run : m.runs) {
      record const* last = nullptr;
      for (record const& line : log) {
        if (line.text("run") != run) continue;
        last = &line;
        auto const place = std::find(r.tokens.begin(), r.tokens.end(), line.number("tokens"));
        std::size_t const i = static_cast<std::size_t>(place - r.tokens.begin());
        if (place == r.tokens.end()) {
          r.tokens.push_back(line.number("tokens"));
          r.curve.emplace_back();
        }
        r.curve[i].push_back(line.number("validation"));
      }
      for (record const& line : times)
        if (line.text("run") == run)
          tokens += line.number("tokens"), seconds += line.number("seconds");
      if (!last) continue;
      r.validation.push_back(last->number("validation"));
      for (std::size_t l = 0; last->has("load." + std::to_string(l)); ++l) {
        auto const& load = last->numbers("load." + std::to_string(l));
        if (r.load.size() <= l) r.load.emplace_back(load.size());
        for (std::size_t e = 0; e < load.size(); ++e) r.load[l][e] += load[e];
      }
    }
    if (seconds > 0) r.tokens_per_second = tokens / seconds;
    all.models.push_back(std::move(r));
  }
  return all;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
