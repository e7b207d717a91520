// Published weights: names, number formats, scales, shards; and what is refused.
// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <cmath>
#include <finegrain/config/presets.hpp>
#include <finegrain/config/profiles.hpp>
#include <finegrain/io/published.hpp>
#include <finegrain/reference/reference.hpp>
#include <map>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using executor = fg::basic_reference<float>;
using network = fg::network<tiny::decoder, executor>;
using layer = fg::network<fg::mixture<tiny::numbers.moe>, executor>;

/// Tensors whose numbers a test makes.
struct tensors {
  std::vector<fg::tensor_view> list;
  std::list<std::vector<std::byte>> numbers;

  /// x(i) for each number, as the dtype has it.
  template <class Number>
  void add(std::string name, fg::dtype type, std::vector<std::int64_t> shape, Number&& x) {
    std::int64_t const bytes = fg::tensor_bytes(type, shape), size = fg::facts(type).bytes;
    auto& to = numbers.emplace_back(std::size_t(bytes));
    auto const put = [&](std::int64_t i, auto number) {
      std::memcpy(to.data() + i * size, &number, sizeof number);
    };
    for (std::int64_t i = 0; i < bytes / size; ++i) switch (type) {
        case fg::dtype::f64: put(i, double(x(i))); break;
        case fg::dtype::f32: put(i, float(x(i))); break;
        case fg::dtype::f16: put(i, fg::fp16(float(x(i)))); break;
        case fg::dtype::bf16: put(i, fg::bf16(float(x(i)))); break;
        case fg::dtype::i64: put(i, std::int64_t(x(i))); break;
        default: put(i, std::uint8_t(x(i)));
      }
    list.push_back({std::move(name), type, std::move(shape), to.data()});
  }
  /// A network's weights under their published names.
  template <class Net>
  explicit tensors(Net const& net, fg::dtype type, std::string const& place = {}) {
    for (auto const& entry : net.entries()) {
      std::vector<std::int64_t> shape{entry.rows, entry.cols};
      if (entry.role != fg::role::projection) shape = {entry.rows * entry.cols};
      add(fg::deepseek_name(place + entry.name), type, shape,
          [&](std::int64_t i) { return net.parameters()[std::size_t(entry.offset + i)]; });
    }
  }
  tensors() = default;
  fg::tensor_view& operator[](std::string_view name) {
    return *std::find_if(list.begin(), list.end(),
                         [&](fg::tensor_view const& t) { return t.name == name; });
  }
  void remove(std::string_view name) {
    std::erase_if(list, [&](fg::tensor_view const& t) { return t.name == name; });
  }
  void write(std::string const& path) const { fg::write_safetensors(path, list); }
};

std::vector<float> weights_of(auto const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}
/// What loading says differs; the network must be as it was.
template <class Net>
std::vector<std::string> differences(Net& net, std::string const& path,
                                     std::string const& place = {}) {
  auto const before = weights_of(net);
  try {
    fg::load_published(net, path, place);
  } catch (fg::mismatch const& e) {
    CHECK(weights_of(net) == before);
    return *e.differences;
  }
  return {};
}
using lines = std::vector<std::string>;

/// A tied network whose weights have a scope of the user's own.
struct language : fg::named {
  static constexpr char const* name = "language";
  static constexpr auto expr = fg::tied(fg::embedding<32, 16>{}, fg::rmsnorm<16>{});
};
struct draft : fg::named {
  static constexpr char const* name = "draft";
  static constexpr auto expr = fg::embedding<32, 8>{} | fg::head<8, 32>{};
};
struct language_and_draft : fg::named {
  static constexpr auto expr = language{} + draft{};
};

network random_net() { return network({.deviation = 0.5, .seed = 1}); }

}  // namespace

TEST_CASE("every weight of a decoder has the name that DeepSeek publishes it under") {
  std::map<std::string, std::string> const names{
      {"embedding.table", "model.embed_tokens.weight"},
      {"layers.0.rmsnorm.gain", "model.layers.0.input_layernorm.weight"},
      {"layers.0.attention.query", "model.layers.0.self_attn.q_proj.weight"},
      {"layers.12.attention.key", "model.layers.12.self_attn.k_proj.weight"},
      {"layers.0.attention.value", "model.layers.0.self_attn.v_proj.weight"},
      {"layers.0.attention.output", "model.layers.0.self_attn.o_proj.weight"},
      {"layers.1.attention.q_proj", "model.layers.1.self_attn.q_proj.weight"},
      {"layers.1.attention.q_a", "model.layers.1.self_attn.q_a_proj.weight"},
      {"layers.1.attention.q_a_norm", "model.layers.1.self_attn.q_a_layernorm.weight"},
      {"layers.1.attention.q_b", "model.layers.1.self_attn.q_b_proj.weight"},
      {"layers.1.attention.kv_a", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"},
      {"layers.1.attention.kv_a_norm", "model.layers.1.self_attn.kv_a_layernorm.weight"},
      {"layers.1.attention.kv_b", "model.layers.1.self_attn.kv_b_proj.weight"},
      {"layers.0.attention.query_bias", "model.layers.0.self_attn.q_proj.bias"},
      {"layers.0.attention.key_bias", "model.layers.0.self_attn.k_proj.bias"},
      {"layers.0.attention.value_bias", "model.layers.0.self_attn.v_proj.bias"},
      {"layers.0.attention.query_norm", "model.layers.0.self_attn.q_norm.weight"},
      {"layers.0.attention.key_norm", "model.layers.0.self_attn.k_norm.weight"},
      {"layers.0.rmsnorm_2.gain", "model.layers.0.post_attention_layernorm.weight"},
      {"layers.0.mlp.gate", "model.layers.0.mlp.gate_proj.weight"},
      {"layers.0.mlp.down", "model.layers.0.mlp.down_proj.weight"},
      {"layers.1.mixture.router", "model.layers.1.mlp.gate.weight"},
      {"layers.1.mixture.bias", "model.layers.1.mlp.gate.e_score_correction_bias"},
      {"layers.1.mixture.shared.up", "model.layers.1.mlp.shared_experts.up_proj.weight"},
      {"layers.1.mixture.experts.63.up", "model.layers.1.mlp.experts.63.up_proj.weight"},
      {"layers.1.mixture.experts.gate_up", "model.layers.1.mlp.experts.gate_up_proj"},
      {"layers.1.mixture.experts.down", "model.layers.1.mlp.experts.down_proj"},
      {"rmsnorm.gain", "model.norm.weight"},
      {"head.weight", "lm_head.weight"},
      {"layers.1.mixture.temperature", ""},
      {"mixture.router", ""},
      {"router", ""},
      {"layers.1.convolution.kernel", ""},
      {"layers.1", ""},
      {"experts", ""},
      {"", ""}};
  for (auto const& [ours, theirs] : names) CHECK(fg::deepseek_name(ours) == theirs);
  auto const all_have_names = []<class E>(E, auto name) {
    std::set<std::string> published;
    for (auto const& entry : fg::list_weights<E>()) {
      CAPTURE(entry.name);
      CHECK_FALSE(name(entry.name).empty());
      CHECK(published.insert(name(entry.name)).second);
    }
  };
  all_have_names(tiny::decoder{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::deepseek_v2_lite>{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::deepseek_v3>{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::glm_4_7_flash>{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::olmoe_1b_7b>{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::qwen3_30b_a3b>{}, fg::deepseek_name);
  all_have_names(fg::decoder<fg::presets::qwen1_5_moe_a2_7b>{}, fg::qwen2_moe_name);
  all_have_names(fg::decoder<fg::presets::mixtral_8x7b>{}, fg::mixtral_name);
}

TEST_CASE("weights have the names of Qwen's and of Mixtral's models, and what is none has none") {
  CHECK(fg::qwen2_moe_name("layers.1.mixture.shared.down") ==
        "model.layers.1.mlp.shared_expert.down_proj.weight");
  CHECK(fg::qwen2_moe_name("layers.1.mixture.shared_gate") ==
        "model.layers.1.mlp.shared_expert_gate.weight");
  CHECK(fg::qwen2_moe_name("layers.23.mixture.experts.59.up") ==
        "model.layers.23.mlp.experts.59.up_proj.weight");
  CHECK(fg::mixtral_name("layers.0.mixture.router") ==
        "model.layers.0.block_sparse_moe.gate.weight");
  std::pair<char const*, char const*> const parts[] = {
      {"gate", "w1"}, {"down", "w2"}, {"up", "w3"}};
  for (auto const& [ours, theirs] : parts)
    CHECK(fg::mixtral_name("layers.31.mixture.experts.7." + std::string(ours)) ==
          "model.layers.31.block_sparse_moe.experts.7." + std::string(theirs) + ".weight");
  for (auto const name : {fg::qwen2_moe_name, fg::mixtral_name}) {
    CHECK(name("head.weight") == "lm_head.weight");
    CHECK(name("layers.0.attention.query_bias") == "model.layers.0.self_attn.q_proj.bias");
    for (char const* other : {"mixture.router", "router", "layers.1"}) CHECK(name(other).empty());
  }
}

TEST_CASE("an expert's weight is a part of a tensor whatever its stage is called") {
  auto const in = [](char const* ours) {
    auto const found = fg::detail::among_experts(ours);
    return found ? found->first + " " + std::to_string(found->second.place()) : "";
  };
  for (std::string const place : {"", "layers.3.mixture.", "shared.", "shared.mixture."}) {
    INFO(place);
    CHECK(in((place + "experts.3.up").c_str()) == place + "experts.gate_up 7");
    CHECK(in((place + "experts.3.down").c_str()) == place + "experts.down 3");
    CHECK(in((place + "shared.up").c_str()) == place + "shared.gate_up 1");
    for (char const* other : {"shared.down", "router", "experts.router"})
      CHECK(in((place + other).c_str()).empty());
  }
}

TEST_CASE("of Granite's experts the tensors have names, and no weight of one expert") {
  std::string const layer = "model.layers.3.";
  std::pair<char const*, char const*> const parts[] = {
      {"router", "block_sparse_moe.router.layer.weight"},
      {"experts.gate_up", "block_sparse_moe.input_linear.weight"},
      {"experts.down", "block_sparse_moe.output_linear.weight"},
      {"shared.gate_up", "shared_mlp.input_linear.weight"},
      {"shared.down", "shared_mlp.output_linear.weight"}};
  for (auto const& [ours, theirs] : parts)
    CHECK(fg::granite_moe_name("layers.3.mixture." + std::string(ours)) == layer + theirs);
  for (char const* none : {"layers.3.mixture.experts.1.gate", "layers.3.mixture.shared.up",
                           "layers.3.mixture.bias", "mixture.router", "router", "layers.1"})
    CHECK(fg::granite_moe_name(none).empty());
  CHECK(fg::granite_moe_name("embedding.table") == "model.embed_tokens.weight");
  CHECK(fg::granite_moe_name("layers.3.attention.key") == layer + "self_attn.k_proj.weight");
}

TEST_CASE("a layer is read under names other than DeepSeek's") {
  folder const here;
  using shape = std::vector<std::int64_t>;
  layer const from({.deviation = 0.5, .seed = 1});
  tensors file;
  for (auto const& entry : from.entries())
    file.add(fg::qwen2_moe_name("layers.3.mixture." + entry.name), fg::dtype::f32,
             entry.role == fg::role::projection ? shape{entry.rows, entry.cols} : shape{entry.cols},
             [&](std::int64_t i) { return from.parameters()[std::size_t(entry.offset + i)]; });
  file.write(here / "model.safetensors");
  layer to;
  fg::load_published(to, here.path, "layers.3.mixture.", fg::qwen2_moe_name);
  CHECK(weights_of(to) == weights_of(from));
  CHECK_THROWS_AS(fg::load_published(to, here.path, "layers.3.mixture."), fg::mismatch);
}

TEST_CASE("a selection bias may be a matrix of one row, and of no other form") {
  folder const here;
  using shape = std::vector<std::int64_t>;
  static constexpr fg::config c =
      fg::profiles::ernie_4_5({.hidden = 6, .width = 4, .routed = 5, .top_k = 2, .shared = 1});
  using mixture = fg::network<fg::mixture<c>, fg::reference>;
  mixture const from({.deviation = 0.5, .seed = 1});
  auto const write = [&](shape const& bias) {
    tensors file;
    for (auto const& entry : from.entries())
      file.add(fg::ernie_4_5_name("layers.3.mixture." + entry.name), fg::dtype::f32,
               entry.role == fg::role::selection_bias ? bias : shape{entry.rows, entry.cols},
               [&](std::int64_t i) { return from.parameters()[std::size_t(entry.offset + i)]; });
    file.write(here / "model.safetensors");
  };
  auto const read = [&](mixture& net) {
    fg::load_published(net, here.path, "layers.3.mixture.", fg::ernie_4_5_name);
  };
  CHECK(fg::ernie_4_5_name("layers.3.mixture.bias") ==
        "model.layers.3.mlp.moe_statics.e_score_correction_bias");
  for (shape const& bias : {shape{1, 5}, shape{5}}) {
    write(bias);
    mixture net;
    read(net);
    CHECK(weights_of(net) == weights_of(from));
  }
  for (shape const& bias : {shape{5, 1}, shape{1, 1, 5}, shape{1, 6}}) {
    write(bias);
    mixture net;
    CHECK_THROWS_WITH(read(net), ContainsSubstring("moe_statics.e_score_correction_bias is F32 ["));
  }
}

TEST_CASE("weights are read from every number format, rounded once") {
  folder const here;
  network from = random_net();
  auto const check = [&](fg::dtype type, auto&& rounded) {
    tensors(from, type).write(here / "model.safetensors");
    network to;
    fg::load_published(to, here.path);
    for (auto const& entry : from.entries())
      for (std::int64_t i = entry.offset; i < entry.offset + entry.rows * entry.cols; ++i)
        REQUIRE(to.parameters()[std::size_t(i)] == rounded(from.parameters()[std::size_t(i)]));
  };
  auto const same = [](float x) { return x; };
  check(fg::dtype::f32, same);
  check(fg::dtype::f64, same);
  check(fg::dtype::bf16, [](float x) { return float(fg::bf16(x)); });
  check(fg::dtype::f16, [](float x) { return float(fg::fp16(x)); });

  fg::network<tiny::decoder, fg::basic_reference<double>> wide;
  fg::load_published(wide, here / "model.safetensors");
  CHECK(wide.weight("head.weight")(3, 5) ==
        double(float(fg::fp16(from.weight("head.weight")(3, 5)))));
}

TEST_CASE("F8_E4M3 numbers are read times the scale of their 128 x 128 block") {
  folder const here;
  constexpr int rows = 200, cols = 300;
  tensors file;
  file.add("x.weight", fg::dtype::f8_e4m3, {rows, cols},
           [](std::int64_t i) { return i % 127 + i / 127 % 2 * 128; });
  file.add("x.weight_scale_inv", fg::dtype::f32, {2, 3},
           [](std::int64_t i) { return 0.25f + float(i); });
  file.write(here / "m.safetensors");
  fg::network<fg::linear<cols, rows>, executor> net;
  auto const name = [](std::string const& ours) { return "x." + ours; };
  fg::load_published(net, here / "m.safetensors", "", name);
  auto const value = [](std::int64_t code) {
    std::int64_t const e = code >> 3 & 15, m = code & 7;
    double const size = e == 0 ? std::ldexp(double(m), -9) : std::ldexp(double(8 + m), int(e) - 10);
    return code & 128 ? -size : size;
  };
  auto const w = net.weight("weight");
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) {
      int const i = r * cols + c;
      double const scale = 0.25 + r / 128 * 3 + c / 128;
      REQUIRE(double(w(r, c)) == value(i % 127 + i / 127 % 2 * 128) * scale);
    }
  CHECK(w(0, 126) == 448 * 0.25f);
  CHECK(std::isnan(fg::detail::e4m3_number(0x7f)));
  CHECK(std::isnan(fg::detail::e4m3_number(0xff)));

  auto const refused = [&] {
    file.write(here / "m.safetensors");
    try {
      fg::load_published(net, here / "m.safetensors", "", name);
    } catch (fg::mismatch const& e) {
      return *e.differences;
    }
    return lines{};
  };
  file["x.weight_scale_inv"].shape = {3, 2};
  CHECK(refused() ==
        lines{"x.weight_scale_inv is F32 [3, 2] in the file, [2, 3] of numbers for the "
              "scales of weight"});
  file.remove("x.weight_scale_inv");
  std::string const without =
      "x.weight is F8_E4M3 without scales: there is no x.weight_scale_inv or x.scale";
  CHECK(refused() == lines{without});
  file.add("x.weight_scale", fg::dtype::f32, {rows, 1}, [](std::int64_t) { return 1; });
  CHECK(refused() == lines{without, "x.weight_scale is unknown here"});  // others' scales of rows

  tensors gains;
  gains.add("gain", fg::dtype::f8_e4m3, {8}, [](std::int64_t) { return 56; });
  gains.write(here / "m.safetensors");
  fg::network<fg::rmsnorm<8>, executor> norm;
  CHECK_THROWS_WITH(fg::load_published(norm, here / "m.safetensors", "",
                                       [](std::string const& ours) { return ours; }),
                    ContainsSubstring("gain is F8_E4M3, which is read of matrices alone"));
}

TEST_CASE("a model in several files is read by its index, wherever that is named") {
  folder const here;
  network from = random_net();
  tensors const all(from, fg::dtype::bf16);
  tensors parts[3];
  std::string map;
  for (std::size_t i = 0; i < all.list.size(); ++i) {
    parts[i % 3].list.push_back(all.list[i]);
    map += (i ? ",\n" : "") +
           ("\"" + all.list[i].name + "\": \"part-" + std::to_string(i % 3) + ".safetensors\"");
  }
  for (int i = 0; i < 3; ++i) parts[i].write(here / "part-" + std::to_string(i) + ".safetensors");
  std::string const index = here / "model.safetensors.index.json";
  put(index, "{\"metadata\": {\"total_size\": 1.5e3, \"a\": [1, {}, [], null]}, \"weight_map\": {" +
                 map + "}}\n");
  network to, again;
  fg::load_published(to, here.path);
  fg::load_published(again, index);
  CHECK(weights_of(to) == weights_of(again));
  CHECK(to.weight("head.weight")(1, 2) == float(fg::bf16(from.weight("head.weight")(1, 2))));

  auto const refused = [&](std::string const& text, char const* why) {
    INFO(text);
    put(index, text);
    auto const before = weights_of(to);
    CHECK_THROWS_WITH(fg::load_published(to, here.path), ContainsSubstring(why));
    CHECK(weights_of(to) == before);
  };
  refused("{\"weight_map\": {\"x\": \"part-0.safetensors\"}}", "x is not in ");
  refused("{\"weight_map\": {\"x\": \"part-9.safetensors\"}}", "cannot open ");
  refused("{\"weight_map\": {\"x\": \"../part-0.safetensors\"}}", "in the same folder, at byte 21");
  refused("{\"weight_map\": {\"x\": \"..\"}}", "not a file");
  refused("{\"weight_map\": {\"x\": \"\"}}", "not a file");
  refused("{\"weight_map\": {\"x\": \"model.safetensors.index.json\"}}", "no safetensors file");
  refused("{\"weight_map\": {\"x\": 3}}", "a \" is missing, at byte 21");
  refused("{\"weight_map\": {}, \"weight_map\": {}}", "a name occurs twice, at byte 19");
  refused("{\"weight_map\": {\"x\": \"a\", \"x\": \"a\"}}", "a name occurs twice, at byte 26");
  refused("{\"metadata\": {}}", "the index has no weight_map");
  refused("{\"weight_map\": {}} {}", "goes on after its closing }");
  refused("{\"weight_map\": {}, \"a\": }", "a value is missing");
  refused("{\"weight_map\": {}, \"a\": " + std::string(40, '[') + "}", "nested too deeply");
  refused("[]", "does not begin with {");
  refused("", "does not begin with {");
  refused("{\"weight_map\": {}}", "embedding.table, is missing");

  std::string const whole = "{\"weight_map\": {" + map + "}}";
  for (std::size_t n = 0; n < whole.size(); ++n) refused(whole.substr(0, n), ", at byte ");
  parts[1].list.push_back(all.list[0]);
  parts[1].write(here / "part-1.safetensors");
  refused(whole, "is both in ");

  REQUIRE(::mkfifo((here / "pipe.json").c_str(), 0600) == 0);  // nobody waits for a writer
  CHECK_THROWS_WITH(fg::load_published(to, here / "pipe.json"), ContainsSubstring("not a file"));
}

TEST_CASE("an index does not open a file under a name that ends before a zero byte") {
  folder const here;
  std::string map;
  tensors const all(random_net(), fg::dtype::f32);
  all.write(here / "a.safetensors");
  for (auto const& tensor : all.list)
    map += (map.empty() ? "\"" : ", \"") + tensor.name + "\": \"a.safetensors\\u0000\"";
  put(here / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  network to;
  CHECK_THROWS_WITH(fg::load_published(to, here.path),
                    ContainsSubstring("the name of a file of an index has a zero byte, at byte "));
}

TEST_CASE("one layer is read out of a whole model") {
  folder const here;
  network from = random_net();
  tensors(from, fg::dtype::f32).write(here / "m.safetensors");
  layer net;
  fg::load_published(net, here / "m.safetensors", "layers.1.mixture.");
  for (auto const& entry : net.entries()) {
    auto const a = net.weight(entry.name), b = from.weight("layers.1.mixture." + entry.name);
    REQUIRE(std::equal(a.data, a.data + a.size(), b.data));
  }
  fg::network<fg::mlp<16, 24>, executor> dense;
  fg::load_published(dense, here / "m.safetensors", "layers.0.mlp.");
  CHECK(dense.weight("down")(3, 4) == from.weight("layers.0.mlp.down")(3, 4));
  CHECK(differences(net, here / "m.safetensors", "layers.0.mixture.").front() ==
        "model.layers.0.mlp.shared_experts.gate_proj.weight, here shared.gate, is missing, and "
        "none of the others is there: the file has, for example, lm_head.weight");
}

TEST_CASE("a file that has none of the names is told by one of its own") {
  folder const here;
  network from = random_net(), to;
  fg::save_published(from, here / "m", "", [](std::string_view ours) {
    return "base_model.model." + fg::deepseek_name(ours);
  });
  CHECK_THROWS_WITH(
      fg::load_published(to, here / "m"),
      ContainsSubstring("): model.embed_tokens.weight, here embedding.table, is missing, and none "
                        "of the others is there: the file has, for example, "
                        "base_model.model.lm_head.weight; "));
  auto const lines = differences(to, here / "m", "");
  CHECK(lines[1].ends_with(" is missing"));
  // Behind the prefix of a layer, a decoder's only name is that of the norm at its end.
  CHECK(differences(to, here / "m", "layers.1.").front() ==
        "embedding.table has no published name, and none of the others is there: the file has, for "
        "example, base_model.model.lm_head.weight");
  // One that has some is not.
  fg::save_published(from, here / "m", "", [](std::string_view ours) {
    return ours == "head.weight" ? "head" : fg::deepseek_name(ours);
  });
  CHECK(differences(to, here / "m", "") ==
        std::vector<std::string>{"lm_head.weight, here head.weight, is missing",
                                 "head is unknown here"});
}

TEST_CASE("a folder has one file or an index, and is refused where it has neither or both") {
  folder const here;
  network const from = random_net();
  network to;
  auto const load = [&] { fg::load_published(to, here.path); };
  CHECK_THROWS_WITH(load(), ContainsSubstring(here.path + " has neither model.safetensors nor its "
                                                          "index, model.safetensors.index.json"));
  std::string const path = here / "model.safetensors", index = path + ".index.json";
  fg::save_published(from, path);
  CHECK_NOTHROW(load());
  put(index, R"({"weight_map": {"lm_head.weight": "model.safetensors"}})");
  CHECK_THROWS_WITH(load(), ContainsSubstring(here.path + " has model.safetensors and an index: "
                                                          "give one of the two"));
  CHECK_NOTHROW(fg::load_published(to, path));
  CHECK_NOTHROW(fg::load_published(to, index));

  // Nor is one file written beside an index of others.
  std::string const before = contents(path);
  CHECK_THROWS_WITH(fg::save_published(from, path),
                    ContainsSubstring("index.json is there: the model would stand in one file"));
  CHECK(contents(path) == before);
  CHECK(here.files() == 2);
  CHECK_NOTHROW(fg::save_published(from, here / "layer.safetensors"));
}

// ---- all a layer's experts in one tensor --------------------------------------------------------

namespace {

/// No two shapes of an expert's matrices are the same.
constexpr fg::architecture fused_numbers = [] {
  fg::architecture a = tiny::numbers;
  a.moe.width = 24;
  a.moe.shared_gate = a.moe.renormalise = true;
  a.moe.bias = false;
  return fg::checked(a);
}();
using fused_network = fg::network<fg::decoder<fused_numbers>, executor>;
using fused_layer = fg::network<fg::mixture<fused_numbers.moe>, executor>;

/// A network's weights as Qwen3.5 has them: a layer's experts in two tensors.
tensors fused(fused_network const& net, fg::dtype type, std::string const& model = "model.") {
  tensors file;
  constexpr auto c = fused_numbers.moe;
  std::string const experts = "layers.1.mixture.experts.";
  auto const named = [&](std::string const& ours) {
    std::string theirs = fg::qwen2_moe_name(ours);
    if (theirs.starts_with("model.")) theirs.replace(0, 6, model);
    return theirs;
  };
  for (auto const& entry : net.entries())
    if (!entry.name.starts_with(experts))
      file.add(named(entry.name), type, fg::tensor_shape(entry),
               [&](std::int64_t i) { return net.parameters()[std::size_t(entry.offset + i)]; });
  auto const number = [&](std::int64_t expert, char const* part, std::int64_t row,
                          std::int64_t col) {
    return net.weight(experts + std::to_string(expert) + part)(row, col);
  };
  file.add(named(experts + "gate_up"), type, {c.routed, 2 * c.width, c.hidden},
           [&](std::int64_t i) {
             std::int64_t const row = i / c.hidden, of_two = row % (2 * c.width);
             return number(row / (2 * c.width), of_two < c.width ? ".gate" : ".up",
                           of_two % c.width, i % c.hidden);
           });
  file.add(named(experts + "down"), type, {c.routed, c.hidden, c.width}, [&](std::int64_t i) {
    std::int64_t const row = i / c.width;
    return number(row / c.hidden, ".down", row % c.hidden, i % c.width);
  });
  return file;
}

}  // namespace

TEST_CASE("experts that stand in one tensor are read out of it, a whole model's or a layer's") {
  folder const here;
  fused_network const from({.deviation = 0.5, .seed = 3});
  for (std::string const model : {"model.", "model.language_model."}) {
    CAPTURE(model);
    tensors file = fused(from, fg::dtype::f32, model);
    auto const one = [](std::int64_t) { return 1; };
    file.add("mtp.layers.0.mlp.experts.down_proj", fg::dtype::f32, {2}, one);
    file.add("model.mtp_block.0.input_layernorm.weight", fg::dtype::f32, {2}, one);
    if (model != "model.") file.add("model.visual.pos_embed.weight", fg::dtype::f32, {2}, one);
    tensors parts[2];
    std::string map;
    for (std::size_t i = 0; i < file.list.size(); ++i) {
      parts[i % 2].list.push_back(file.list[i]);
      map += (i ? ", \"" : "\"") + file.list[i].name + "\": \"part-" + std::to_string(i % 2) +
             ".safetensors\"";
    }
    for (int i = 0; i < 2; ++i) parts[i].write(here / "part-" + std::to_string(i) + ".safetensors");
    put(here / "model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");

    fused_network whole;
    fg::load_published(whole, here.path, "", fg::qwen2_moe_name);
    CHECK(weights_of(whole) == weights_of(from));
    fused_layer layer;
    fg::load_published(layer, here.path, "layers.1.mixture.", fg::qwen2_moe_name);
    for (auto const& entry : layer.entries()) {
      auto const a = layer.weight(entry.name);
      REQUIRE(std::equal(a.data, a.data + a.size(),
                         from.weight("layers.1.mixture." + entry.name).data));
    }
  }
  // The layer, of a model whose attention is another.
  put(here / "config.json", R"({"model_type": "qwen3_5_moe", "text_config": {
    "model_type": "qwen3_5_moe_text", "hidden_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "hidden_act": "silu",
    "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}})");
  fused_network whole;
  CHECK_THROWS_WITH(fg::load_published(whole, here.path, "", fg::qwen2_moe_name),
                    ContainsSubstring("layer_types.0 is linear_attention in config.json"));
  fused_layer layer;
  auto const random = weights_of(layer);
  fg::load_published(layer, here.path, "layers.1.mixture.", fg::qwen2_moe_name);
  CHECK(weights_of(layer) != random);

  fused(from, fg::dtype::bf16).write(here / "bf16.safetensors");
  fused_network rounded;
  fg::load_published(rounded, here / "bf16.safetensors", "", fg::qwen2_moe_name, "");
  for (char const* part : {"gate", "up", "down"}) {
    std::string const name = "layers.1.mixture.experts.3." + std::string(part);
    CHECK(rounded.weight(name)(15, 13) == float(fg::bf16(from.weight(name)(15, 13))));
  }
}

TEST_CASE("experts that stand in one tensor of another shape are refused in a line") {
  folder const here;
  fused_network const from({.deviation = 0.5, .seed = 3});
  fused_network net;
  tensors file = fused(from, fg::dtype::f32);
  auto const refused = [&] {
    file.write(here / "m.safetensors");
    auto const before = weights_of(net);
    try {
      fg::load_published(net, here / "m.safetensors", "", fg::qwen2_moe_name);
    } catch (fg::mismatch const& e) {
      CHECK(weights_of(net) == before);
      return *e.differences;
    }
    return lines{};
  };
  CHECK(refused() == lines{});
  std::string const experts = "model.layers.1.mlp.experts.";
  auto& gate_up = file[experts + "gate_up_proj"].shape;
  auto& down = file[experts + "down_proj"].shape;
  std::swap(gate_up[1], gate_up[2]);  // the other way round, as Qwen3-VL has them
  std::swap(down[1], down[2]);
  CHECK(refused() ==
        lines{experts + "gate_up_proj is F32 [4, 16, 48] in the file, [4, 48, 16] of numbers for "
                        "layers.1.mixture.experts.gate_up",
              experts + "down_proj is F32 [4, 24, 16] in the file, [4, 16, 24] of numbers for "
                        "layers.1.mixture.experts.down"});
  gate_up = {8, 24, 16};
  down = {4, 16, 24};
  CHECK(refused() ==
        lines{experts + "gate_up_proj is F32 [8, 24, 16] in the file, [4, 48, 16] of numbers for "
                        "layers.1.mixture.experts.gate_up"});
  gate_up = {4, 48, 16};
  file.add(experts + "gate_up_proj_bias", fg::dtype::f32, {4, 48}, [](std::int64_t) { return 0; });
  CHECK(refused() == lines{experts + "gate_up_proj_bias is unknown here"});
  file.remove(experts + "gate_up_proj_bias");
  file.remove(experts + "down_proj");
  CHECK(refused().front() ==
        experts + "0.down_proj.weight, here layers.1.mixture.experts.0.down, is missing");
}

TEST_CASE("F8_E4M3 experts in one tensor have the scales of their blocks, across gate and up too") {
  folder const here;
  constexpr fg::config c{.hidden = 130, .width = 72, .routed = 3, .top_k = 1};
  tensors file;
  file.add("gate.weight", fg::dtype::f32, {3, 130}, [](std::int64_t) { return 0; });
  auto const code = [](std::int64_t i) { return 48 + i % 11; };  // from 0.5 on
  auto const scale = [](std::int64_t i) { return 1 << i; };
  file.add("experts.gate_up_proj", fg::dtype::f8_e4m3, {3, 144, 130}, code);
  file.add("experts.gate_up_proj_scale_inv", fg::dtype::f32, {3, 2, 2}, scale);
  file.add("experts.down_proj", fg::dtype::f8_e4m3, {3, 130, 72}, code);
  file.add("experts.down_proj_scale_inv", fg::dtype::f32, {3, 2, 1}, scale);
  file.write(here / "m.safetensors");
  auto const name = [](std::string const& ours) {
    return fg::deepseek_name("layers.0.mixture." + ours).substr(std::strlen("model.layers.0.mlp."));
  };
  fg::network<fg::mixture<c>, executor> net;
  fg::load_published(net, here / "m.safetensors", "", name);
  auto const number = [&](std::int64_t i) {
    return fg::detail::e4m3_number(std::uint8_t(code(i)));
  };
  for (int e = 0; e < 3; ++e)
    for (int row = 0; row < 144; ++row) {
      auto const w = net.weight("experts." + std::to_string(e) + (row < 72 ? ".gate" : ".up"));
      for (int col = 0; col < 130; ++col)
        REQUIRE(w(row % 72, col) == number((e * 144 + row) * 130 + col) *
                                        float(scale((e * 2 + row / 128) * 2 + col / 128)));
    }
  for (int e = 0; e < 3; ++e)
    for (int row = 0; row < 130; ++row)
      for (int col = 0; col < 72; ++col)
        REQUIRE(net.weight("experts." + std::to_string(e) + ".down")(row, col) ==
                number((e * 130 + row) * 72 + col) * float(scale(e * 2 + row / 128)));
  file["experts.gate_up_proj_scale_inv"].shape = {3, 4};
  file.write(here / "m.safetensors");
  CHECK_THROWS_WITH(fg::load_published(net, here / "m.safetensors", "", name),
                    ContainsSubstring("F32 [3, 4] in the file, [3, 2, 2] of numbers for the scales "
                                      "of experts.gate_up"));
}

// ---- DeepSeek-V4's files ------------------------------------------------------------------------

TEST_CASE("DeepSeek-V4's mixtures have its names") {
  std::map<std::string, std::string> const names{
      {"layers.3.mixture.router", "layers.3.ffn.gate.weight"},
      {"layers.3.mixture.bias", "layers.3.ffn.gate.bias"},
      {"layers.0.mixture.table", "layers.0.ffn.gate.tid2eid"},
      {"layers.3.mixture.experts.255.gate", "layers.3.ffn.experts.255.w1.weight"},
      {"layers.3.mixture.experts.0.down", "layers.3.ffn.experts.0.w2.weight"},
      {"layers.3.mixture.experts.0.up", "layers.3.ffn.experts.0.w3.weight"},
      {"layers.3.mixture.shared.down", "layers.3.ffn.shared_experts.w2.weight"},
      {"layers.3.attention.query", ""},
      {"head.weight", ""}};
  for (auto const& [ours, theirs] : names) CHECK(fg::deepseek_v4_name(ours) == theirs);
  CHECK(fg::deepseek_name("layers.0.mixture.table").empty());
}

namespace {

constexpr fg::config v4{.hidden = 160,
                        .width = 96,
                        .routed = 3,
                        .top_k = 2,
                        .shared = 1,
                        .score = fg::score::sqrt_softplus,
                        .renormalise = true,
                        .scale = 1.5f,
                        .bias = true};

std::int64_t v4_code(std::int64_t i) { return (i * 37 + i / 7) % 256; }  // two of FP4
std::int64_t v4_scale(std::int64_t i) { return 120 + i * 5 % 13; }       // of E8M0
std::int64_t v4_fp8(std::int64_t i) { return i % 127 + i / 127 % 2 * 128; }

/// A layer as DeepSeek-V4 has them, beside what is none of its mixture's.
tensors v4_layer() {
  tensors file;
  auto const one = [](std::int64_t) { return 1; };
  file.add("layers.4.ffn.gate.weight", fg::dtype::bf16, {3, 160}, one);
  file.add("layers.4.ffn.gate.bias", fg::dtype::f32, {3}, [](std::int64_t i) { return i; });
  auto const expert = [&](std::string const& name, std::int64_t rows, std::int64_t cols) {
    bool const shared = name.starts_with("shared");
    std::string const all = "layers.4.ffn." + name;
    if (shared)
      file.add(all + ".weight", fg::dtype::f8_e4m3, {rows, cols}, v4_fp8);
    else
      file.add(all + ".weight", fg::dtype::i8, {rows, cols / 2}, v4_code);
    file.add(
        all + ".scale", fg::dtype::f8_e8m0,
        shared ? std::vector{(rows + 127) / 128, (cols + 127) / 128} : std::vector{rows, cols / 32},
        v4_scale);
  };
  for (std::string const of : {"experts.0.", "experts.1.", "experts.2.", "shared_experts."}) {
    expert(of + "w1", 96, 160);
    expert(of + "w2", 160, 96);
    expert(of + "w3", 96, 160);
  }
  file.add("layers.4.hc_attn_fn", fg::dtype::f32, {3}, one);
  file.add("layers.4.attn.wq_a.weight", fg::dtype::f8_e4m3, {3}, one);
  file.add("mtp.0.ffn.gate.weight", fg::dtype::bf16, {3}, one);
  return file;
}

}  // namespace

TEST_CASE("a mixture of DeepSeek-V4 is read: FP4 with the scale of 32, F8_E4M3 with a block's") {
  folder const here;
  v4_layer().write(here / "m.safetensors");
  auto const check = [&](auto net) {
    fg::load_published(net, here / "m.safetensors", "layers.4.mixture.", fg::deepseek_v4_name);
    constexpr int halves[] = {0, 1, 2, 3, 4, 6, 8, 12};  // [OCP Microscaling 1.0, 5.3.3]
    auto const scale = [](std::int64_t i) { return std::ldexp(1.0, int(v4_scale(i)) - 127); };
    for (char const* part : {"gate", "up", "down"}) {
      auto const w = net.weight("experts.1." + std::string(part));
      auto const s = net.weight("shared." + std::string(part));
      REQUIRE(w.rows == s.rows);
      for (std::int64_t r = 0; r < w.rows; ++r)
        for (std::int64_t c = 0; c < w.cols; ++c) {
          std::int64_t const i = r * w.cols + c;
          std::int64_t const code = v4_code(i / 2) >> (i % 2 * 4) & 15;
          double const size = halves[code & 7] / 2.0;
          REQUIRE(double(float(w(r, c))) ==
                  (code & 8 ? -size : size) * scale(r * (w.cols / 32) + c / 32));
          REQUIRE(double(float(s(r, c))) ==
                  double(fg::detail::e4m3_number(std::uint8_t(v4_fp8(i)))) *
                      scale(r / 128 * ((w.cols + 127) / 128) + c / 128));
        }
    }
    CHECK(double(float(net.weight("router")(2, 7))) == 1);
    CHECK(double(float(net.weight("bias")(0, 2))) == 2);
  };
  check(fg::network<fg::mixture<v4>, executor>());
  check(fg::network<fg::mixture<v4>, fg::basic_reference<double>>());
}

TEST_CASE("a hash layer's table of whole numbers is read") {
  folder const here;
  constexpr fg::config hashed = v4.by_id(5);
  tensors file = v4_layer();
  file.remove("layers.4.ffn.gate.bias");
  for (fg::dtype const type : {fg::dtype::i64, fg::dtype::f32}) {
    bool const whole = type == fg::dtype::i64;
    file.add("layers.4.ffn.gate.tid2eid", type,
             whole ? std::vector<std::int64_t>{5, 2} : std::vector<std::int64_t>{10},
             [](std::int64_t i) { return i % 3; });
    file.write(here / "m.safetensors");
    fg::network<fg::mixture<hashed>, executor> net;
    fg::load_published(net, here / "m.safetensors", "layers.4.mixture.", fg::deepseek_v4_name);
    for (int i = 0; i < 10; ++i) CHECK(net.weight("table")(i / 2, i % 2) == float(i % 3));
    file.remove("layers.4.ffn.gate.tid2eid");
  }
}

TEST_CASE("scales that are no numbers, too large numbers and other forms of FP4 are refused") {
  folder const here;
  fg::network<fg::mixture<v4>, executor> net;
  std::string const expert = "layers.4.ffn.experts.1.w2.";
  auto const refused = [&](tensors const& file) {
    file.write(here / "m.safetensors");
    auto const before = weights_of(net);
    std::string why;
    try {
      fg::load_published(net, here / "m.safetensors", "layers.4.mixture.", fg::deepseek_v4_name);
    } catch (fg::file_error const& e) {
      why = e.what();
    }
    CHECK(weights_of(net) == before);
    return why;
  };
  tensors file = v4_layer();
  auto& scale = *static_cast<std::uint8_t*>(file[expert + "scale"].data);
  auto const was = scale;
  scale = 255;
  CHECK_THAT(refused(file), ContainsSubstring(expert + "scale has a scale that is no number: "));
  scale = 254;  // 2^127
  *static_cast<std::uint8_t*>(file[expert + "weight"].data) = 0x07;
  CHECK_THAT(refused(file), ContainsSubstring(", and F32 has no number so large: "));
  scale = was;
  file[expert + "scale"].shape = {48, 10};
  CHECK_THAT(refused(file), ContainsSubstring("scale is F8_E8M0 [48, 10] in the file, [160, 3] of "
                                              "numbers for the scales of experts.1.down"));
  file[expert + "scale"].shape = {160, 3};
  file[expert + "weight"].shape = {48, 160};
  CHECK_THAT(refused(file), ContainsSubstring("weight is I8 [48, 160] in the file, [160, 48] of "
                                              "two numbers each for experts.1.down"));
  file[expert + "weight"].shape = {160, 48};
  file.remove(expert + "scale");
  CHECK_THAT(refused(file), ContainsSubstring("weight is I8 [160, 48] in the file, [160, 96] of "
                                              "numbers for experts.1.down"));
}

TEST_CASE("a tensor of a format that nobody knows is refused where it is read, and there alone") {
  folder const here;
  layer const from({.deviation = 0.5, .seed = 1});
  std::string const path = here / "m.safetensors";
  tensors file(from, fg::dtype::f32, "layers.1.mixture.");
  file.add("model.layers.0.x", fg::dtype::u8, {8}, [](std::int64_t) { return 0; });
  file.write(path);
  std::string bytes = contents(path);
  auto const write = [&](std::string_view name, std::string_view type, std::string_view word) {
    std::string changed = bytes;
    std::size_t const at = changed.find("\"" + std::string(type) + "\"", changed.find(name));
    changed.replace(at + 1, word.size(), word);  // of the same length
    put(path, changed);
  };
  layer net;
  write("model.layers.0.x", "U8", "F4");
  fg::load_published(net, path, "layers.1.mixture.");
  CHECK(weights_of(net) == weights_of(from));
  write("model.layers.1.mlp.experts.2.up_proj.weight", "F32", "C64");
  CHECK(
      differences(net, path, "layers.1.mixture.") ==
      lines{"model.layers.1.mlp.experts.2.up_proj.weight is C64 [16, 16] in the file, [16, 16] of "
            "numbers for experts.2.up"});
  fg::tensor_view const other[] = {{"x", fg::dtype::other, {4}, nullptr}};
  CHECK_THROWS_WITH(fg::write_safetensors(here / "o", other), ContainsSubstring("dtype is empty"));
}

TEST_CASE("what is missing, unknown or of another form is listed, and nothing is loaded") {
  folder const here;
  tensors file(random_net(), fg::dtype::bf16);
  std::string const path = here / "m.safetensors";
  network net;
  file.add("model.layers.0.self_attn.rotary_emb.inv_freq", fg::dtype::f32, {4},
           [](std::int64_t) { return 1; });
  file.write(path);
  CHECK(differences(net, path) == lines{});

  auto const five = [](std::int64_t) { return 5; };
  file.add("model.layers.2.self_attn.q_proj.weight", fg::dtype::f32, {4}, five);
  file.write(path);
  CHECK(differences(net, path) == lines{"model.layers.2.self_attn.q_proj.weight is unknown here"});
  file.add("model.layers.2.eh_proj.weight", fg::dtype::f32, {4}, five);
  file.write(path);
  CHECK(differences(net, path) == lines{});                              // multi-token prediction
  file.add("model.layers.1.eh_proj.weight", fg::dtype::f32, {4}, five);  // of a layer that is here
  file.add("model.layers.1.self_attn.sinks", fg::dtype::f32, {4}, five);
  file.write(path);
  CHECK(differences(net, path) == lines{"model.layers.1.eh_proj.weight is unknown here",
                                        "model.layers.1.self_attn.sinks is unknown here"});
  file.remove("model.layers.1.eh_proj.weight");
  file.remove("model.layers.1.self_attn.sinks");

  file.add("model.layers.1.mlp.gate.bias", fg::dtype::f32, {4}, [](std::int64_t) { return 0; });
  file.add("steps", fg::dtype::i64, {16}, [](std::int64_t) { return 0; });
  file["model.layers.0.mlp.down_proj.weight"].shape = {24, 16};
  file.remove("model.norm.weight");
  file["steps"].name = "model.norm.weight";
  file.remove("lm_head.weight");
  file.write(path);
  CHECK(differences(net, path) ==
        lines{"model.layers.0.mlp.down_proj.weight is BF16 [24, 16] in the file, [16, 24] of "
              "numbers for layers.0.mlp.down",
              "model.norm.weight is I64 [16] in the file, [16] of numbers for rmsnorm.gain",
              "lm_head.weight, here head.weight, is missing",
              "model.layers.1.mlp.gate.bias is unknown here"});

  fg::network<fg::linear<4, 4>, executor> other;
  CHECK_THROWS_WITH(fg::load_published(other, path),
                    ContainsSubstring("no name is known for the weights of a network at \"\""));
  layer part;
  for (char const* place : {"", "layers.1.mixture", "model.layers.1.mlp."})
    CHECK_THROWS_WITH(fg::load_published(part, path, place),
                      ContainsSubstring(std::string("network at \"") + place + "\"") &&
                          ContainsSubstring("as \"layers.3.mixture.\""));
  CHECK_THROWS_AS(fg::load_published(net, here / "nothing"), fg::file_error);
}

TEST_CASE("a tied network reads and writes one table; a head's beside it must be the same") {
  folder const here;
  std::string const path = here / "m.safetensors";
  using tied = fg::network<tiny::tied_decoder, executor>;
  tied const from({.deviation = 0.5, .seed = 1});
  fg::save_published(from, path, "", fg::deepseek_name, fg::dtype::f32);
  CHECK_FALSE(fg::safetensors_file(path).find("lm_head.weight"));
  tied to;
  fg::load_published(to, path);
  CHECK(weights_of(to) == weights_of(from));
  network untied;
  CHECK(differences(untied, path) == lines{"lm_head.weight, here head.weight, is missing"});

  auto const beside = [&](fg::dtype type, float last) {
    tensors file(from, fg::dtype::f32);
    auto const table = from.weight("embedding.table");
    file.add("lm_head.weight", type, {32, 16},
             [&](std::int64_t i) { return i < 511 ? table.data[i] : last; });
    file.write(path);
    tied other;
    return differences(other, path);
  };
  float const last = from.weight("embedding.table")(31, 15);
  lines const another{
      "lm_head.weight is not model.embed_tokens.weight in the file, and here they are one"};
  CHECK(beside(fg::dtype::f32, last) == lines{});
  CHECK(beside(fg::dtype::f32, std::nextafter(last, 9.0f)) == another);
  CHECK(beside(fg::dtype::f64, last) == another);  // the same numbers, but they are not compared

  tensors file(
      from, fg::dtype::f32);  // what stands outside of the model is unknown, as for any whole one
  file.add("score.weight", fg::dtype::f32, {4}, [](std::int64_t) { return 0; });
  file.write(path);
  CHECK(differences(to, path) == lines{"score.weight is unknown here"});

  tensors inside(from, fg::dtype::f32);  // a model of images too, and its head
  for (auto& t : inside.list) t.name = "model.language_model." + t.name.substr(6);
  inside.write(path);
  tied again;
  fg::load_published(again, path);
  CHECK(weights_of(again) == weights_of(from));
}

TEST_CASE("a tied table's head is known in a scope of the user's own too") {
  folder const here;
  std::string const path = here / "m.safetensors";
  auto const name = [](std::string_view ours) {
    return ours.starts_with("language.") ? fg::deepseek_name(ours.substr(9)) : std::string(ours);
  };
  fg::network<language_and_draft, executor> const from({.deviation = 0.5, .seed = 1});
  auto const beside = [&](float last) {
    tensors file;
    for (auto const& entry : from.entries())
      file.add(name(entry.name), fg::dtype::f32,
               entry.role == fg::role::projection ? std::vector{entry.rows, entry.cols}
                                                  : std::vector{entry.cols},
               [&](std::int64_t i) { return from.parameters()[std::size_t(entry.offset + i)]; });
    auto const table = from.weight("language.embedding.table");
    file.add("lm_head.weight", fg::dtype::f32, {32, 16},
             [&](std::int64_t i) { return i < 511 ? table.data[i] : last; });
    file.write(path);
    fg::network<language_and_draft, executor> to;
    fg::load_published(to, path, "", name);
    return weights_of(to) == weights_of(from);
  };
  float const last = from.weight("language.embedding.table")(31, 15);
  CHECK(beside(last));
  CHECK_THROWS_WITH(beside(std::nextafter(last, 9.0f)),
                    ContainsSubstring("lm_head.weight is not model.embed_tokens.weight"));
}
