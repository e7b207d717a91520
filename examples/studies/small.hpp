// What the studies share: a decoder small enough for a CPU, its scales and settings, and the report.
// Models that several studies have are trained once, for all of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <finegrain/lab.hpp>
#include <functional>
#include <string>
#include <vector>

namespace fg = finegrain;

#ifdef ON_CUDA  // then the program has device.cu beside it
using executor = fg::cuda;
#else
using executor = fg::cpu;
#endif

struct scale {
  char const* name;
  int hidden, width, layers, heads;
  long long steps, sequences, length;
};
#ifdef STUDY_MEDIUM
inline constexpr scale size{"medium", 96, 192, 3, 4, 4000, 8, 128};
#else
inline constexpr scale size{"small", 64, 128, 2, 4, 1000, 4, 128};
#endif

// 16 experts, of which each token has two; what the paper's ladder begins with.
inline constexpr fg::config base =
    fg::conventional<16, 2>({.hidden = size.hidden, .width = size.width});
inline constexpr fg::config deepseek = base.segmented(4).isolated(1);  // 1+7/63

template <fg::Expr FeedForward>
inline constexpr auto block = fg::residual(fg::rmsnorm<size.hidden>{} |
                                           fg::attention<size.hidden, size.heads>{}) |
                              fg::residual(fg::rmsnorm<size.hidden>{} | FeedForward{});

/// Bytes in, logits over bytes out; `First` is the first layer's feed-forward block.
template <fg::Expr FeedForward, fg::Expr First = FeedForward>
struct decoder : fg::named {
  static constexpr int D = size.hidden;
  static constexpr auto expr = fg::embedding<256, D>{} | fg::repeat<1>(block<First>) |
                               fg::repeat<size.layers - 1>(block<FeedForward>) | fg::rmsnorm<D>{} |
                               fg::head<D, 256>{};
};
template <fg::Expr FeedForward, fg::Expr First = FeedForward>
using network = fg::network<decoder<FeedForward, First>, executor>;
template <fg::config C>
using moe = network<fg::mixture<C>>;
/// As many parameters as so many of the ladder's experts, all of them for every token.
template <int Experts>
using dense = network<fg::mlp<size.hidden, Experts * size.width>>;

/// What a study is about.
struct about {
  std::string name, title, paper;  // the paper's finding, in a sentence or two
  std::vector<std::pair<std::string, std::string>> orderings = {};  // the paper's: lower, higher
  std::vector<std::string> texts = {"jargon"};  // of out/corpus; more than one: a mixture
};

inline fg::study_settings settings_of(about const& what, std::string const& out, int seeds,
                                      long long steps) {
  return {
      .out = out + "/" + what.name,
      .pool = out,
      .seeds = seeds,
      .steps = steps,
      .sequences = size.sequences,
      .length = size.length,
      .deviation = 0.1,
      .optimizer = {.lr = 5e-3},
      .training = {.schedule = {.warmup = steps / 20, .steps = steps, .decay = fg::decay::cosine},
                   .routing = {.balance = {.expert = 0.01}}}};
}

inline fg::corpus text_of(about const& what, std::string const& folder) {
  auto const file = [&](std::string const& name) { return folder + "/" + name + ".txt"; };
  if (what.texts.size() == 1) return fg::corpus::read({file(what.texts[0])});
  std::vector<fg::corpus> read;
  std::vector<std::string_view> texts;
  for (auto const& name : what.texts) read.push_back(fg::corpus::read({file(name)}));
  for (auto const& text : read) texts.push_back(text.text());
  return fg::corpus::mixture(what.texts, texts);
}

inline std::string how_it_was_run(fg::study_settings const& s, fg::corpus const& text,
                                  about const& what) {
  std::string words =
      "Scale " + std::string(size.name) + ": " + std::to_string(size.layers) + " layers of width " +
      std::to_string(size.hidden) + ", experts of " + std::to_string(size.width) +
      " before they are cut finer; " + std::to_string(s.steps) + " steps of " +
      std::to_string(s.sequences) + " × " + std::to_string(s.length) + " bytes; AdamW at " +
      fg::text::shortest(s.optimizer.lr) + ", warm-up, cosine; " + std::to_string(s.seeds) +
      " seeds. A seed has the same first weights' draws " +
      "and the same text in the same order in every model. Text:";
  for (auto const& name : what.texts) words += " " + name;
  return words + ", " + fg::text::rounded(double(text.size())) + " bytes (fingerprint " +
         fg::text::hex(text.fingerprint()) + "); loss on windows held out from " +
         "training. finegrain " FINEGRAIN_VERSION "; ./dev study " + what.name + " --seeds " +
         std::to_string(s.seeds) + " --scale " + size.name + ".";
}

/// The program of a study: `add` adds its models; `more` asks them and adds to claims and page.
using adder = std::function<void(fg::study&)>;
using reporter = std::function<void(fg::study&, fg::page&, std::vector<fg::claim>&)>;

inline int run_study(int count, char** words, about const& what, adder const& add,
                     reporter const& more = nullptr) try {
  fg::options given(count, words);
  auto const seeds = static_cast<int>(given.number("--seeds", 3));
  long long const steps = given.number("--steps", size.steps);
  std::string const out = given.text("--out", std::string("out/studies/") + size.name);
  std::string const texts = given.text("--texts", "out/corpus");
  long long const validation = given.number("--validation", 128);
  given.done();

  fg::corpus const text = text_of(what, texts);
  fg::study_settings settings = settings_of(what, out, seeds, steps);
  settings.validation = validation;
  fg::study study(text, settings);
  add(study);
  if (!study.run()) return 130;

  auto const results = study.results();
  std::vector<fg::claim> claims;
  for (auto const& [lower, higher] : what.orderings)
    claims.emplace_back(lower + " < " + higher, results.of(lower).validation,
                        results.of(higher).validation);
  fg::page extra("");
  if (more) more(study, extra, claims);

  fg::page page(what.title);
  page.text(what.paper);
  page.heading("The paper's orderings, here");
  page.text(
      "Losses of paired seeds are subtracted; an ordering holds, or its opposite does, when the 95 "
      "% "
      "interval of the mean difference (Student's t) is clear of zero. The "
      "held-out "
      "text is one and the same: intervals tell of the chance in first weights and in the order of "
      "the text, not of other texts.");
  page.add(fg::claims_table(claims), "claims");
  page.add(std::move(extra));
  page.heading("All models");
  page.add(results.summary(/*speed*/ false), "table");
  if (results.models.size() > 1)
    page.picture(results.differences(what.title), "differences",
                 "Each model's loss less the first's, seed by seed.");
  page.picture(results.curves("Loss on held-out text"), "curves",
               "Validation loss; bands are 95 % intervals.");
  page.picture(results.load(), "load", "What each layer's experts got, first seed.");
  page.picture(results.load_over_training("Balance while training"), "load_over_training",
               "The busiest expert of any layer over the mean, mean of seeds.");
  page.heading("How it was run");
  page.text(how_it_was_run(study.settings(), text, what));
  page.write(study.settings().out);
  std::printf("\n%s\n%s\n%s/index.html has it all.\n", fg::claims_table(claims).plain().c_str(),
              results.summary(false).plain().c_str(), study.settings().out.c_str());
  return 0;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
