// Files changed at each of their bytes: read or refused in one line, in memory of the file's size.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstddef>
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/checkpoint.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/reference/reference.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"
#include "../folder.hpp"
#include "learned.hpp"

// The bytes that were asked for are counted.
namespace {

std::atomic<std::size_t> allocated{0};

void allocating(std::size_t bytes) { allocated += bytes; }

}  // namespace

namespace fg = finegrain;

namespace {

using layer =
    fg::mixture<fg::config{.hidden = 2, .width = 2, .routed = 2, .top_k = 1, .bias = true}>;
using network = fg::network<layer, fg::basic_reference<float>>;

/// What means something to one of the readers.
std::string const words[] = {"{",
                             "}",
                             "[",
                             "]",
                             ",",
                             ":",
                             "\"",
                             "\\",
                             "-",
                             ".",
                             "e9",
                             "0",
                             " ",
                             "\n",
                             "/",
                             "-1",
                             "1e999",
                             "1e-999",
                             "4611686018427387904",
                             "9223372036854775807",
                             "18446744073709551616",
                             "null",
                             "NaN",
                             "-Infinity",
                             "\"\"",
                             "{}",
                             "[]",
                             "\\u0000",
                             "\\u001b[2J",
                             "\\u009b2J",
                             "\\ud800",
                             "\xc2\x9b",
                             "\xff",
                             std::string(1, '\0'),
                             "\"a\":{},",
                             "\"F4\""};

/// Where a string, a number or a word ends that begins at a byte; the byte itself if none does.
std::size_t end_of_token(std::string_view text, std::size_t at) {
  constexpr std::string_view marks = " \n\r\t{}[],:";
  if (marks.find(text[at]) != marks.npos) return at;
  if (at > 0 && text[at] != '"' && marks.find(text[at - 1]) == marks.npos) return at;
  std::size_t const end =
      text[at] == '"' ? text.find('"', at + 1) + 1 : text.find_first_of(marks, at);
  return end == 0 ? at : std::min(end, text.size());
}

/// f(mutant) with every text that is this one cut short, without a byte, with another bit in a byte,
/// with a word put in or in a token's place, or with many brackets in a token's place: about 50 for
/// each byte, of which it takes every so many-th.
void each_mutant(std::string const& text, std::size_t every, auto&& f) {
  std::string const deep[] = {std::string(20'000, '['), [] {
                                std::string objects;
                                for (int i = 0; i < 6'000; ++i) objects += "{\"a\":";
                                return objects;
                              }()};
  std::size_t n = 0;
  std::string mutant;
  auto const replaced = [&](std::size_t at, std::size_t length, std::string_view by) {
    if (++n % every != 0) return;
    mutant.assign(text, 0, at).append(by).append(text, at + length);
    f(mutant);
  };
  for (std::size_t at = 0; at < text.size(); ++at) {
    replaced(at, text.size() - at, "");
    replaced(at, 1, "");
    for (int bit = 0; bit < 8; ++bit)
      replaced(at, 1, std::string(1, static_cast<char>(text[at] ^ 1 << bit)));
    for (std::string const& word : words) replaced(at, 0, word);
    std::size_t const length = end_of_token(text, at) - at;
    if (length == 0) continue;
    for (std::string const& word : words) replaced(at, length, word);
    for (std::string const& brackets : deep) replaced(at, length, brackets);
  }
}

/// Whether a terminal would obey any of it, or show it as several lines.
bool obeyed(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto const c = static_cast<unsigned char>(text[i]);
    auto const next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if (c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next < 0xa0)) return true;
  }
  return false;
}

/// How often reading gave something, and how often a sentence.
struct count {
  int read = 0, refused = 0;
};

/// Reads a mutant. Whatever else it throws than file_error, in one line that has the words `says`, is
/// wrong; so is to take more memory, all allocations together, than `bytes` and 200 for each of its own.
void attempt(count& of, std::string const& mutant, std::size_t bytes, char const* says,
             auto&& read) {
  std::size_t const before = allocated;
  std::string wrong;
  try {
    read();
    ++of.read;
  } catch (fg::mismatch const& e) {
    ++of.refused;
    for (std::string const& line : *e.differences)
      if (obeyed(line)) wrong = line;
    if (obeyed(e.what())) wrong = e.what();
  } catch (fg::file_error const& e) {
    ++of.refused;
    if (obeyed(e.what()) || !std::strstr(e.what(), says)) wrong = e.what();
  } catch (std::exception const& e) {
    wrong = std::string("not a file_error: ") + e.what();
  }
  std::size_t const taken = allocated - before;
  if (taken > bytes + 200 * mutant.size()) wrong = "memory: " + std::to_string(taken);
  if (wrong.empty()) return;
  CAPTURE(mutant.substr(0, 2000), wrong);
  FAIL("a mutant was not read, and not refused in one line");
}

std::string const config = R"({"hidden_size": 2, "moe_intermediate_size": 2, "n_group": null,
  "norm_topk_prob": false, "model_type": "deepseek", "rms_norm_eps": 1e-06,
  "layer_types": ["a", {"b": [1.5]}], "text_config": {"num_experts": 2,
  "num_experts_per_tok": 1, "scoring_func": "softmax", "hidden_act": "si\u006cu"}})";

/// The header of a safetensors file, and the file with another.
std::string header_of(std::string const& file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  return file.substr(8, length);
}
std::string with_header(std::string const& file, std::string const& header) {
  std::uint64_t const length = header.size();
  std::string other(8, '\0');
  std::memcpy(other.data(), &length, 8);
  return other.append(header).append(file, 8 + header_of(file).size());
}

using run = learned<network>;

/// load(run) mutants of a text that make(mutant) puts into files: what is refused changes nothing.
count load_each(std::string const& text, std::size_t every, auto&& make, auto&& load) {
  count found;
  run to;
  std::vector<float> before = to.numbers();
  each_mutant(text, every, [&](std::string const& mutant) {
    make(mutant);
    int const refused = found.refused;
    attempt(found, mutant, 100'000, " ", [&] { load(to); });
    auto now = to.numbers();
    if (found.refused > refused &&
        std::memcmp(now.data(), before.data(), now.size() * sizeof(float)) != 0) {
      CAPTURE(mutant.substr(0, 2000));
      FAIL("what was refused has changed something");
    }
    before = std::move(now);
  });
  return found;
}

/// The network's weights, each tensor under its published name.
void publish(run& from, std::string const& path) {
  std::vector<fg::tensor_view> tensors;
  for (auto const& entry : from.net.entries())
    tensors.push_back({fg::deepseek_name("layers.1.mixture." + entry.name), fg::dtype::f32,
                       fg::tensor_shape(entry), from.net.parameters().data() + entry.offset});
  fg::write_safetensors(path, tensors);
}

}  // namespace

TEST_CASE("a config changed at any byte is read, or refused in a line that names the byte") {
  count found;
  each_mutant(config, 1, [&](std::string const& mutant) {
    attempt(found, mutant, 10'000, ", at byte ",
            [&] { fg::detail::config_reader<>(mutant, "config.json").read(); });
  });
  CHECK(found.read > 1000);
  CHECK(found.refused > 5'000);
}

TEST_CASE("a header changed at any byte is read, or refused in a line that names the byte") {
  std::string const header =
      R"({"b":{"shape":[2,3],"data_offsets":[8,32],"dtype":"F32"},)"
      R"("__metadata__":{"k":"\ud83d\ude00"},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}} )";
  count found;
  each_mutant(header, 1, [&](std::string const& mutant) {
    attempt(found, mutant, 10'000, ", at byte ",
            [&] { fg::read_table(mutant, 32, "model.safetensors"); });
  });
  CHECK(found.read > 100);
  CHECK(found.refused > 5'000);
}

TEST_CASE("an index changed at any byte is read, or refused in a line that names the byte") {
  std::string const index =
      R"({"metadata": {"total_size": 1.5e3, "of": [1, {}, null]}, "weight_map":
         {"model.a": "1.safetensors", "model.b": "2.safetensors"}})";
  count found;
  each_mutant(index, 1, [&](std::string const& mutant) {
    attempt(found, mutant, 10'000, ", at byte ",
            [&] { fg::detail::index_reader<>(mutant, "index.json").read(); });
  });
  CHECK(found.read > 500);
  CHECK(found.refused > 2'000);
}

TEST_CASE("a checkpoint with any byte of its header changed is loaded, or changes nothing") {
  folder const here;
  run from;
  fg::save_checkpoint(from.net, fg::training_state<float>{from.first, from.second, 3}, here / "c");
  std::string const whole = contents(here / "c");
  auto const found = load_each(
      header_of(whole), 401,
      [&](std::string const& mutant) { put(here / "c", with_header(whole, mutant)); },
      [&](run& to) {
        fg::load_checkpoint(to.net, {to.first, to.second}, here / "c");
      });
  CHECK(found.refused > 100);
}

TEST_CASE("packed weights with any byte of their header changed are loaded, or refused in a line") {
  using frozen = fg::frozen<layer, fg::cpu, fg::format::int8>;
  folder const here;
  fg::save_weights(frozen(fg::network<layer, fg::cpu>()), here / "w");
  std::string const whole = contents(here / "w");
  count found;
  each_mutant(header_of(whole), 401, [&](std::string const& mutant) {
    put(here / "w", with_header(whole, mutant));
    attempt(found, mutant, 100'000, " ",
            [&] { static_cast<void>(fg::load_weights<frozen>(here / "w")); });
  });
  CHECK(found.refused > 100);
}

TEST_CASE(
    "a checkpoint whose architecture has a line for each byte takes no more memory for them") {
  folder const here;
  run from;
  fg::save_checkpoint(from.net, fg::training_state<float>{from.first, from.second, 3}, here / "c");
  std::string const whole = contents(here / "c");
  std::string lines, header = header_of(whole);
  while (lines.size() < 1'000'000) lines += "\\n";
  std::string const before = "\"architecture\":\"";
  header.insert(header.find(before) + before.size(), lines);
  put(here / "c", with_header(whole, header));
  std::size_t const at_first = allocated;
  CHECK_THROWS_AS(fg::load_checkpoint(from.net, {from.first, from.second}, here / "c"),
                  fg::mismatch);
  CHECK(allocated - at_first < 10 * header.size());
}

TEST_CASE("published weights with any byte of their header changed are loaded, or change nothing") {
  folder const here;
  run from;
  publish(from, here / "model.safetensors");
  std::string const whole = contents(here / "model.safetensors");
  auto const found = load_each(
      header_of(whole), 199,
      [&](std::string const& mutant) {
        put(here / "model.safetensors", with_header(whole, mutant));
      },
      [&](run& to) { fg::load_published(to.net, here.path, "layers.1.mixture."); });
  CHECK(found.refused > 100);
}

TEST_CASE("weights beside any change of their config or of their index are loaded or not at all") {
  folder const here;
  run from;
  publish(from, here / "a.safetensors");
  bool const is_config = GENERATE(true, false);
  std::string index = R"({"weight_map": )";
  fg::safetensors_file const file(here / "a.safetensors");
  for (auto const& tensor : file.tensors())
    index += (index.ends_with(' ') ? "{\"" : ", \"") + tensor.name + "\": \"a.safetensors\"";
  index += "}}";
  put(here / "model.safetensors.index.json", index);
  auto const found = load_each(
      is_config ? config : index, 89,
      [&](std::string const& mutant) {
        put(here / (is_config ? "config.json" : "model.safetensors.index.json"), mutant);
      },
      [&](run& to) { fg::load_published(to.net, here.path, "layers.1.mixture."); });
  CHECK(found.read > (is_config ? 20 : 0));
  CHECK(found.refused > 50);
}
