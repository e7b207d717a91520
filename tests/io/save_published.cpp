// Weights written for other programs: names, number formats, and what is refused.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/config/presets.hpp>
#include <finegrain/config/profiles.hpp>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/io/published.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using executor = fg::basic_reference<float>;
using network = fg::network<tiny::decoder, executor>;

/// Weights of 16 bits on the host: nothing runs, they are only held.
struct halves {
  using scalar = fg::bf16;
  fg::parallel threads;
};

std::vector<float> weights_of(auto const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

/// A layer's file, read into codes, has the outputs of the codes that are made of the layer.
template <fg::Expr Layer>
void check_codes(fg::network<Layer, fg::cpu> const& from, std::string const& path,
                 std::string (*name)(std::string_view)) {
  using reader = fg::frozen<Layer, fg::cpu, fg::format::int8>;
  auto codes = fg::load_published<reader>(path, "layers.7.mixture.", name);
  auto same = fg::quantize<fg::format::int8>(from);
  std::vector<float> x(3 * 16), y(3 * 16), z(3 * 16);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(float(i));
  codes({x.data(), 3, 16}, {y.data(), 3, 16});
  same({x.data(), 3, 16}, {z.data(), 3, 16});
  CHECK(y == z);
}

}  // namespace

TEST_CASE("what is published is read as it was, rounded once to the type it was written in") {
  folder const here;
  network const from({.deviation = 0.5, .seed = 1});
  auto const check = [&](fg::dtype type, auto&& rounded) {
    fg::save_published(from, here / "m.safetensors", "", fg::deepseek_name, type);
    network to;
    fg::load_published(to, here / "m.safetensors");
    for (auto const& entry : from.entries())
      for (std::int64_t i = entry.offset; i < entry.offset + entry.rows * entry.cols; ++i) {
        float const x = from.parameters()[std::size_t(i)];
        bool const bias = entry.role == fg::role::selection_bias;
        REQUIRE(to.parameters()[std::size_t(i)] == (bias ? x : rounded(x)));
      }
  };
  auto const same = [](float x) { return x; };
  check(fg::dtype::f32, same);
  check(fg::dtype::f64, same);
  check(fg::dtype::f16, [](float x) { return float(fg::fp16(x)); });
  check(fg::dtype::bf16, [](float x) { return float(fg::bf16(x)); });
  CHECK(here.files() == 1);
}

TEST_CASE("a published file has the names, types and shapes of DeepSeek's, and says whose it is") {
  folder const here;
  network const from({.deviation = 0.5, .seed = 1});
  fg::save_published(from, here / "m.safetensors");
  fg::safetensors_file const file(here / "m.safetensors");
  REQUIRE(file.metadata("format"));
  CHECK(*file.metadata("format") == "pt");  // which transformers asks for
  CHECK(file.tensors().size() == from.entries().size());
  auto const is = [&](char const* name, fg::dtype type, std::vector<std::int64_t> const& shape) {
    CAPTURE(name);
    auto const* const tensor = file.find(name);
    REQUIRE(tensor);
    CHECK(tensor->type == type);
    CHECK(tensor->shape == shape);
  };
  using enum fg::dtype;
  is("model.embed_tokens.weight", bf16, {32, 16});
  is("model.norm.weight", bf16, {16});
  is("model.layers.0.self_attn.k_proj.weight", bf16, {8, 16});
  is("model.layers.1.mlp.gate.weight", bf16, {4, 16});
  is("model.layers.1.mlp.gate.e_score_correction_bias", f32, {4});
  is("model.layers.1.mlp.experts.3.down_proj.weight", bf16, {16, 16});
  is("model.layers.1.mlp.shared_experts.up_proj.weight", bf16, {16, 16});
  is("lm_head.weight", bf16, {32, 16});
}

TEST_CASE("a layer is published at its place, under others' names too, and read into codes") {
  folder const here;
  using mixture = fg::mixture<fg::config{.hidden = 16, .width = 8, .routed = 4, .top_k = 2}>;
  fg::network<mixture, fg::cpu> const from({.deviation = 0.5, .seed = 1});
  fg::save_published(from, here / "m", "layers.7.mixture.", fg::mixtral_name, fg::dtype::f32);
  CHECK(
      fg::safetensors_file(here / "m").find("model.layers.7.block_sparse_moe.experts.3.w2.weight"));
  fg::network<mixture, fg::cpu> to;
  fg::load_published(to, here / "m", "layers.7.mixture.", fg::mixtral_name);
  CHECK(weights_of(to) == weights_of(from));

  check_codes(from, here / "m", fg::mixtral_name);
}

TEST_CASE("of Granite's mixtures all a layer's experts are published in two tensors") {
  folder const here;
  constexpr fg::config c{.hidden = 16, .width = 8, .routed = 5, .top_k = 2, .shared = 2};
  using mixture = fg::mixture<c>;
  fg::network<mixture, fg::cpu> const from({.deviation = 0.5, .seed = 1});
  fg::save_published(from, here / "m", "layers.7.mixture.", fg::granite_moe_name, fg::dtype::f32);
  fg::safetensors_file const file(here / "m");
  CHECK(file.tensors().size() == 5);
  std::string const layer = "model.layers.7.";
  auto const read = [&](std::string const& name, std::vector<std::int64_t> const& shape) {
    auto const* const tensor = file.find(layer + name);
    REQUIRE(tensor);
    CHECK(tensor->shape == shape);
    std::vector<float> all(std::size_t(tensor->end - tensor->begin) / 4);
    file.read(*tensor, all.data());
    return all;
  };
  auto const has = [&](std::vector<float> const& all, std::int64_t at, std::string const& name) {
    auto const w = from.weight(name);
    CHECK(std::equal(w.data, w.data + w.size(), all.begin() + at * w.size()));
  };
  auto const input = read("block_sparse_moe.input_linear.weight", {5, 16, 16});
  auto const output = read("block_sparse_moe.output_linear.weight", {5, 16, 8});
  for (int i = 0; i < 5; ++i) {
    std::string const expert = "experts." + std::to_string(i);
    has(input, 2 * i, expert + ".gate");
    has(input, 2 * i + 1, expert + ".up");
    has(output, i, expert + ".down");
  }
  auto const shared = read("shared_mlp.input_linear.weight", {32, 16});
  has(shared, 0, "shared.gate");
  has(shared, 1, "shared.up");
  has(read("shared_mlp.output_linear.weight", {16, 16}), 0, "shared.down");
  has(read("block_sparse_moe.router.layer.weight", {5, 16}), 0, "router");

  fg::network<mixture, fg::cpu> to;
  fg::load_published(to, here / "m", "layers.7.mixture.", fg::granite_moe_name);
  CHECK(weights_of(to) == weights_of(from));
  check_codes(from, here / "m", fg::granite_moe_name);

  fg::save_published(from, here / "h", "layers.7.mixture.", fg::granite_moe_name);  // in BF16
  fg::load_published(to, here / "h", "layers.7.mixture.", fg::granite_moe_name);
  for (auto const& entry : from.entries()) {
    fg::matrix<float const> const a = from.weight(entry.name), b = to.weight(entry.name);
    for (std::int64_t i = 0; i < a.size(); ++i) REQUIRE(b.data[i] == float(fg::bf16(a.data[i])));
  }

  using fewer = fg::mixture<fg::config{.hidden = 16, .width = 8, .routed = 4, .top_k = 2}>;
  fg::network<fewer, fg::cpu> other;
  CHECK_THROWS_WITH(
      fg::load_published(other, here / "m", "layers.7.mixture.", fg::granite_moe_name),
      ContainsSubstring("input_linear.weight is F32 [5, 16, 16] in the file, [4, 16, 16] of "
                        "numbers for experts.gate_up"));
  fg::save_published(other, here / "f", "layers.7.mixture.", fg::granite_moe_name);
  CHECK_THROWS_WITH(
      fg::load_published(to, here / "f", "layers.7.mixture.", fg::granite_moe_name),
      ContainsSubstring("shared_mlp.input_linear.weight, here shared.gate_up, is missing"));
}

TEST_CASE("ERNIE 4.5's selection biases are published as matrices of one row") {
  folder const here;
  constexpr fg::config c =
      fg::profiles::ernie_4_5({.hidden = 16, .width = 8, .routed = 5, .top_k = 2, .shared = 1});
  fg::network<fg::mixture<c>, fg::cpu> const from({.deviation = 0.5, .seed = 1});
  fg::save_published(from, here / "m", "layers.7.mixture.", fg::ernie_4_5_name);
  fg::safetensors_file const file(here / "m");
  auto const* const bias = file.find("model.layers.7.mlp.moe_statics.e_score_correction_bias");
  REQUIRE(bias);
  CHECK(bias->type == fg::dtype::f32);
  CHECK(bias->shape == std::vector<std::int64_t>{1, 5});
  CHECK(file.find("model.layers.7.mlp.gate.weight")->shape == std::vector<std::int64_t>{5, 16});
}

TEST_CASE("a table is published in integers, and a sum of two 16-bit numbers in f32") {
  folder const here;
  constexpr fg::config v4 =
      fg::profiles::deepseek_v4({.hidden = 8, .width = 4, .routed = 6, .top_k = 2}).by_id(5);
  fg::network<fg::mixture<v4>, executor> const from({.deviation = 0.5, .seed = 1});
  auto const publish = [&](fg::dtype type) {
    fg::save_published(from, here / "m", "layers.0.mixture.", fg::deepseek_v4_name, type);
  };
  publish(fg::dtype::f32);
  fg::safetensors_file const file(here / "m");
  auto const* const table = file.find("layers.0.ffn.gate.tid2eid");
  REQUIRE(table);
  CHECK(table->type == fg::dtype::i64);
  CHECK(table->shape == std::vector<std::int64_t>{5, 2});
  fg::network<fg::mixture<v4>, executor> to;
  fg::load_published(to, here / "m", "layers.0.mixture.", fg::deepseek_v4_name);
  CHECK(weights_of(to) == weights_of(from));

  to.weight("table")(3, 1) = 2.5f;
  CHECK_THROWS_WITH(fg::save_published(to, here / "m", "layers.0.mixture.", fg::deepseek_v4_name),
                    ContainsSubstring("table has 2.5, which is no integer"));

  network wide({.deviation = 0.5, .seed = 1});
  for (int i = 0; i < 4; ++i) wide.weight("layers.1.mixture.bias")(0, i) = 1 + 0.001f * float(i);
  fg::save_published(wide, here / "w", "", fg::deepseek_name, fg::dtype::f32);
  fg::network<tiny::decoder, halves> held;
  fg::load_published(held, here / "w");
  fg::save_published(held, here / "h");
  network back;
  fg::load_published(back, here / "h");
  CHECK(back.weight("layers.1.mixture.bias")(0, 3) == Approx(1.003f).epsilon(1e-5));
  CHECK(back.weight("head.weight")(3, 5) == float(fg::bf16(wide.weight("head.weight")(3, 5))));
}

TEST_CASE("what cannot be published is named, and a file that was there stays") {
  folder const here;
  put(here / "m", "before");
  network net({.deviation = 0.5, .seed = 1});
  auto const refuses = [&](auto&& publish, std::string const& why) {
    CHECK_THROWS_WITH(publish(), ContainsSubstring(why));
    CHECK(contents(here / "m") == "before");
    CHECK(here.files() == 1);
  };
  refuses([&] { fg::save_published(net, here / "m", "", fg::deepseek_name, fg::dtype::i64); },
          "weights are published in F64, F32, BF16 or F16");
  refuses([&] { fg::save_published(net, here / "m", "somewhere."); },
          "embedding.table has no published name at \"somewhere.\"");
  refuses(
      [&] { fg::save_published(net, here / "m", "", [](auto) { return std::string("same"); }); },
      "occurs twice");
  refuses(
      [&] {
        fg::save_published(net, here / "m", "", [](std::string_view ours) -> std::string {
          bool const one_of_all = ours.ends_with(".2.up");
          return one_of_all ? "" : std::string(ours);
        });
      },
      "of the weights that layers.1.mixture.experts.gate_up has, some have names of their own");
  refuses(
      [&] {
        fg::save_published(net, here / "m", "", [](std::string_view ours) -> std::string {
          return ours.ends_with("shared.gate") ? "" : std::string(ours);
        });
      },
      "of the weights that layers.1.mixture.shared.gate_up has, some have names of their own");
  refuses(
      [&] {
        fg::save_published(net, here / "m", "", [](std::string_view ours) -> std::string {
          if (ours.find("experts.") == ours.npos) return std::string(ours);
          return ours.ends_with("experts.gate_up") || ours.ends_with("experts.down") ? "all" : "";
        });
      },
      "a part of the tensor all occurs twice");
  net.weight("layers.1.mixture.experts.2.up")(1, 2) = -7e4f;
  refuses([&] { fg::save_published(net, here / "m", "", fg::deepseek_name, fg::dtype::f16); },
          "layers.1.mixture.experts.2.up has -70000, and F16 has no number so large");
  net.weight("layers.1.mixture.experts.2.up")(1, 2) = INFINITY;  // is no loss
  fg::save_published(net, here / "m", "", fg::deepseek_name, fg::dtype::f16);
  fg::load_published(net, here / "m");
  CHECK(std::isinf(net.weight("layers.1.mixture.experts.2.up")(1, 2)));
}
