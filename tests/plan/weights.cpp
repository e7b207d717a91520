// Weights in memory: names, shapes and places.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/plan/weights.hpp>

#include <algorithm>
#include <set>

#include "../catch.hpp"

namespace {

namespace fg = finegrain;
constexpr fg::config small{.hidden = 12, .width = 5, .routed = 6, .top_k = 2, .shared = 1};

template <fg::config C>
struct block : fg::named {
  static constexpr auto expr =
      fg::residual(fg::rmsnorm<C.hidden>{} | fg::attention<C.hidden, 2>{}) |
      fg::residual(fg::rmsnorm<C.hidden>{} | fg::mixture<C>{});
};
constexpr auto model = fg::embedding<256, 12>{} |
                       fg::repeat<1>(fg::residual(fg::rmsnorm<12>{} | fg::mlp<12, 20>{})) |
                       fg::repeat<2>(block<small>{}) | fg::rmsnorm<12>{} | fg::head<12, 256>{};
using E = std::remove_cvref_t<decltype(model)>;

TEST_CASE("weights have the names that a reader expects") {
  std::set<std::string> names;
  for (auto const& entry : fg::list_weights<E>()) names.insert(entry.name);
  for (char const* name :
       {"embedding.table", "layers.0.rmsnorm.gain", "layers.0.mlp.up", "layers.1.rmsnorm_2.gain",
        "layers.1.attention.query", "layers.1.mixture.router", "layers.2.mixture.shared.down",
        "layers.2.mixture.experts.3.gate", "rmsnorm.gain", "head.weight"})
    CHECK(names.count(name) == 1);
  CHECK(names.count("layers.3.mixture.router") == 0);
}

TEST_CASE("names are unique, and places neither overlap nor leave the array") {
  auto entries = fg::list_weights<E>();
  std::set<std::string> names;
  std::int64_t trained = 0;
  for (auto const& entry : entries) {
    CHECK(names.insert(entry.name).second);
    if (fg::is_trained(entry.role)) trained += entry.rows * entry.cols;
  }
  CHECK(trained == fg::parameters(model));
  std::sort(entries.begin(), entries.end(),
            [](auto const& a, auto const& b) { return a.offset < b.offset; });
  for (std::size_t i = 1; i < entries.size(); ++i)
    CHECK(entries[i - 1].offset + entries[i - 1].rows * entries[i - 1].cols <= entries[i].offset);
  CHECK(entries.back().offset + entries.back().rows * entries.back().cols <= fg::weights_size<E>());
}

struct second : fg::named {
  static constexpr char const* name = "rmsnorm_2";
  static constexpr auto expr = fg::rmsnorm<12>{};
};

struct dotted : fg::named {
  static constexpr char const* name = "layers.0";
  static constexpr auto expr = fg::residual(fg::rmsnorm<12>{});
};

std::vector<std::string> names(auto e) {
  std::vector<std::string> all;
  for (auto const& entry : fg::list_weights<decltype(e)>()) all.push_back(entry.name);
  return all;
}

TEST_CASE("weights that would share a name get a number, as stages do") {
  constexpr fg::rmsnorm<12> norm;
  constexpr auto mixed = fg::blend(norm, norm);
  CHECK(names(fg::blend(mixed, norm) | mixed) ==
        std::vector<std::string>{"mix", "mix_2", "rmsnorm.gain", "rmsnorm_2.gain", "rmsnorm_3.gain",
                                 "mix_3", "rmsnorm_4.gain", "rmsnorm_5.gain"});
  CHECK(names(fg::repeat<2>(mixed))[3] == "layers.1.mix");
  CHECK(
      names(dotted{} | fg::repeat<1>(norm) | norm) ==
      std::vector<std::string>{"layers.0.rmsnorm.gain", "layers.0.rmsnorm.gain_2", "rmsnorm.gain"});
}

TEST_CASE("a stage that is called as another would be leaves it another name") {
  constexpr fg::rmsnorm<12> norm;
  CHECK(names(norm | second{} | norm) ==
        std::vector<std::string>{"rmsnorm.gain", "rmsnorm_2.gain", "rmsnorm_3.gain"});
  CHECK(names(norm | norm | second{}) ==
        std::vector<std::string>{"rmsnorm.gain", "rmsnorm_2.gain", "rmsnorm_2_2.gain"});
}

TEST_CASE("the listed places are where the views point") {
  std::vector<float> numbers(static_cast<std::size_t>(fg::weights_size<E>()));
  auto const views = fg::bind_weights<E, float>(numbers.data());
  auto const& second = views.a.a.b.layers[1].b.a.b;  // layers.2.mixture
  bool found = false;
  for (auto const& entry : fg::list_weights<E>()) {
    if (entry.name == "layers.2.mixture.experts.3.gate") {
      found = true;
      CHECK(numbers.data() + entry.offset == second.b.gate[3].data);
      CHECK(entry.rows == 5);
      CHECK(entry.cols == 12);
    }
    if (entry.name == "layers.2.mixture.shared.down")
      CHECK(numbers.data() + entry.offset == second.a.down.data);
  }
  CHECK(found);
}

TEST_CASE("a selection bias is listed, and not a parameter") {
  constexpr fg::config biased{.hidden = 12, .width = 5, .routed = 6, .top_k = 2, .bias = true};
  auto const entries = fg::list_weights<fg::mixture<biased>>();
  auto const bias = std::find_if(entries.begin(), entries.end(),
                                 [](auto const& entry) { return entry.name == "bias"; });
  REQUIRE(bias != entries.end());
  CHECK(bias->role == fg::role::selection_bias);
  CHECK(bias->rows * bias->cols == 6);
}

}  // namespace
