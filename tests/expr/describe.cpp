// Laws of expr/describe.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <clocale>
#include <finegrain/config/presets.hpp>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/expr/describe.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;
namespace presets = fg::presets;

namespace mine {

template <int D>
struct my_attention : fg::stage<D> {};
template <int D>
std::string details(my_attention<D>) {
  return "of my own";
}

struct titled : fg::stage<8> {
  static constexpr char const* name = "a title";
};

template <fg::config C>
struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<C.hidden>{} | my_attention<C.hidden>{}) |
                               fg::residual(fg::rmsnorm<C.hidden>{} | fg::mixture<C>{});
};

}  // namespace mine

namespace {

constexpr fg::config moe{.hidden = 8, .width = 5, .routed = 4, .top_k = 2, .shared = 1};

template <fg::Expr E>
std::vector<std::string> lines(E e) {
  std::istringstream text(fg::describe(e));
  std::vector<std::string> all;
  for (std::string line; std::getline(text, line);) all.push_back(line);
  return all;
}

/// The first line that begins, after its indentation, with these words.
template <fg::Expr E>
std::string line(E e, std::string const& words) {
  for (auto const& l : lines(e))
    if (l.compare(l.find_first_not_of(' '), words.size(), words) == 0) return l;
  return "no line of " + words;
}

}  // namespace

TEST_CASE("an expression is described as a tree of stages with shapes, parameters and weights") {
  CHECK(fg::describe(fg::repeat<3>(fg::residual(fg::rmsnorm<8>{} | fg::mixture<moe>{}))) ==
        R"(repeat 3                    8 -> 8     1,920  1,200 active
  residual                  8 -> 8       640    400 active
    rmsnorm                 8 -> 8         8
      - gain                1 x 8
    mixture                 8 -> 8       632    392 active
      sum                   8 -> 8       632    392 active
        shared_experts      8 -> 8       120                1 expert, swiglu of 5
          - shared.gate     5 x 8
          - shared.up       5 x 8
          - shared.down     8 x 5
        routed_experts      8 -> 8       512    272 active  2 of 4 experts, swiglu of 5, softmax
          - router          4 x 8
          - experts.*.gate  4 x 5 x 8
          - experts.*.up    4 x 5 x 8
          - experts.*.down  4 x 8 x 5
)");
}

TEST_CASE("where nothing is inactive, there is no column of active parameters") {
  CHECK(fg::describe(fg::embedding<50, 8>{} | fg::linear<8, 4>{}) == R"(embedding   ids -> 8  400
  - table   50 x 8
linear      8 -> 4     32
  - weight  4 x 8
)");
}

TEST_CASE("a user's stage is described by its name, or its type's, and what it says of itself") {
  CHECK_THAT(line(mine::block<moe>{}, "block"), ContainsSubstring("8 -> 8"));
  CHECK_THAT(line(mine::block<moe>{}, "my_attention"), ContainsSubstring("of my own"));
  CHECK_THAT(line(mine::titled{}, "a title"), ContainsSubstring("8 -> 8"));
}

TEST_CASE("operands of a sum stand on one level, a sequence among them is kept together") {
  using l = fg::linear<8, 8>;
  CHECK(lines((l{} | l{}) + l{} + l{}).size() == 1 + (1 + 2 + 2) + 2 + 2);
  CHECK(line((l{} | l{}) + l{} + l{}, "sequence").find("sequence") == 2);
  CHECK_THAT(line(l{} + l{} + l{}, "linear"), ContainsSubstring("  linear"));
}

TEST_CASE("a router's rules are told in words") {
  CHECK_THAT(line(fg::mixture<presets::deepseek_v3.moe>{}, "routed_experts"),
             ContainsSubstring("8 of 256 experts, swiglu of 2048, sigmoid, from 4 of 8 groups by "
                               "their best two, renormalised, times 2.5"));
  CHECK_THAT(line(fg::mixture<presets::deepseek_v3.moe>{}, "- bias"),
             ContainsSubstring("not a parameter"));
  CHECK_THAT(line(fg::mixture<presets::qwen1_5_moe_a2_7b.moe>{}, "shared_experts"),
             ContainsSubstring("4 experts, swiglu of 1408, gated"));
}

TEST_CASE("attention's heads are told in words") {
  CHECK_THAT(line(fg::attention<64, 4, 2>{}, "attention"),
             ContainsSubstring("4 heads of 16, 2 for keys and values"));
  CHECK(line(fg::attention<64, 4>{}, "attention") ==
        line(fg::attention<64, 4, 4, 16, fg::attention_form{}>{}, "attention"));
  CHECK_THAT(
      line(fg::attention<64, 4, 4, 16,
                         fg::attention_form{.bias = true,
                                            .norm = fg::head_norm::each,
                                            .rotary = 8,
                                            .adjacent = true,
                                            .theta = 1e6,
                                            .epsilon = 1e-5,
                                            .scale = 0.125,
                                            .yarn = {.factor = 4}}>{},
           "attention"),
      ContainsSubstring("4 heads of 16, biased, norms of each head, 8 rotary, neighbours turned, "
                        "scores times 0.125, epsilon 1e-05, theta 1e+06, yarn 4"));
  CHECK_THAT(line(fg::rmsnorm<8, 1e-5>{}, "rmsnorm"), ContainsSubstring("epsilon 1e-05"));
  CHECK_THAT(line(fg::decoder<presets::deepseek_v2_lite>{}, "attention"),
             ContainsSubstring("latent, 16 heads of 128 + 64 rotary, values of 128"));
}

TEST_CASE("what is computed otherwise is told, though weights are the same") {
  constexpr fg::config c{.hidden = 8, .width = 4, .routed = 6, .top_k = 2, .renormalise = true};
  constexpr fg::config other{.hidden = 8,
                             .width = 4,
                             .routed = 6,
                             .top_k = 2,
                             .shared = 1,
                             .renormalise = true,
                             .shared_scale = 2,
                             .epsilon = 0,
                             .floor = 0.25f};
  CHECK(fg::details(fg::routed_experts<c>{}).ends_with("softmax, renormalised"));
  CHECK(fg::details(fg::routed_experts<other>{})
            .ends_with("softmax, renormalised, epsilon 0, floor 0.25"));
  CHECK(fg::details(fg::shared_experts<other>{}).ends_with("of 4, times 2"));
  constexpr auto times = [](float x) {
    return fg::config{
        .hidden = 8, .width = 4, .routed = 6, .top_k = 2, .shared = 1, .shared_scale = x};
  };
  CHECK(fg::details(fg::shared_experts<times(0.7f)>{}).ends_with(", times 0.7"));
  CHECK(fg::details(fg::shared_experts<times(2.500001f)>{}).ends_with(", times 2.500001"));
  CHECK_THAT(line(fg::rmsnorm<8, 1.0000001e-5>{}, "rmsnorm"),
             ContainsSubstring("epsilon 1.0000001e-05"));
  using limited = fg::mlp<8, 4, fg::glu{fg::activation::geglu, 10}>;
  CHECK(fg::details(fg::mlp<8, 4>{}) == "swiglu of 4");
  CHECK(fg::details(limited{}) == "geglu within 10 of 4");
  constexpr fg::attention_form slowed{
      .yarn = {
          .factor = 4, .original = 64, .fast = 16, .slow = 2, .mscale = 0.5f, .mscale_all = 1}};
  CHECK(fg::details(fg::attention<8, 2, 2, 4, slowed>{})
            .ends_with(", yarn 4, original 64, fast 16, slow 2, mscale 0.5, mscale_all 1"));
}

TEST_CASE("numbers are told alike in every locale: checkpoints are told apart by them") {
  struct usual {
    std::string name = std::setlocale(LC_NUMERIC, nullptr);
    ~usual() { std::setlocale(LC_NUMERIC, name.c_str()); }
  } const restored;
  constexpr fg::config scaled{
      .hidden = 8, .width = 8, .routed = 4, .top_k = 2, .renormalise = true, .scale = 2.5f};
  auto const told = fg::describe(fg::routed_experts<scaled>{});
  CHECK_THAT(told, ContainsSubstring("times 2.5"));
  for (char const* name : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "pt_BR.UTF-8", "ru_RU.UTF-8"})
    if (std::setlocale(LC_NUMERIC, name))  // one that writes 2,5, if this machine has any
      CHECK(fg::describe(fg::routed_experts<scaled>{}) == told);
}

TEST_CASE("a whole model fits a screen or two, and its first line has the totals") {
  auto const all = lines(fg::decoder<presets::deepseek_moe_16b>{});
  CHECK_THAT(all[0], ContainsSubstring("ids -> 102400"));
  CHECK_THAT(all[0], ContainsSubstring("16,375,728,128  2,828,650,496 active"));
  CHECK(all.size() < 60);
  for (auto const& l : all) {
    CHECK(l.size() <= 130);
    CHECK(l.back() != ' ');
  }
}
