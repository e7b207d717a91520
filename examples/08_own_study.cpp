// A study of one's own: do experts learn more with GELU in their gates than with SiLU?
//
//   example_08_own_study [--text FILE] [--out DIR] [--steps N] [--seeds N]
#include <cstdio>

#include "byte_model.hpp"

namespace fg = finegrain;

constexpr fg::architecture gelu_reader = [] {
  fg::architecture a = small_reader;
  a.moe.act = fg::activation::geglu;
  return fg::checked(a);
}();

int main(int count, char** words) try {
  fg::options given(count, words);
  auto const text = some_text(given.text("--text", ""));
  std::string const out = given.text("--out", "out/own_study");
  auto const steps = given.number("--steps", 40), seeds = given.number("--seeds", 3);
  given.done();

  // [example]
  fg::study study(text, {.out = out,
                         .seeds = static_cast<int>(seeds),
                         .steps = steps,
                         .sequences = 4,
                         .length = 64,
                         .deviation = 0.1,
                         .optimizer = {.lr = 4e-3}});
  study.add<fg::network<fg::decoder<small_reader>, fg::cpu>>("SiLU");
  study.add<fg::network<fg::decoder<gelu_reader>, fg::cpu>>("GELU");
  if (!study.run()) return 130;  // interrupted, and saved

  fg::study_results const all = study.results();
  auto const fewer = study.ask("GELU", {.top_k = 1});  // a question to the trained models
  fg::table const claims = fg::claims_table(
      {{"GELU < SiLU", all.of("GELU").validation, all.of("SiLU").validation},
       {"GELU < GELU with one routed expert", all.of("GELU").validation, fg::means(fewer)}});
  fg::page page("GELU or SiLU in the gates of experts?");
  page.add(claims, "claims");
  page.add(all.summary(), "table");
  page.picture(all.differences("GELU less SiLU"), "differences", "Seed by seed.");
  page.write(out);
  // [/example]
  std::printf("\n%s\n%s/index.html has the rest.\n", claims.plain().c_str(), out.c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
