// Weights in files of other numbers than the network's: converted where no more than precision is lost.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/io/checkpoint.hpp>
#include <finegrain/io/weights.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

/// Weights of 16 bits on the host: nothing runs, they are only held.
template <class T>
struct halves {
  using scalar = T;
  fg::parallel threads;
};
template <class X>
using network = fg::network<tiny::decoder, X>;
using floats = network<fg::basic_reference<float>>;
using doubles = network<fg::basic_reference<double>>;

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

/// 1 + small steps, which 16 bits cannot hold in one number.
void set_biases(auto& net) {
  auto const bias = net.weight("layers.1.mixture.bias");
  for (int i = 0; i < 4; ++i) bias(0, i) = 1 + 0.001f * float(i);
}

/// A trainer's checkpoint of a network.
template <class Net>
void save_run(Net& net, std::string const& path) {
  using S = typename Net::S;
  std::vector<S> first(net.parameters().size(), 1), second(net.parameters().size(), 2);
  fg::save_checkpoint(net, fg::training_state<S>{first, second, 3}, path);
}

}  // namespace

TEST_CASE("weights of f32, and a run's, are read into doubles; and doubles into f32") {
  folder const here;
  floats from({.deviation = 0.5, .seed = 1}), back;
  doubles to;
  bool const is_run = GENERATE(false, true);
  is_run ? save_run(from, here / "w") : fg::save_weights(from, here / "w");
  fg::load_weights(to, here / "w");
  for (std::size_t i = 0; i < from.parameters().size(); ++i)
    REQUIRE(to.parameters()[i] == double(from.parameters()[i]));
  to.parameters()[0] += 1e-12;
  is_run ? save_run(to, here / "w") : fg::save_weights(to, here / "w");
  fg::load_weights(back, here / "w");
  CHECK(weights_of(back) == weights_of(from));
}

TEMPLATE_TEST_CASE("a run's f32 weights are rounded to 16 bits, selection biases to sums of two",
                   "", fg::bf16, fg::fp16) {
  folder const here;
  floats from({.deviation = 0.5, .seed = 1}), back;
  set_biases(from);
  save_run(from, here / "run");
  network<halves<TestType>> net, again;
  fg::load_weights(net, here / "run");
  for (auto const& entry : net.entries()) {
    TestType const* const now = net.parameters().data() + entry.offset;
    std::int64_t const count = entry.rows * entry.cols;
    auto const sums = fg::detail::with_rest<TestType>(now, count);
    for (std::int64_t i = 0; i < count; ++i) {
      float const exact = from.parameters()[std::size_t(entry.offset + i)];
      if (entry.role == fg::role::selection_bias)
        REQUIRE(sums[i] == Approx(exact).epsilon(1e-5));
      else
        REQUIRE(float(now[i]) == float(TestType(exact)));
    }
  }
  fg::save_weights(net, here / "w");
  fg::load_weights(again, here / "w");
  CHECK(std::memcmp(net.parameters().data(), again.parameters().data(),
                    net.parameters().size_bytes()) == 0);
  fg::load_weights(back, here / "w");
  CHECK(back.weight("layers.1.mixture.bias")(0, 3) == Approx(1.003f).epsilon(1e-5));
  CHECK(back.weight("head.weight")(3, 5) == float(TestType(from.weight("head.weight")(3, 5))));
}

TEMPLATE_TEST_CASE("doubles are rounded to 16 bits once, not to f32 before", "", fg::bf16,
                   fg::fp16) {
  folder const here;
  doubles from({.deviation = 0.5, .seed = 1});
  network<halves<TestType>> to;
  bool const is_bf16 = std::is_same_v<TestType, fg::bf16>;
  double const step = is_bf16 ? 0x1p-7 : 0x1p-10, tie = 1 + step / 2, none = 0x1p-200;
  double const numbers[] = {tie + 0x1p-40, -tie - 0x1p-40, tie, tie + step - 0x1p-40, none, -none};
  double const nearest[] = {1 + step, -1 - step, 1, 1 + step, 0, 0};
  std::copy_n(numbers, 6, from.weight("head.weight").data);
  fg::save_weights(from, here / "w");
  fg::load_weights(to, here / "w");
  for (int i = 0; i < 6; ++i) CHECK(double(float(to.weight("head.weight").data[i])) == nearest[i]);
}

TEST_CASE("a number that the network's cannot hold is named, and nothing is loaded") {
  folder const here;
  floats from({.deviation = 0.5, .seed = 1});
  auto const refuses = [&](auto&& net, float number) {
    from.weight("head.weight")(1, 2) = number;
    fg::save_weights(from, here / "w");
    auto const before = weights_of(net);
    CHECK_THROWS_WITH(fg::load_weights(net, here / "w"),
                      ContainsSubstring("head.weight has ") &&
                          ContainsSubstring(" has no number so large: " + here / "w"));
    auto const after = weights_of(net);
    CHECK(std::memcmp(before.data(), after.data(), before.size() * sizeof before[0]) == 0);
  };
  network<halves<fg::fp16>> half;
  refuses(half, 65520);
  refuses(half, -70000);
  refuses(network<halves<fg::bf16>>(), 3.4e38f);
  for (float const number : {65519.0f, INFINITY, NAN}) {  // what is not finite is no loss
    from.weight("head.weight")(1, 2) = number;
    fg::save_weights(from, here / "w");
    fg::load_weights(half, here / "w");
    float const got(half.weight("head.weight")(1, 2));
    CHECK((number != number ? got != got : got == float(fg::fp16(number))));
  }
  doubles wide;
  wide.weight("head.weight")(1, 2) = 1e300;
  fg::save_weights(wide, here / "w");
  CHECK_THROWS_WITH(fg::load_weights(from, here / "w"),
                    ContainsSubstring("head.weight has 1e+300, and F32 has no number so large"));
}

TEST_CASE("beside a network's own weights stands no other tensor, and none that others publish") {
  folder const here;
  floats from({.deviation = 0.5, .seed = 1}), to;
  std::vector<fg::tensor_view> tensors;
  fg::list_tensors(from.entries(), "", from.parameters().data(), tensors);
  for (char const* const other : {"layers.0.rotary_emb.inv_freq", "mtp.0.norm", "other"}) {
    auto all = tensors;
    all.push_back({other, fg::dtype::f32, {1}, from.parameters().data()});
    fg::write_safetensors(here / "w", all);
    CHECK_THROWS_WITH(fg::load_weights(to, here / "w"),
                      ContainsSubstring(other + std::string(" is unknown here")));
  }
}

TEST_CASE("a folder with several files is read by its index") {
  folder const here;
  floats from({.deviation = 0.5, .seed = 1}), to;
  std::vector<fg::tensor_view> tensors;
  fg::list_tensors(from.entries(), "", from.parameters().data(), tensors);
  auto const half = tensors.begin() + std::ptrdiff_t(tensors.size() / 2);
  fg::write_safetensors(here / "a", std::span(tensors.begin(), half));
  fg::write_safetensors(here / "b", std::span(half, tensors.end()));
  std::string map;
  for (auto at = tensors.begin(); at != tensors.end(); ++at)
    map += (map.empty() ? "\"" : ", \"") + at->name + "\": \"" + (at < half ? "a" : "b") + "\"";
  put(here / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  fg::load_weights(to, here.path);
  CHECK(weights_of(to) == weights_of(from));
}
