// Frozen networks out of files: the codes of a network that was loaded and then quantised.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

template <class E, fg::formats F>
using frozen = fg::frozen<E, fg::cpu, F>;

/// A decoder's block beside another by shares, with a router of fixed choices and a plain stack behind.
constexpr fg::config moe{
    .hidden = 16, .width = 24, .routed = 4, .top_k = 2, .shared = 1, .bias = true};
constexpr fg::config hashed = [] {
  fg::config c = moe;
  c.bias = false;
  c.selection = fg::selection::hash;
  c.vocabulary = 32;
  return c;
}();
struct composed {
  static constexpr auto side = fg::residual(fg::rmsnorm<16>{} | fg::mixture<moe>{});
  static constexpr auto all = fg::embedding<32, 16>{} | fg::blend(side, fg::linear<16, 16>{}) |
                              fg::repeat<3>(side) | fg::residual(fg::mixture<hashed>{}) |
                              fg::rmsnorm<16>{} | fg::head<16, 32>{};
  using type = std::remove_const_t<decltype(all)>;
};

/// Logits of the same text, in the same pool's order.
template <class Net>
std::vector<float> logits(Net& net) {
  tiny::text const text(19);
  std::vector<float> y(19 * 32);
  net(text.inputs(), {y.data(), 19, 32});
  return y;
}

template <class E, fg::formats F>
void check_same(fg::network<E, fg::cpu> const& net, frozen<E, F> read) {
  frozen<E, F> made(net);
  auto const y = logits(made);
  CHECK(std::isfinite(y[0]));
  CHECK(logits(read) == y);
}

template <class E>
fg::network<E, fg::cpu> random_net() {
  fg::network<E, fg::cpu> net({.deviation = 0.3, .seed = 4});
  for (auto const& entry : net.entries())
    if (entry.role == fg::role::selection_bias)
      for (std::int64_t i = 0; i < entry.cols; ++i)
        net.weight(entry.name)(0, i) = 0.1f * float(i % 3);
  return net;
}

/// Writes a network under the names that DeepSeek publishes, in bf16.
template <class Net>
void publish(Net& net, std::string const& path) {
  std::list<std::vector<fg::bf16>> numbers;
  std::vector<fg::tensor_view> tensors;
  for (auto const& entry : net.entries()) {
    auto& to = numbers.emplace_back();
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i) {
      float& x = net.parameters()[std::size_t(entry.offset + i)];
      to.emplace_back(x);
      x = float(to.back());
    }
    std::vector<std::int64_t> shape{entry.rows, entry.cols};
    if (entry.role != fg::role::projection) shape = {entry.rows * entry.cols};
    tensors.push_back({fg::deepseek_name(entry.name), fg::dtype::bf16, shape, to.data()});
  }
  fg::write_safetensors(path, tensors);
}

/// Freezes a network that was loaded, and one out of the same file.
template <class E, fg::formats F>
void check_file(bool published) {
  folder const here;
  auto net = random_net<E>();
  if (published) {
    publish(net, here / "w");
    check_same<E, F>(net, fg::load_published<frozen<E, F>>(here / "w"));
  } else {
    fg::save_weights(net, here / "w");
    check_same<E, F>(net, fg::load_weights<frozen<E, F>>(here / "w"));
  }
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("a frozen network out of a file has the bits of a network's from there", "",
                       ((fg::format F, fg::format Rest), F, Rest),
                       (fg::format::f32, fg::format::f32), (fg::format::bf16, fg::format::bf16),
                       (fg::format::int8, fg::format::bf16), (fg::format::int4, fg::format::int8),
                       (fg::format::fp8, fg::format::f32)) {
  check_file<tiny::decoder, fg::formats(F, Rest)>(true);
  check_file<tiny::latent_decoder, fg::formats(F, Rest)>(true);
  check_file<tiny::tied_decoder, fg::formats(F, Rest)>(true);
  check_file<composed::type, fg::formats(F, Rest)>(false);
}

TEST_CASE("experts that stand in one tensor are frozen out of it") {
  using layer = frozen<fg::mixture<moe>, fg::format::int8>;
  folder const here;
  auto net = random_net<fg::mixture<moe>>();
  std::vector<fg::tensor_view> tensors;
  std::vector<float> gate_up, down;
  for (auto const& entry : net.entries())
    if (!entry.name.starts_with("experts."))
      tensors.push_back({entry.name, fg::dtype::f32, fg::tensor_shape(entry),
                         net.parameters().data() + entry.offset});
  for (int e = 0; e < moe.routed; ++e)
    for (char const* part : {".gate", ".up", ".down"}) {
      auto const w = net.weight("experts." + std::to_string(e) + part);
      auto& to = part == std::string(".down") ? down : gate_up;
      to.insert(to.end(), w.data, w.data + w.size());
    }
  tensors.push_back({"experts.gate_up", fg::dtype::f32, {4, 48, 16}, gate_up.data()});
  tensors.push_back({"experts.down", fg::dtype::f32, {4, 16, 24}, down.data()});
  fg::write_safetensors(here / "together", tensors);
  auto const same = [](std::string_view name) { return std::string(name); };
  auto read = fg::load_published<layer>(here / "together", "", same);
  layer made(net);
  std::vector<float> x(5 * 16, 0.25f), y(5 * 16), z(5 * 16);
  made({x.data(), 5, 16}, {y.data(), 5, 16});
  read({x.data(), 5, 16}, {z.data(), 5, 16});
  CHECK(y == z);
}

TEST_CASE("one layer of a published model is frozen, on an executor of the caller's") {
  using layer = frozen<fg::mixture<tiny::numbers.moe>, fg::format::int8>;
  folder const here;
  auto net = random_net<tiny::decoder>();
  publish(net, here / "p");
  fg::network<layer::expression, fg::cpu> alone;
  fg::load_published(alone, here / "p", "layers.1.mixture.");
  fg::thread_pool pool(3);
  auto read =
      fg::load_published<layer>(here / "p", "layers.1.mixture.", fg::deepseek_name, fg::cpu{pool});
  CHECK(read.on().threads.workers() == 3);
  layer made(alone);
  std::vector<float> x(5 * 16, 0.25f), y(5 * 16), z(5 * 16);
  made({x.data(), 5, 16}, {y.data(), 5, 16});
  read({x.data(), 5, 16}, {z.data(), 5, 16});
  CHECK(y == z);
}

TEST_CASE("a frozen network is not made of weights that are not finite, or of another model's") {
  folder const here;
  auto net = random_net<tiny::decoder>();
  net.weight("layers.1.mixture.experts.2.up")(3, 1) = std::nanf("");
  fg::save_weights(net, here / "w");
  auto const load = [&]<fg::format F>(std::integral_constant<fg::format, F>) {
    return fg::load_weights<frozen<tiny::decoder, F>>(here / "w");
  };
  using Catch::Matchers::Contains;
  using fg::format;
  CHECK_THROWS_WITH(load(std::integral_constant<format, format::int4>()),
                    Contains("\"layers.1.mixture.experts.2.up\" has a weight that is not finite"));
  CHECK_NOTHROW(load(std::integral_constant<format, format::bf16>()));
  using other = frozen<tiny::latent_decoder, fg::formats(format::int4)>;
  CHECK_THROWS_AS(fg::load_weights<other>(here / "w"), fg::mismatch);
  CHECK_THROWS_AS(fg::load_published<other>(here / "w"), fg::mismatch);
  CHECK_THROWS_AS(fg::load_weights<other>(here / "nothing"), fg::file_error);
}
