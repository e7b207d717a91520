// Laws of config/config.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/config/config.hpp>
#include <limits>
#include <string>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

constexpr fg::config base{.hidden = 512, .width = 1024, .routed = 16, .top_k = 2};

/// checked's sentence, or nothing.
std::string complaint(fg::config const& c) {
  try {
    fg::checked(c);
  } catch (fg::invalid_config const& e) {
    return e.what();
  }
  return {};
}

/// base with one change.
template <class Change>
fg::config with(Change change) {
  fg::config c = base;
  change(c);
  return c;
}

}  // namespace

TEST_CASE("segmented(m) has m times the experts, each 1/m as wide, and m times as many chosen") {
  constexpr fg::config fine = base.segmented(4);
  CHECK(fine.width == 256);
  CHECK(fine.routed == 64);
  CHECK(fine.top_k == 8);
  CHECK(fine.routed * fine.width == base.routed * base.width);
  CHECK(fine.active() * fine.width == base.active() * base.width);
}

TEST_CASE("segmented(m) segments shared experts too, and segmented(1) changes nothing") {
  constexpr fg::config shared = base.isolated(1);
  CHECK(shared.segmented(4).shared == 4);
  CHECK(shared.segmented(1) == shared);
  CHECK(shared.segmented(2).segmented(2) == shared.segmented(4));
}

TEST_CASE("isolated(k) moves k chosen experts out of the router") {
  constexpr fg::config isolated = base.segmented(4).isolated(1);
  CHECK(isolated.shared == 1);
  CHECK(isolated.routed == 63);
  CHECK(isolated.top_k == 7);
  CHECK(isolated.active() == base.segmented(4).active());
  CHECK(isolated.isolated(0) == isolated);
  CHECK(base.segmented(4).isolated(1).isolated(2) == base.segmented(4).isolated(3));
}

TEST_CASE("the paper's ladder: 2 of 16; 1 and 1 of 15; 1 and 3 of 31; 1 and 7 of 63") {
  constexpr fg::config gshard = fg::conventional<16, 2>({.hidden = 512, .width = 1024});
  auto const is = [](fg::config const& c, int shared, int top_k, int routed) {
    return c.shared == shared && c.top_k == top_k && c.routed == routed;
  };
  CHECK(is(gshard, 0, 2, 16));
  CHECK(is(gshard.isolated(1), 1, 1, 15));
  CHECK(is(gshard.segmented(2).isolated(1), 1, 3, 31));
  CHECK(is(gshard.segmented(4).isolated(1), 1, 7, 63));
}

TEST_CASE("conventional and segmented keep the fields that they do not speak of") {
  constexpr fg::config c = fg::conventional<8, 2>({.hidden = 64,
                                                   .width = 128,
                                                   .shared = 3,
                                                   .score = fg::score::sigmoid,
                                                   .renormalise = true,
                                                   .scale = 2.5f,
                                                   .bias = true,
                                                   .act = fg::activation::geglu});
  CHECK(c.shared == 0);
  constexpr fg::config fine = c.segmented(2);
  CHECK(fine.hidden == 64);
  CHECK(fine.score == fg::score::sigmoid);
  CHECK(fine.renormalise);
  CHECK(fine.scale == 2.5f);
  CHECK(fine.bias);
  CHECK(fine.act == fg::activation::geglu);
}

TEST_CASE("a config that no layer can have is refused at run time with the compiler's sentence") {
  using c = fg::config;
  CHECK_THAT(complaint(with([](c& x) { x.hidden = 0; })), ContainsSubstring("hidden"));
  CHECK_THAT(complaint(with([](c& x) { x.width = 0; })), ContainsSubstring("width"));
  CHECK_THAT(complaint(with([](c& x) { x.routed = 0; })), ContainsSubstring("routed"));
  CHECK_THAT(complaint(with([](c& x) { x.top_k = 0; })), ContainsSubstring("top_k"));
  CHECK_THAT(complaint(with([](c& x) { x.top_k = 17; })), ContainsSubstring("top_k"));
  CHECK_THAT(complaint(with([](c& x) { x.shared = -1; })), ContainsSubstring("shared"));
  CHECK_THAT(complaint(with([](c& x) { x.groups = 0; })), ContainsSubstring("groups"));
  CHECK_THAT(complaint(with([](c& x) { x.groups = 3; })), ContainsSubstring("equal parts"));
  CHECK_THAT(complaint(with([](c& x) { x.group_limit = 2; })), ContainsSubstring("group_limit"));
  CHECK_THAT(complaint(with([](c& x) { x.group_limit = 0; })), ContainsSubstring("group_limit"));
  CHECK_THAT(complaint(with([](c& x) { x.groups = 16; })), ContainsSubstring("must fit"));
  CHECK_THAT(complaint(with([](c& x) {
               x.groups = 16;
               x.group_limit = 2;
               x.group_score = fg::group_score::top2_sum;
             })),
             ContainsSubstring("top2_sum"));
  CHECK_THAT(complaint(with([](c& x) {
               x.top_k = 1;
               x.renormalise = true;
             })),
             ContainsSubstring("learns nothing"));
  CHECK_THAT(complaint(with([](c& x) { x.scale = 0; })), ContainsSubstring("scale"));
  CHECK_THAT(complaint(with([](c& x) { x.scale = -1; })), ContainsSubstring("scale"));
  CHECK_THAT(complaint(with([](c& x) { x.scale = 1e30f; })), ContainsSubstring("scale"));
  CHECK_THAT(complaint(with([](c& x) { x.scale = std::numeric_limits<float>::quiet_NaN(); })),
             ContainsSubstring("scale"));
  CHECK_THAT(complaint(with([](c& x) { x.shared_gate = true; })), ContainsSubstring("shared_gate"));
}

TEST_CASE("routers that cannot be are refused in a sentence") {
  using c = fg::config;
  auto const hash = [](c& x) { x.selection = fg::selection::hash, x.vocabulary = 10; };
  auto const says = [](auto change) { return complaint(with(change)); };
  CHECK_THAT(says([](c& x) { x.selection = fg::selection::hash; }),
             ContainsSubstring("needs vocabulary"));
  CHECK_THAT(says([](c& x) { x.vocabulary = 10; }), ContainsSubstring("is for selection::hash"));
  CHECK_THAT(says([&](c& x) { hash(x), x.bias = true; }), ContainsSubstring("bias moves"));
  CHECK_THAT(says([&](c& x) { hash(x), x.by_logits = true; }), ContainsSubstring("by_logits"));
  CHECK_THAT(says([&](c& x) { hash(x), x.groups = x.group_limit = 2; }),
             ContainsSubstring("groups limit selection::top_k"));
  CHECK_THAT(says([](c& x) { x.uniform = true; }), ContainsSubstring("learns nothing"));
  CHECK_THAT(says([&](c& x) { hash(x), x.uniform = x.renormalise = true; }),
             ContainsSubstring("no router"));
  CHECK_THAT(says([](c& x) { x.selection = fg::selection::given, x.renormalise = true; }),
             ContainsSubstring("weights come with the batch"));
  CHECK_THAT(says([](c& x) { x.selection = fg::selection::given, x.scale = 2; }),
             ContainsSubstring("weights come with the batch"));
  CHECK_THAT(says([](c& x) { x.selection = fg::selection::given, x.bias = true; }),
             ContainsSubstring("bias moves"));
  CHECK(says([](c& x) { x.selection = fg::selection::given, x.top_k = x.routed + 1; }) == "");
  CHECK_THAT(says([](c& x) { x.selection = fg::selection::expert_choice, x.renormalise = true; }),
             ContainsSubstring("may have no expert"));
  CHECK_THAT(says([](c& x) { x.top_k = 3, x.chance_second = true; }),
             ContainsSubstring("top_k = 2"));
  CHECK_THAT(says([](c& x) { x.cosine = -1; }), ContainsSubstring("cosine"));
  CHECK_THAT(says([](c& x) { x.cosine = 4, x.precision = fg::precision::bf16; }),
             ContainsSubstring("computes in f32"));
  CHECK_THAT(says([](c& x) {
               x.top_k = 3, x.groups = 4, x.group_limit = 2;
               x.group_score = fg::group_score::top_share_sum;
             }),
             ContainsSubstring("group_limit to divide top_k"));
  CHECK_THAT(says([](c& x) { x.epsilon = -1; }), ContainsSubstring("epsilon"));
  CHECK_THAT(says([](c& x) { x.floor = 2; }), ContainsSubstring("floor"));
  CHECK_THAT(says([](c& x) { x.shared_scale = 0; }), ContainsSubstring("shared_scale"));
  CHECK_THAT(says([](c& x) { x.act.limit = -1; }), ContainsSubstring("act's limit"));
  CHECK_THAT(says([](c& x) { x.act.limit = NAN; }), ContainsSubstring("act's limit"));
  CHECK_THAT(says([](c& x) { x.shared = 0, x.shared_scale = 0.5f; }),
             ContainsSubstring("shared_scale needs"));
  fg::config once = with([](c& x) { x.top_k = 1, x.renormalise = x.constant_weight = true; });
  CHECK_NOTHROW(fg::checked(once));
}

TEST_CASE("a transformation that cannot be made is refused at run time") {
  CHECK_THROWS_WITH(base.segmented(0), ContainsSubstring("at least 1"));
  CHECK_THROWS_WITH(base.segmented(3), ContainsSubstring("divide width"));
  CHECK_THROWS_WITH(base.isolated(2), ContainsSubstring("k < top_k"));
  CHECK_THROWS_WITH(base.isolated(-1), ContainsSubstring("0 <= k"));
  fg::config grouped = base;
  grouped.groups = 4;
  CHECK_THROWS_WITH(grouped.isolated(1), ContainsSubstring("one group"));
}

TEST_CASE("limits themselves are allowed") {
  CHECK(complaint(base).empty());
  CHECK(complaint(with([](auto& x) { x.top_k = 16; })).empty());
  CHECK(complaint({.hidden = 1, .width = 1, .routed = 1, .top_k = 1}).empty());
  CHECK(complaint(with([](auto& x) {
          x.groups = 8;
          x.group_limit = 1;
          x.group_score = fg::group_score::top2_sum;
        })).empty());
}

TEST_CASE("shared experts are one mlp, whose width is a number") {
  auto const wide = [](int width) {
    return complaint(with([&](fg::config& c) { c.shared = 1 << 16, c.width = width; }));
  };
  CHECK(wide((1 << 15) - 1).empty());
  CHECK(wide(1 << 15) == "finegrain::config: shared experts together must be narrower than 2^31");
}

TEST_CASE("checked gives back the config that it was given") { CHECK(&fg::checked(base) == &base); }

namespace {

/// Read from a template argument while running, not while compiling: each member by reference.
template <fg::config C>
fg::config read() {
  fg::config c;
  auto const copy = []<class T>(T const& from, T& to) { to = from; };
  copy(C.hidden, c.hidden);
  copy(C.width, c.width);
  copy(C.routed, c.routed);
  copy(C.top_k, c.top_k);
  copy(C.shared, c.shared);
  copy(C.score, c.score);
  copy(C.renormalise, c.renormalise);
  copy(C.scale, c.scale);
  copy(C.groups, c.groups);
  copy(C.group_limit, c.group_limit);
  copy(C.group_score, c.group_score);
  copy(C.bias, c.bias);
  copy(C.shared_gate, c.shared_gate);
  copy(C.act, c.act);
  return c;
}

}  // namespace

TEST_CASE("every member of a template argument reads at run time as it was written") {
  constexpr fg::config c{.hidden = 2,
                         .width = 3,
                         .routed = 16,
                         .top_k = 5,
                         .shared = 7,
                         .score = fg::score::sigmoid,
                         .renormalise = true,
                         .scale = 2.5f,
                         .groups = 8,
                         .group_limit = 4,
                         .group_score = fg::group_score::top2_sum,
                         .bias = true,
                         .shared_gate = true,
                         .act = fg::activation::geglu};
  CHECK(read<c>() == c);
  CHECK(read<base>() == base);
}
