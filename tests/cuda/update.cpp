// An optimiser of one's own on the device: what it moves, what AdamW moves in its place, recorded
// steps.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"
#include "rules.hpp"

namespace {

using namespace under_test;
constexpr std::int64_t T = 96;
constexpr fg::adamw numbers_of_adamw{.lr = 1e-2};
template <class Number>
using model = fg::network<tiny::decoder, fg::basic_cuda<Number>>;

/// AdamW, of weights of these names.
template <class Number>
struct adamw_again final : fg::cuda_update_rule<Number> {
  char const* names;
  mutable std::set<std::string> moved;
  explicit adamw_again(char const* names) : names(names) {}

  bool move(fg::weight_update<float> const&) const override { return false; }
  bool move(fg::weight_update<double> const&) const override { return false; }
  bool enqueue(fg::cuda_weight_update<Number> const& w, CUstream_st* stream) const override {
    if (!fg::matches(w.name, names)) return false;
    moved.emplace(w.name);
    fg::adamw const& how = numbers_of_adamw;
    move_by_adamw<Number>({how.beta1, how.beta2, how.epsilon, how.weight_decay}, w.weight,
                          w.gradient, w.first.data, w.second.data, w.step, w.rate, w.decay, stream);
    return true;
  }
};

std::vector<std::int32_t> words(std::uint64_t seed) {
  std::vector<std::int32_t> made;
  for (std::uint64_t t = 0; t < T; ++t)
    made.push_back(static_cast<std::int32_t>(fg::random_word(seed, t) % 32));
  return made;
}
fg::training trained(fg::training how) {
  how.schedule = {.warmup = 3, .steps = 20};
  how.clip = 0.5;
  how.groups = {{"*.router", 0.5}, {"head.*", 0}};
  return how;
}

/// Weights and moments in f32, as a checkpoint holds them, behind its header and the steps.
std::vector<double> numbers_in(std::string const& file) {
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  numbers all((file.size() - 16 - header) / 4);
  std::memcpy(all.data(), file.data() + 16 + header, 4 * all.size());
  return {all.begin(), all.end()};
}

/// What a network and its optimiser have after some steps; recorded ones, if `record`.
template <class Number>
std::vector<double> learn(fg::training const& how, bool record = false) {
  model<Number> net({.deviation = 0.1});
  fg::trainer train{net, numbers_of_adamw, trained(how)};
  auto const ids = upload(words(7)), targets = upload(words(8));
  fg::batch const b{.tokens = T, .ids = ids};
  if (record) {
    auto step = train.record(b, targets);
    for (int n = 0; n < 3; ++n) step();
  } else {
    for (int n = 0; n < 3; ++n) train.step(b, targets);
  }
  folder const made;
  train.save(made / "after");
  return numbers_in(contents(made / "after"));
}

TEMPLATE_TEST_CASE("AdamW as an optimiser of one's own moves weights as the library's does", "",
                   bf16, float) {
  NEED_GPU();
  std::vector<double> const as_it_is = learn<TestType>({});
  for (char const* names : {"*", "*.gate", "nothing"}) {
    INFO(names);
    adamw_again<TestType> const rule(names);
    auto const learned = learn<TestType>({.update = &rule});
    // The compiler is free to fuse either product of a sum: the last bits of moments differ.
    CHECK(off(as_it_is, {learned.begin(), learned.end()}) < 1e-6);
    CHECK((learn<TestType>({.update = &rule}, true) == learned));
    CHECK(rule.moved.contains("head.weight") == false);  // it is held
    for (auto const& entry : fg::list_weights<tiny::decoder>())
      CHECK(rule.moved.contains(entry.name) ==
            (fg::is_trained(entry.role) && entry.name != "head.weight" &&
             fg::matches(entry.name, names)));
  }
}

TEST_CASE("what an optimiser of one's own moves is rounded as the settings say") {
  NEED_GPU();
  adamw_again<bf16> const rule("*");
  fg::training how{.rounding = fg::weight_rounding::stochastic};
  std::vector<double> const as_it_is = learn<bf16>(how);
  how.update = &rule;
  auto const learned = learn<bf16>(how);
  CHECK(off(as_it_is, {learned.begin(), learned.end()}) < 1e-6);
}

TEST_CASE("a step whose gradient is not finite tells the rule so, and moves nothing") {
  NEED_GPU();
  adamw_again<bf16> const rule("*");
  model<bf16> net({.deviation = 0.1});
  fg::trainer train{net, numbers_of_adamw, {.update = &rule}};
  train.step(words(7), words(8));
  auto broken = fg::place<fg::cuda>::fetched(net.on(), net.parameters());
  broken[0] = bf16(infinity);  // of the first word, which is read
  fg::place<fg::cuda>::store(net.on(), broken, net.parameters());
  train.step(std::vector<std::int32_t>(T, 0), words(8));
  CHECK(same_bits(broken, fg::place<fg::cuda>::fetched(net.on(), net.parameters())));
}

TEST_CASE("a rule that has no kernels for a network's numbers is refused") {
  NEED_GPU();
  struct on_host : fg::update_rule {
    bool move(fg::weight_update<float> const&) const override { return false; }
    bool move(fg::weight_update<double> const&) const override { return false; }
  } const host;
  adamw_again<float> const other("*");
  model<bf16> net;
  for (fg::update_rule const* rule :
       {static_cast<fg::update_rule const*>(&host), static_cast<fg::update_rule const*>(&other)})
    CHECK_THROWS_WITH((fg::trainer{net, numbers_of_adamw, {.update = rule}}),
                      ContainsSubstring("must be a cuda_update_rule"));
}

}  // namespace
