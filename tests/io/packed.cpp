// Packed weights in files: a frozen network's bytes again, or a sentence that says what differs.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/io/checkpoint.hpp>
#include <finegrain/io/frozen.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"
#include "learned.hpp"

namespace fg = finegrain;
using Catch::Matchers::Contains;

namespace {

template <class E, fg::formats F>
using frozen = fg::frozen<E, fg::cpu, F>;

template <class E>
fg::network<E, fg::cpu> random_net() {
  return fg::network<E, fg::cpu>({.deviation = 0.3, .seed = 4});
}
template <class E, fg::formats F>
frozen<E, F> made() {
  return frozen<E, F>(random_net<E>());
}

/// Outputs of 19 tokens.
template <class Net>
std::vector<float> outputs(Net& net) {
  tiny::text const text(19);
  std::vector<float> x, y(19 * std::size_t{Net::out});
  fg::batch const b{.tokens = 19, .ids = text.inputs()};
  if constexpr (Net::in > 0)
    for (int i = 0; i < 19 * Net::in; ++i) x.push_back(float(i % 7) - 3);
  net.infer(b, {x.data(), 19, std::max(Net::in, 0)}, {y.data(), 19, Net::out});
  return y;
}

template <class E, fg::formats F>
void check_again(fg::cpu on = {}) {
  folder const here;
  auto net = made<E, F>();
  fg::save_weights(net, here / "w");
  CHECK(here.files() == 1);
  auto read = fg::load_weights<frozen<E, F>>(here / "w", on);
  CHECK(read.on().threads.workers() == on.threads.workers());
  CHECK(outputs(read) == outputs(net));
  for (auto const [at, bytes] : net.arrays())
    if (std::memcmp(read.packed().data() + at, net.packed().data() + at, std::size_t(bytes)) != 0)
      FAIL("an array of " << bytes << " bytes at " << at << " is another");
  fg::save_weights(read, here / "v");
  CHECK(contents(here / "v") == contents(here / "w"));
  fg::save_weights(made<E, F>(), here / "v");
  CHECK(contents(here / "v") == contents(here / "w"));  // and no byte that nobody wrote
}

constexpr fg::config moe{.hidden = 16, .width = 24, .routed = 4, .top_k = 2, .shared = 1};
using layer = fg::mixture<moe>;
constexpr fg::formats coarse(fg::format::int4, fg::format::int8);

/// A router of one's own, in front of experts that differ from a decoder's.
using own = fg::mixture<moe, fg::then<fg::linear<16, 8>, fg::linear<8, 4>>>;

/// What loading says of a file.
template <class N>
std::string refusal(std::string const& path) {
  try {
    static_cast<void>(fg::load_weights<N>(path));
  } catch (fg::error const& e) {
    return e.what();
  }
  return "none";
}
/// The same of a file in which `from` stands, the first time, as `to`, which is as long.
template <class N>
std::string changed(std::string file, std::string const& from, std::string const& to) {
  folder const here;
  REQUIRE(from.size() == to.size());
  REQUIRE(file.find(from) != file.npos);
  file.replace(file.find(from), from.size(), to);
  put(here / "w", file);
  return refusal<N>(here / "w");
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("a frozen network out of its own file has the bytes that it had", "",
                       ((fg::format F, fg::format Rest), F, Rest),
                       (fg::format::f32, fg::format::f32), (fg::format::bf16, fg::format::bf16),
                       (fg::format::fp8, fg::format::fp8), (fg::format::int8, fg::format::int8),
                       (fg::format::int8_block, fg::format::int8_block),
                       (fg::format::int4, fg::format::int4), (fg::format::int4, fg::format::int8),
                       (fg::format::fp8, fg::format::f32)) {
  check_again<tiny::decoder, fg::formats(F, Rest)>();
  check_again<tiny::latent_decoder, fg::formats(F, Rest)>();
  check_again<tiny::formed_decoder, fg::formats(F, Rest)>();
  check_again<tiny::tied_decoder, fg::formats(F, Rest)>();
  check_again<layer, fg::formats(F, Rest)>();
  check_again<own, fg::formats(F, Rest)>();
}

TEST_CASE("packed weights are read by the threads of the caller's executor, in parts") {
  using wide = fg::linear<1027, 1531>;  // 6 MB
  fg::thread_pool pool(3);
  check_again<wide, fg::format::f32>(fg::cpu{pool});
  check_again<wide, fg::format::int8_block>(fg::cpu{pool});
}

TEST_CASE("weights that are packed otherwise are refused in a sentence that says in what") {
  folder const here;
  std::string const path = here / "w";
  fg::save_weights(made<tiny::decoder, coarse>(), path);
  CHECK_THAT((refusal<frozen<tiny::tied_decoder, coarse>>(path)),
             Contains("holds another model (differences: 1): the architecture has \""));
  CHECK_THAT((refusal<frozen<layer, coarse>>(path)), Contains("the architecture has \""));
  CHECK_THAT(
      (refusal<frozen<tiny::decoder, fg::formats(fg::format::int8)>>(path)),
      Contains("holds weights packed otherwise (differences: 1): experts: \"int4, panels of ") &&
          Contains("times a power of 2 by fours\" in the file, \"int8, panels of "));
  CHECK_THAT(
      (refusal<frozen<tiny::decoder, fg::formats(fg::format::int4, fg::format::f32)>>(path)),
      Contains("the rest: \"int8, panels of ") && Contains("in the file, \"f32, panels of 2 x "));
  CHECK_THAT((refusal<frozen<tiny::decoder, fg::formats(fg::format::bf16)>>(path)),
             Contains("(differences: 2): experts: "));

  using reader = frozen<tiny::decoder, coarse>;
  std::string const file = contents(path);
  CHECK_THAT(changed<reader>(file, "\"executor\":\"cpu\"", "\"executor\":\"gpu\""),
             Contains("the executor: \"gpu\" in the file, \"cpu\" here"));
  CHECK_THAT(changed<reader>(file, "\"executor\"", "\"executer\""),
             Contains("the executor: nothing in the file, \"cpu\" here"));
  CHECK_THAT(changed<reader>(file, "panels of 2", "panels of 4"),
             Contains("\"int4, panels of 4 x ") && Contains("\"int4, panels of 2 x "));
  CHECK_THAT(
      changed<reader>(file, "packed weights 1", "packed weights 2"),
      Contains(
          "w holds another version's numbers (differences: 1): \"finegrain packed weights 2\" in "
          "the file, \"finegrain packed weights 1\" here"));
  for (std::string const words : {"panels of ", "packed weights "}) {  // so that one type is caught
    std::string other = file;
    ++other[other.find(words) + words.size()];
    put(path, other);
    CHECK_THROWS_AS(fg::load_weights<reader>(path), fg::mismatch);
  }
  CHECK_THAT(changed<reader>(file, "\"arrays.3\"", "\"arrays-3\""),
             Contains("(differences: 2): arrays.3 is missing; arrays-3 is unknown here"));
  CHECK_THAT(changed<reader>(file, "\"U8\"", "\"I8\""),
             Contains("arrays.0 is I8 [") && Contains("] in the file, U8 ["));
}

TEST_CASE("no ordinary reader takes packed weights for its own") {
  using net = fg::network<layer, fg::basic_reference<float>>;
  folder const here;
  std::string const path = here / "w";
  fg::save_weights(made<layer, coarse>(), path);
  learned<net> to;
  auto const sentence = Contains(
      "w holds packed weights: load_weights<N>(path) reads it, N the type of the frozen network");
  CHECK_THROWS_WITH(fg::load_weights(to.net, path), sentence);
  CHECK_THROWS_WITH(fg::load_published(to.net, path), sentence);
  CHECK_THROWS_WITH((fg::load_published<frozen<layer, coarse>>(path)), sentence);
  CHECK_THROWS_WITH((fg::load_checkpoint(to.net, {to.first, to.second}, path)),
                    Contains("the file is no checkpoint"));
  using kept = fg::frozen<layer, fg::basic_reference<float>, fg::format::f32>;
  CHECK_THAT(refusal<kept>(path), sentence);
}

TEST_CASE("packed weights are one file of their own, also of an index") {
  using reader = frozen<layer, coarse>;
  folder const here;
  auto net = made<layer, coarse>();
  fg::save_weights(net, here / "b");
  fg::save_weights(random_net<fg::rmsnorm<16>>(), here / "a");
  fg::save_weights(random_net<fg::linear<16, 8>>(), here / "c");
  std::string const index = here / "model.safetensors.index.json";
  auto const list = [&](std::string const& map) { put(index, "{\"weight_map\": {" + map + "}}"); };
  std::string const packed = "\"checksums\": \"b\"", before = "\"gain\": \"a\"",
                    behind = "\"weight\": \"c\"";
  for (std::string const& others : {before, behind}) {
    list(packed + ", " + others);
    auto const sentence =
        Contains("/b holds packed weights, which stand in one file, and is one of 2 that " + index +
                 " lists");
    CHECK_THAT(refusal<reader>(here.path), sentence);
    fg::network<layer, fg::basic_reference<float>> learning;
    CHECK_THROWS_WITH(fg::load_weights(learning, here.path), sentence);
  }
  list(packed);
  auto read = fg::load_weights<reader>(here.path);
  CHECK(outputs(read) == outputs(net));
}

TEST_CASE("packed weights that are damaged or cut short are refused") {
  using reader = frozen<layer, coarse>;
  folder const here;
  std::string const path = here / "w";
  fg::save_weights(made<layer, coarse>(), path);
  std::string const whole = contents(path);
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  std::string file = whole;
  for (std::size_t at = 8 + header; at < whole.size(); ++at) {  // numbers and checksums
    file[at] = char(file[at] ^ (1 << (at % 8)));
    put(path, file);
    file[at] = whole[at];
    CAPTURE(at);
    REQUIRE_THAT(refusal<reader>(path),
                 Contains("is damaged: a checksum is not that of bytes 0 to "));
  }
  for (std::size_t at = 0; at < 8 + header; ++at) {  // anything but spaces behind the header
    file[at] = char(file[at] ^ 1);
    put(path, file);
    file[at] = whole[at];
    CAPTURE(at);
    REQUIRE((whole[at] == ' ' || refusal<reader>(path) != "none"));
  }
  for (std::size_t size = 0; size < whole.size(); size += 1 + size / 50) {
    put(path, whole.substr(0, size));
    CAPTURE(size);
    REQUIRE(refusal<reader>(path) != "none");
  }
  put(path, whole + '\0');
  CHECK_THAT(refusal<reader>(path), Contains("bytes that no tensor owns"));
  put(path, whole);
  CHECK(refusal<reader>(path) == "none");
}

TEST_CASE("a part of a long array that is damaged is named") {
  using wide = frozen<fg::linear<1024, 1024>, fg::formats(fg::format::f32)>;
  folder const here;
  fg::save_weights(made<fg::linear<1024, 1024>, fg::format::f32>(), here / "w");
  std::string file = contents(here / "w");
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  file[8 + header + (5 << 19)] ^= 16;
  put(here / "w", file);
  CHECK_THAT(refusal<wide>(here / "w"), Contains("of bytes 2097152 to 3145728 of arrays.0"));
}

TEST_CASE("a file that claims more than this network has is refused before memory is asked for") {
  using reader = frozen<layer, coarse>;
  folder const here;
  std::string const path = here / "w";
  fg::save_weights(made<layer, coarse>(), path);
  std::string file = contents(path);
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  std::string header = file.substr(8, length);
  header.replace(header.find(",\"arrays.0\""), header.npos,
                 ",\"arrays.0\":{\"dtype\":\"U8\",\"shape\":[4000000000000],\"data_offsets\":[0,"
                 "4000000000000]}}");
  length = header.size();
  file.assign(reinterpret_cast<char const*>(&length), 8);
  put(path, file + header);
  CHECK_THAT(refusal<reader>(path), Contains("cut short or damaged"));
  std::filesystem::resize_file(path, 8 + length + 4000000000000);  // no block of it is written
  CHECK_THAT(refusal<reader>(path), Contains("arrays.0 is U8 [4000000000000] in the file, U8 ["));
}

TEST_CASE("a network that was moved from is not saved, and another may take its place") {
  folder const here;
  auto net = made<layer, coarse>();
  auto const y = outputs(net);
  auto taken = std::move(net);
  CHECK_THROWS_WITH(fg::save_weights(net, here / "w"), Contains("was moved from"));
  CHECK(here.files() == 0);
  fg::save_weights(taken, here / "w");
  net = fg::load_weights<decltype(net)>(here / "w");
  CHECK(outputs(net) == y);
}
