// Latent attention, and whole models in DeepSeek-V2's and V3's published form, against what PyTorch made
// of the published formulas in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/io/published.hpp>
#include <finegrain/reference/reference.hpp>
#include <list>

#include "../folder.hpp"
#include "golden.hpp"

namespace {

using namespace golden;

constexpr fg::yarn as_published(float mscale, float mscale_all) {
  return {.factor = 40, .original = 4096, .mscale = mscale, .mscale_all = mscale_all};
}
using straight =
    fg::latent_attention<7, 3, fg::latent{.kv_rank = 9, .nope = 5, .rope = 4, .value = 6}>;
using compressed = fg::latent_attention<
    7, 2, fg::latent{.q_rank = 5, .kv_rank = 6, .nope = 4, .rope = 6, .value = 3, .theta = 50000}>;
using with_yarn = fg::latent_attention<7, 2,
                                       fg::latent{.q_rank = 6,
                                                  .kv_rank = 8,
                                                  .nope = 4,
                                                  .rope = 12,
                                                  .value = 5,
                                                  .yarn = as_published(0.75f, 0.5f)}>;
using with_short = fg::latent_attention<
    7, 2,
    fg::latent{
        .kv_rank = 8,
        .nope = 4,
        .rope = 16,
        .value = 5,
        .yarn = {.factor = 4, .original = 64, .fast = 8, .slow = 2, .mscale = 1, .mscale_all = 1}}>;

constexpr fg::architecture v2{
    .hidden = 16,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 1,
    .dense_width = 24,
    .moe = {.hidden = 16, .width = 6, .routed = 8, .top_k = 3, .shared = 2},
    .latent = {
        .kv_rank = 10, .nope = 6, .rope = 4, .value = 5, .yarn = as_published(0.75f, 0.75f)}};
constexpr fg::architecture v3{
    .hidden = 16,
    .layers = 3,
    .vocabulary = 32,
    .heads = 3,
    .dense_layers = 2,
    .dense_width = 24,
    .moe = {.hidden = 16,
            .width = 6,
            .routed = 16,
            .top_k = 4,
            .shared = 1,
            .score = fg::score::sigmoid,
            .renormalise = true,
            .scale = 2.5f,
            .groups = 4,
            .group_limit = 2,
            .group_score = fg::group_score::top2_sum,
            .bias = true},
    .latent = {
        .q_rank = 9, .kv_rank = 11, .nope = 5, .rope = 4, .value = 5, .yarn = as_published(1, 1)}};

/// The cases of a config: there must be some.
std::vector<fg::record> cases_of(std::string_view config) {
  std::vector<fg::record> cases;
  std::ifstream file(FINEGRAIN_GOLDEN_LATENT);
  for (std::string line; std::getline(file, line);)
    if (auto r = fg::record::parse(line); r && r->text("config") == config)
      cases.push_back(std::move(*r));
  REQUIRE_FALSE(cases.empty());
  return cases;
}

numbers drawn(fg::record const& r, std::string_view name, std::int64_t count, double factor = 1) {
  numbers all = draw(r, name, count);
  bool const gain = name.find("norm") != name.npos, bias = name.find("bias") != name.npos;
  for (double& x : all) x = gain ? 1 + x / 2 : bias ? x : factor * x;
  return all;
}
template <class S>
std::vector<S> as(numbers const& from) {
  return {from.begin(), from.end()};
}
template <class S>
double apart(fg::record const& r, std::string const& key, S const* got) {
  numbers const& exact = r.numbers(key);
  return difference(exact, numbers(got, got + exact.size()));
}

/// Values of training and of inference, and gradients.
template <class E, class X>
void check_stage(std::string_view config, double tolerance) {
  using S = typename X::scalar;
  for (auto const& r : cases_of(config)) {
    CAPTURE(r.text("name"));
    fg::network<E, X> net;
    for (auto const& entry : net.entries()) {
      auto const w = as<S>(drawn(r, entry.name, entry.rows * entry.cols));
      std::copy(w.begin(), w.end(), net.parameters().begin() + entry.offset);
    }
    auto const T = static_cast<std::int64_t>(r.number("T"));
    std::vector<std::int64_t> positions;
    for (double at : r.numbers("positions")) positions.push_back(static_cast<std::int64_t>(at));
    auto const x = as<S>(draw(r, "x", T * 7, 96)), dy = as<S>(draw(r, "dy", T * 7));
    std::vector<S> y(x.size(), std::numeric_limits<S>::quiet_NaN()), dx = y;
    fg::batch const b{.tokens = T, .positions = positions};
    net.infer(b, {x.data(), T, 7}, {y.data(), T, 7});
    CHECK(apart(r, "y", y.data()) < tolerance);
    std::fill(y.begin(), y.end(), std::numeric_limits<S>::quiet_NaN());
    net.forward(b, {x.data(), T, 7}, {y.data(), T, 7});
    CHECK(apart(r, "y", y.data()) < tolerance);
    net.backward({dy.data(), T, 7}, {dx.data(), T, 7});
    CHECK(apart(r, "dx", dx.data()) < tolerance);
    for (auto const& entry : net.entries()) {
      CAPTURE(entry.name);
      CHECK(apart(r, "d" + entry.name, net.gradient().data() + entry.offset) < tolerance);
    }
  }
}
template <class X>
void check_stages(double tolerance) {
  check_stage<straight, X>("straight", tolerance);
  check_stage<compressed, X>("compressed", tolerance);
  check_stage<with_yarn, X>("yarn", tolerance);
  check_stage<with_short, X>("short", tolerance);
}

/// A model read whole from a file of published names.
template <fg::architecture A, class X>
void check_model(std::string_view config, double tolerance) {
  using S = typename X::scalar;
  for (auto const& r : cases_of(config)) {
    fg::network<fg::decoder<A>, X> net;
    std::list<numbers> memory;
    std::vector<fg::tensor_view> tensors;
    for (auto const& entry : net.entries()) {
      std::string const name = fg::deepseek_name(entry.name);
      auto& w = memory.emplace_back(drawn(r, name, entry.rows * entry.cols, 0.5));
      std::vector<std::int64_t> shape{entry.rows, entry.cols};
      if (entry.role != fg::role::projection) shape = {entry.rows * entry.cols};
      tensors.push_back({name, fg::dtype::f64, shape, w.data()});
    }
    folder const here;
    fg::write_safetensors(here / "model.safetensors", tensors);
    fg::load_published(net, here.path);

    auto const T = static_cast<std::int64_t>(r.number("T"));
    std::vector<std::int32_t> ids;
    for (std::uint64_t t = 0; t < static_cast<std::uint64_t>(T); ++t)
      ids.push_back(static_cast<std::int32_t>(fg::random_word(seed_of(r, "ids"), t) % 32));
    std::vector<S> logits(static_cast<std::size_t>(T * 32));
    net(ids, fg::matrix<S>{logits.data(), T, 32});
    CHECK(apart(r, "logits", logits.data()) < tolerance);
    net.forward({.tokens = T, .ids = ids}, {}, {logits.data(), T, 32});
    CHECK(apart(r, "logits", logits.data()) < tolerance);
  }
}

TEST_CASE("the reference agrees with PyTorch on latent attention, values and gradients") {
  check_stages<fg::reference>(1e-10);
}

TEST_CASE("the cpu agrees with PyTorch on latent attention, values and gradients") {
  check_stages<fg::cpu>(1e-5);
}

TEST_CASE("models of V2's and V3's form, read whole by published names, agree with PyTorch") {
  check_model<v2, fg::reference>("v2", 1e-10);
  check_model<v3, fg::reference>("v3", 1e-10);
  check_model<v2, fg::cpu>("v2", 1e-5);
  check_model<v3, fg::cpu>("v3", 1e-5);
}

}  // namespace
