// A study's log, gathered.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/results.hpp>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace fg = finegrain;

namespace {

fg::record line(std::string run, double tokens, double bits) {
  fg::record r;
  r.set("run", run).set("step", tokens / 5).set("tokens", tokens).set("validation", bits);
  return r.set("load.0", std::vector<double>{3, 1});
}
fg::studied_model model(std::string name, std::vector<std::string> runs) {
  return {name, 1234567, 345678, 98765, 2, "", runs};
}
fg::study_results example() {
  std::vector<fg::record> const log = {
      line("a0", 0, 8),   line("a0", 10, 3.0), line("a1", 0, 8.2),  line("a1", 10, 3.2),
      line("old", 10, 1), line("b0", 10, 2.9), line("b1", 10, 3.0), line("c0", 5, 4)};
  std::vector<fg::record> times(1);
  times[0].set("run", "a0").set("tokens", 3000.0).set("seconds", 2.0);
  return fg::gather({model("A", {"a0", "a1"}), model("B", {"b0", "b1"}), model("C", {"c0", "c1"})},
                    log, times, {{"gzip", 3.5}});
}

}  // namespace

TEST_CASE("Runs are gathered by model and seed; what belongs to no run here is left out") {
  auto const all = example();
  REQUIRE(all.models.size() == 3);
  CHECK(all.models[0].validation == std::vector<double>{3.0, 3.2});
  CHECK(all.models[0].tokens == std::vector<double>{0, 10});
  CHECK(all.models[0].curve[0] == std::vector<double>{8, 8.2});
  CHECK(all.models[0].load == std::vector<std::vector<double>>{{3, 1}});
  CHECK(all.models[0].balance_at(1, &fg::load_balance::max_over_mean) ==
        std::vector<double>{1.5, 1.5});
  CHECK(all.of("B").validation == all.models[1].validation);
  CHECK_THROWS_AS(all.of("D"), fg::invalid_argument);
  CHECK(all.models[0].tokens_per_second == 1500);
  CHECK(all.models[1].validation == std::vector<double>{2.9, 3.0});
  CHECK(all.models[2].validation.empty());  // its run is not at its end
  CHECK(all.models[2].curve.size() == 1);
  CHECK(all.models[2].load.empty());
}

TEST_CASE("A run whose last steps were all skipped has no result, whatever it measured") {
  auto end = line("a", 10, 3);
  CHECK(fg::result_of(end) == 3);
  end.set("measured.skipped steps", 2.0).set("measured.gradient norm", 0.5);
  CHECK(fg::result_of(end) == 3);
  end.set("measured.gradient norm", std::numeric_limits<double>::quiet_NaN());
  CHECK(std::isnan(fg::result_of(end)));
}

TEST_CASE("The summary has means, paired differences, costs, and what is not known as a dash") {
  CHECK(example().summary().csv().find("tokens/s") != std::string::npos);
  CHECK(example().summary(false).csv().find("tokens/s") == std::string::npos);
  std::string const csv = example().summary().csv();
  CHECK_THAT(csv, ContainsSubstring("A,3.100 ± 1.271,–,1.23 M,346 k,98.8 k,1.50 k,1.50,0.811\n"));
  CHECK_THAT(csv, ContainsSubstring("B,2.950 ± 0.635,−0.150 ± 0.635,"));
  CHECK_THAT(csv, ContainsSubstring("C,–,–,1.23 M"));
  CHECK_THAT(csv, ContainsSubstring("gzip,3.500,"));
}

TEST_CASE("The summary's caption says what its columns are, and no others") {
  std::string const all = example().summary().markdown(),
                    some = example().summary(false).markdown();
  for (char const* words : {"\n\nbits/byte: of held-out text", "difference: from A, seed by seed",
                            "active: ", "FLOPs: ", "max/mean load: ", "load entropy: "}) {
    CHECK_THAT(all, ContainsSubstring(words));
    CHECK_THAT(some, ContainsSubstring(words));
  }
  CHECK_THAT(all, ContainsSubstring("tokens/s: in training"));
  CHECK_THAT(some, !ContainsSubstring("tokens/s"));
}

TEST_CASE("Where tokens used fewer experts than top_k the summary says how many") {
  auto const table = [](double top_k) {
    fg::studied_model m = model("A", {"a0"});
    m.routers = {"layer 5"}, m.top_k = top_k, m.validated = 3;  // of which experts got 3 + 1
    auto const all = fg::gather({m}, {line("a0", 10, 3)}, {}, {{"gzip", 3.5}});
    CHECK_THAT(all.load(), ContainsSubstring(">layer 5<"));
    CHECK_THAT(all.load(), ContainsSubstring("first seed<"));
    return all.summary(false);
  };
  CHECK_THAT(table(2).csv(), ContainsSubstring(",active,experts/token,FLOPs/token,max"));
  CHECK_THAT(table(2).csv(), ContainsSubstring("346 k,1.33,98.8 k,"));
  CHECK_THAT(table(2).markdown(), ContainsSubstring("uses at most; experts/token: "));
  for (double as_many : {1.0, 4.0 / 3}) {
    CHECK_THAT(table(as_many).csv(), ContainsSubstring("346 k,98.8 k,"));
    CHECK_THAT(table(as_many).markdown(), !ContainsSubstring("at most"));
  }
}

TEST_CASE("Values are every evaluation's, in numbers that read back as they were") {
  fg::record dense;
  dense.set("run", "d0").set("step", 2.0).set("tokens", 10.0).set("validation", 0.1 + 0.2);
  auto all = example();
  all.models.push_back(fg::gather({model("D", {"d0"})}, {dense}, {}, {}).models[0]);
  CHECK(all.values().csv() ==
        "model,seed,tokens,bits,max over mean load,load entropy,load variation,idle experts\n"
        "A,0,0,8,1.5,0.8112781244591328,0.5,0\nA,1,0,8.2,1.5,0.8112781244591328,0.5,0\n"
        "A,0,10,3,1.5,0.8112781244591328,0.5,0\nA,1,10,3.2,1.5,0.8112781244591328,0.5,0\n"
        "B,0,10,2.9,1.5,0.8112781244591328,0.5,0\nB,1,10,3,1.5,0.8112781244591328,0.5,0\n"
        "C,0,5,4,1.5,0.8112781244591328,0.5,0\nD,0,10,0.30000000000000004,,,,\n");
}

TEST_CASE("The pictures of results, whole or empty, are well-formed") {
  CHECK(wellformed(example().curves("Loss")) == "");
  CHECK(wellformed(example().load()) == "");
  CHECK(wellformed(example().differences("Loss")) == "");
  CHECK_THAT(example().differences("Loss"), ContainsSubstring("−0.150 ± 0.635"));
  CHECK(wellformed(example().load_over_training("Load")) == "");
  CHECK(wellformed(fg::study_results().differences("Loss")) == "");
  CHECK(wellformed(fg::study_results().load_over_training("Load")) == "");
  CHECK(wellformed(fg::study_results().curves("Loss")) == "");
  CHECK(wellformed(fg::study_results().load()) == "");
}

TEST_CASE("The picture of losses holds every model's end, and words where it cannot") {
  double const none = std::numeric_limits<double>::quiet_NaN();
  std::vector<fg::record> log;
  auto const add = [&](std::string const& run, std::vector<double> bits) {
    for (std::size_t i = 0; i < bits.size(); ++i)
      log.push_back(line(run, 5.0 * double(i), bits[i]));
  };
  add("fast", {8, 3.5, 2.5});
  add("slow", {8.1, 7, 6});
  add("diverged", {8, 4, 5e4});
  add("lost", {8, 3.9, none});
  add("never", {none, none, none});
  std::vector<fg::studied_model> models;
  for (char const* name : {"fast", "slow", "diverged", "lost", "never", "waiting"})
    models.push_back(model(name, {name}));
  std::string const svg = fg::gather(models, log, {}, {}).curves("Loss");
  CHECK(wellformed(svg) == "");
  for (char const* words :
       {">2.50<", ">fast<", ">6.00<", ">slow<", ">50.0 k<", ">diverged (above)<", ">3.90<",
        ">lost (then not finite)<", ">never (not finite)<", ">waiting (no values)<"})
    CHECK_THAT(svg, ContainsSubstring(words));

  // The slow curve's last dot lies in the box that curves are drawn in, near its top.
  auto const after = [&](std::size_t at, char const* name) {
    return std::stod(svg.substr(svg.find(name, at) + std::string_view(name).size()));
  };
  std::size_t const box = svg.find("<svg", 1);
  double const top = after(box, " y=\""), height = after(box, " height=\"");
  std::vector<double> slow;
  for (std::size_t at = svg.find("<circle"); at != svg.npos; at = svg.find("<circle", at + 1))
    if (svg.substr(at, svg.find("/>", at) - at).ends_with("fill=\"#0072b2\""))
      slow.push_back(after(at, "cy=\""));
  REQUIRE(slow.size() == 3);
  CHECK(slow[2] > top);
  CHECK(slow[2] < top + height / 10);
}
