// Laws of expr/tied.hpp: what a tied network is called, counts and costs.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/tied.hpp>

#include <finegrain/expr/cost.hpp>
#include <finegrain/expr/describe.hpp>
#include <finegrain/plan/weights.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

constexpr auto blocks =
    fg::repeat<2>(fg::residual(fg::rmsnorm<6>{} | fg::attention<6, 1>{})) | fg::rmsnorm<6>{};
constexpr auto model = fg::tied(fg::embedding<11, 6>{}, blocks);
constexpr auto apart = fg::embedding<11, 6>{} | blocks | fg::head<6, 11>{};
using E = std::remove_const_t<decltype(model)>;
using apart_type = std::remove_const_t<decltype(apart)>;

template <class Model>
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (auto const& entry : fg::list_weights<Model>()) all.push_back(entry.name);
  return all;
}

}  // namespace

TEST_CASE("a tied network is an empty type from ids to logits") {
  STATIC_REQUIRE(std::is_empty_v<E>);
  STATIC_REQUIRE(fg::in_width<E>() == fg::ids);
  STATIC_REQUIRE(fg::out_width<E>() == 11);
}

TEST_CASE("its table is one weight: named, counted and stored once") {
  auto all = names<apart_type>();
  REQUIRE(all.back() == "head.weight");
  all.pop_back();
  CHECK(names<E>() == all);
  CHECK(names<E>().front() == "embedding.table");
  CHECK(fg::parameters(model) == fg::parameters(apart) - 66);
  CHECK(fg::active_parameters(model) == fg::parameters(model));
  CHECK(fg::weights_size<E>() == fg::weights_size<apart_type>() - 128);

  std::vector<float> numbers(std::size_t(fg::weights_size<E>()));
  auto const views = fg::bind_weights<E, float>(numbers.data());
  CHECK(views.b.weight.data == numbers.data());
  CHECK(views.a.a.table.data == numbers.data());
  CHECK(views.b.weight.rows == 11);
  CHECK(views.b.weight.cols == 6);
}

TEST_CASE("but the head's product is computed, and the cache is kept") {
  CHECK(fg::flops(model, 9) == fg::flops(apart, 9));
  CHECK(fg::cache_width(model) == fg::cache_width(apart));
}

TEST_CASE("a description says once how large the table is") {
  CHECK(fg::describe(fg::tied(fg::embedding<11, 6>{}, fg::rmsnorm<6>{})) ==
        R"(tied         ids -> 11  72
  embedding  ids -> 6   66
    - table  11 x 6
  rmsnorm    6 -> 6      6
    - gain   1 x 6
  head       6 -> 11        the embedding's table
)");
}

TEST_CASE("a decoder is tied where its architecture is") {
  auto const weights = names<tiny::tied_decoder>();
  CHECK(weights.front() == "embedding.table");
  CHECK(weights.back() == "rmsnorm.gain");
  CHECK(weights.size() + 1 == names<tiny::decoder>().size());
  CHECK(fg::parameters(tiny::tied_decoder{}) == fg::parameters(tiny::decoder{}) - 32 * 16);
  CHECK(fg::flops(tiny::tied_decoder{}, 5) == fg::flops(tiny::decoder{}, 5));
}
