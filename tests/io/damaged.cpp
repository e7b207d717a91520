// Files damaged at random, headers and indexes with hostile words: loaded, or refused in a sentence.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/checkpoint.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/reference/reference.hpp>
#include <random>

#include "../catch.hpp"
#include "../folder.hpp"
#include "learned.hpp"

namespace fg = finegrain;

namespace {

/// Files of each kind: more where the environment says so.
int const damages = [] {
  char const* const more = std::getenv("FINEGRAIN_DAMAGES");
  return more ? std::atoi(more) : 2000;
}();

using layer =
    fg::mixture<fg::config{.hidden = 8, .width = 8, .routed = 2, .top_k = 1, .bias = true}>;
using network = fg::network<layer, fg::basic_reference<float>>;
using reader = fg::frozen<layer, fg::cpu, fg::format::int8>;

/// Changes a text in one to three places.
struct damage {
  std::mt19937_64 random;

  std::size_t below(std::size_t n) { return n == 0 ? 0 : random() % n; }

  void operator()(std::string& text) {
    for (std::size_t n = 1 + below(3); n > 0; --n) once(text);
  }
  void once(std::string& text) {
    static std::string const words[] = {"-1",
                                        "0",
                                        "1e3",
                                        "1.5",
                                        "9223372036854775807",
                                        "4611686018427387904",
                                        "18446744073709551616",
                                        "NaN",
                                        "null",
                                        "true",
                                        "[]",
                                        "{}",
                                        "[[[[",
                                        "{\"a\":{",
                                        "\"",
                                        "\"\"",
                                        "\\u0000",
                                        "\\ud800",
                                        "\\",
                                        "\xff",
                                        "\xc0\x80",
                                        std::string(1, '\0'),
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        ":",
                                        "F8_E4M3",
                                        "BF16",
                                        "I64",
                                        "BOOL",
                                        "shape",
                                        "dtype",
                                        "data_offsets",
                                        "__metadata__",
                                        "weight_map",
                                        "..",
                                        "model.safetensors.index.json",
                                        "a.safetensors",
                                        "b.safetensors",
                                        "_scale_inv",
                                        "%s%n"};
    std::size_t const at = below(text.size() + 1), length = below(20);
    switch (below(8)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2: text.insert(at, words[below(std::size(words))]); break;
      case 3:
      case 4: {  // another number
        std::size_t const first = text.find_first_of("0123456789", at);
        if (first == text.npos) break;
        std::size_t const end = std::min(text.find_first_not_of("0123456789", first), text.size());
        text.replace(first, end - first,
                     below(2) ? words[below(7)] : std::to_string(random() % 1000));
        break;
      }
      case 5: text.erase(at, length); break;
      case 6: text.insert(below(text.size() + 1), std::string(text.substr(at, 5 * length))); break;
      default: text.resize(at);
    }
  }
};

/// A safetensors file, damaged: in its header, whose length is then given rightly, or anywhere.
std::string damaged(std::string file, damage& with) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (with.below(4) == 0) {
    with(file);
  } else {
    std::string header = file.substr(8, length);
    with(header);
    std::uint64_t const now = header.size();
    file.replace(8, length, header);
    std::memcpy(file.data(), &now, 8);
  }
  return file;
}

using state = learned<network>;

/// Tries damaged files: make(damage) puts one on the disk, load(state) reads it. A file that is
/// refused has changed nothing.
void attempt(std::uint64_t seed, auto&& make, auto&& load) {
  damage with{std::mt19937_64(seed)};
  int loaded = 0, refused = 0;
  state here;
  std::vector<float> before = here.numbers();
  for (int i = 0; i < damages; ++i) {
    make(with);
    try {
      load(here);
      ++loaded;
      before = here.numbers();
    } catch (fg::error const& e) {  // of the file, or that a weight is not finite
      ++refused;
      auto const now = here.numbers();
      if (std::strlen(e.what()) < 10 ||
          std::memcmp(now.data(), before.data(), now.size() * sizeof(float)) != 0) {
        CAPTURE(i, e.what());
        FAIL("no sentence, or what was refused has changed something");
      }
    }
  }
  CHECK(loaded > damages / 1000);
  CHECK(refused > damages / 2);
}

void save_run(std::string const& path) {
  state from;
  fg::save_checkpoint(from.net, fg::training_state<float>{from.first, from.second, 3}, path);
}

/// The network's tensors under published names, matrices in codes with scales, in several files.
void publish(network const& net, std::vector<std::string> const& paths) {
  std::vector<std::uint8_t> codes(64, 0x38);
  std::vector<float> scale{0.5f}, others(64, 2);
  std::vector<std::vector<fg::tensor_view>> lists(paths.size());
  std::size_t next = 0;
  for (auto const& entry : net.entries()) {
    std::string const name = fg::deepseek_name("layers.1.mixture." + entry.name);
    auto& list = lists[next++ % lists.size()];
    if (entry.role == fg::role::projection && entry.cols == entry.rows) {
      list.push_back({name, fg::dtype::f8_e4m3, {entry.rows, entry.cols}, codes.data()});
      list.push_back({name + "_scale_inv", fg::dtype::f32, {1, 1}, scale.data()});
    } else {
      list.push_back({name, fg::dtype::f32, fg::tensor_shape(entry), others.data()});
    }
  }
  for (std::size_t i = 0; i < paths.size(); ++i) fg::write_safetensors(paths[i], lists[i]);
}

}  // namespace

TEST_CASE("a damaged file of weights is loaded or refused, and then nothing has changed") {
  folder const here;
  std::string const path = here / "w";
  fg::save_weights(state().net, path);
  std::string const whole = contents(path);
  attempt(
      1, [&](damage& with) { put(path, damaged(whole, with)); },
      [&](state& to) { fg::load_weights(to.net, path); });
}

TEST_CASE("a damaged checkpoint is loaded or refused, and then nothing has changed") {
  folder const here;
  std::string const path = here / "run";
  save_run(path);
  std::string const whole = contents(path);
  int turn = 0;
  attempt(
      2, [&](damage& with) { put(path, damaged(whole, with)); },
      [&](state& to) {
        if (++turn % 2)
          fg::load_checkpoint(to.net, {to.first, to.second}, path);
        else
          fg::load_weights(to.net, path);
      });
}

TEST_CASE("damaged packed weights are loaded as they were, or refused") {
  folder const here;
  std::string const path = here / "w";
  reader const net{fg::network<reader::expression, fg::cpu>({.deviation = 0.3})};
  fg::save_weights(net, path);
  std::string const whole = contents(path);
  attempt(
      6, [&](damage& with) { put(path, damaged(whole, with)); },
      [&](state&) {
        reader const read = fg::load_weights<reader>(path);
        for (auto const [at, bytes] : reader::arrays())
          if (std::memcmp(read.packed().data() + at, net.packed().data() + at,
                          std::size_t(bytes)) != 0)
            FAIL("damage was not seen");
      });
}

TEST_CASE("damaged published weights are loaded or refused, and then nothing has changed") {
  folder const here;
  std::string const path = here / "model.safetensors";
  publish(state().net, {path});
  std::string const whole = contents(path);
  int turn = 0;
  attempt(
      3, [&](damage& with) { put(path, damaged(whole, with)); },
      [&](state& to) {
        if (++turn % 2)
          fg::load_published(to.net, here.path, "layers.1.mixture.");
        else
          fg::load_published<reader>(here.path, "layers.1.mixture.");
      });
}

TEST_CASE("a damaged index, and the files that it lists, are loaded or refused") {
  folder const here;
  std::string const a = here / "a.safetensors", b = here / "b.safetensors";
  std::string const path = here / "model.safetensors.index.json";
  publish(state().net, {a, b});
  std::string index = "{\"metadata\": {\"total_size\": 1.5e3, \"of\": [1, {}, [], null]}";
  for (auto const& [begin, file] : {std::pair(", \"weight_map\": {", a), std::pair(", ", b)}) {
    fg::safetensors_file const listed(file);
    for (auto const& tensor : listed.tensors()) {
      index += &tensor == &listed.tensors().front() ? begin : ", ";
      index += "\"" + tensor.name + "\": \"" + file.substr(here.path.size() + 1) + "\"";
    }
  }
  index += "}}";
  std::string const whole = contents(b);
  put(path, index);
  network net;
  REQUIRE_NOTHROW(fg::load_published(net, here.path, "layers.1.mixture."));
  attempt(
      4,
      [&](damage& with) {
        std::string text = index;
        bool const in_index = with.below(4) > 0;
        if (in_index) with(text);
        put(path, text);
        put(b, in_index ? whole : damaged(whole, with));
      },
      [&](state& to) { fg::load_published(to.net, here.path, "layers.1.mixture."); });
}

TEST_CASE("a damaged config says the same of the weights beside it, or is refused") {
  folder const here;
  publish(state().net, {here / "model.safetensors"});
  std::string const config = R"({"hidden_size": 8, "moe_intermediate_size": 8, "num_experts": 2,
    "num_experts_per_tok": 1, "scoring_func": "softmax", "hidden_act": "silu",
    "routed_scaling_factor": 1.0, "topk_method": "greedy"})";
  put(here / "config.json", config);
  network net;
  REQUIRE_NOTHROW(fg::load_published(net, here.path, "layers.1.mixture."));
  attempt(
      5,
      [&](damage& with) {
        std::string text = config;
        with(text);
        put(here / "config.json", text);
      },
      [&](state& to) { fg::load_published(to.net, here.path, "layers.1.mixture."); });
}
