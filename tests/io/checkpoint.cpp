// Weights and runs in files: all of them, under their names, or a list of what differs.
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <finegrain/io/checkpoint.hpp>
#include <finegrain/io/weights.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"

namespace fg = finegrain;

namespace {

using executor = fg::basic_reference<float>;
using network = fg::network<tiny::decoder, executor>;

constexpr fg::architecture chosen_otherwise = [] {
  auto a = tiny::numbers;
  a.moe.top_k = 1;
  return a;
}();
constexpr fg::architecture wider = [] {
  auto a = tiny::numbers;
  a.moe.width = 8;
  a.moe.bias = false;
  a.moe.shared_gate = true;
  return a;
}();

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

/// Moments that can be told from each other.
struct moments {
  std::vector<float> first = std::vector<float>(std::size_t(fg::weights_size<tiny::decoder>()), 1);
  std::vector<float> second = std::vector<float>(first.size(), 2);
  fg::training_state<float> state(std::int64_t steps = 0) { return {first, second, steps}; }
};

/// The error that f throws.
template <class Error, class F>
Error caught(F&& f) {
  try {
    f();
  } catch (Error const& e) {
    return e;
  }
  throw std::logic_error("nothing was thrown");
}

bool contains(std::vector<std::string> const& list, std::string const& line) {
  return std::find(list.begin(), list.end(), line) != list.end();
}

}  // namespace

TEST_CASE("weights are stored under their names, matrices [out, in] and gains [n]") {
  folder const here;
  network net({.deviation = 0.5, .seed = 1});
  fg::save_weights(net, here / "w");
  fg::safetensors_file const file(here / "w");
  CHECK(file.tensors().size() == fg::list_weights<tiny::decoder>().size());
  auto const shape = [&](char const* name) {
    auto const* const entry = file.find(name);
    return entry ? entry->shape : std::vector<std::int64_t>{-1};
  };
  using list = std::vector<std::int64_t>;
  CHECK(shape("embedding.table") == list{32, 16});
  CHECK(shape("layers.0.mlp.gate") == list{24, 16});
  CHECK(shape("layers.0.rmsnorm.gain") == list{16});
  CHECK(shape("head.weight") == list{32, 16});
  std::vector<float> gate(16 * 16);
  std::string found;
  for (auto const& entry : file.tensors())
    if (entry.name.ends_with("mixture.experts.3.gate")) found = entry.name;
  REQUIRE(!found.empty());
  file.read(*file.find(found), gate.data());
  auto const weight = net.weight(found);
  CHECK(std::equal(gate.begin(), gate.end(), weight.data));
}

TEST_CASE("weights come back to the bit") {
  folder const here;
  network net({.deviation = 0.5, .seed = 1}), other({.deviation = 0.5, .seed = 2});
  net.parameters()[0] = -0.0f;
  net.parameters()[1] = 1e-45f;
  fg::save_weights(net, here / "w");
  fg::load_weights(other, here / "w");
  CHECK(std::memcmp(net.parameters().data(), other.parameters().data(),
                    net.parameters().size_bytes()) == 0);
}

TEST_CASE("a run comes back to the bit: weights, both moments, steps") {
  folder const here;
  network net({.deviation = 0.5, .seed = 1}), other({.deviation = 0.5, .seed = 2});
  moments given, taken;
  for (std::size_t i = 0; i < given.first.size(); ++i) {
    given.first[i] = float(fg::random_normal(1, i));
    given.second[i] = float(fg::random_uniform(2, i));
  }
  fg::save_checkpoint(net, given.state(123), here / "c");
  CHECK(fg::load_checkpoint(other, taken.state(7), here / "c") == 123);
  for (auto const& entry : fg::list_weights<tiny::decoder>())
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i) {
      auto const at = std::size_t(entry.offset + i);
      REQUIRE(other.parameters()[at] == net.parameters()[at]);
      REQUIRE(taken.first[at] == given.first[at]);
      REQUIRE(taken.second[at] == given.second[at]);
    }
}

TEST_CASE("a run in 16 bits comes back to the bit: what rounding left of selection biases too") {
  using network = fg::network<fg::mixture<tiny::numbers.moe>, fg::basic_reference<fg::bf16>>;
  folder const here;
  network net({.deviation = 0.5, .seed = 1}), other({.deviation = 0.5, .seed = 2});
  std::size_t const size = net.parameters().size();
  for (std::size_t i = 0; i < size; ++i) {
    net.parameters()[i] = fg::bf16(float(fg::random_normal(1, i)));
    other.parameters()[i] = fg::bf16(float(fg::random_normal(2, i)));
  }
  std::vector<fg::bf16> first(size), second(size);
  fg::save_checkpoint(net, fg::training_state<fg::bf16>{first, second, 3}, here / "c");
  fg::load_checkpoint(other, fg::training_state<fg::bf16>{first, second}, here / "c");
  int biases = 0;
  for (auto const& entry : net.entries()) {
    if (entry.role != fg::role::selection_bias) continue;
    ++biases;
    std::int64_t const count = entry.rows * entry.cols;
    auto const sums_of = [&](network const& n) {
      return fg::detail::with_rest(n.parameters().data() + entry.offset, count);
    };
    for (std::int64_t i = 0; i < count; ++i) {
      CHECK(float(sums_of(other).first[i]) == float(sums_of(net).first[i]));
      CHECK(float(sums_of(other).rest[i]) == float(sums_of(net).rest[i]));
    }
  }
  CHECK(biases == 1);
  network third;
  CHECK_NOTHROW(fg::load_weights(third, here / "c"));
}

TEST_CASE("a note stands in a checkpoint's metadata, and changes nothing of what is read back") {
  folder const here;
  network net({.deviation = 0.5}), other({.deviation = 0});
  moments m;
  fg::save_checkpoint(net, m.state(5), here / "c", "{\"a \\ note\": [0.1]}");
  CHECK(fg::load_checkpoint(other, m.state(), here / "c") == 5);
  CHECK(weights_of(other) == weights_of(net));
  fg::safetensors_file const noted(here / "c");
  REQUIRE(noted.metadata("note"));
  CHECK(*noted.metadata("note") == "{\"a \\ note\": [0.1]}");
  fg::save_checkpoint(net, m.state(5), here / "c");
  CHECK(!fg::safetensors_file(here / "c").metadata("note"));
}

TEST_CASE("a checkpoint's weights can be had alone, and only by a network that has them all") {
  folder const here;
  network net({.deviation = 0.5, .seed = 1}), other({.deviation = 0.5, .seed = 2});
  moments given;
  fg::save_checkpoint(net, given.state(5), here / "c");
  fg::load_weights(other, here / "c");
  CHECK(weights_of(net) == weights_of(other));

  fg::network<fg::mixture<tiny::numbers.moe>, executor> part;
  auto const before = weights_of(part);
  auto const error = caught<fg::mismatch>([&] { fg::load_weights(part, here / "c"); });
  CHECK(contains(*error.differences, "weights.embedding.table is unknown here"));
  CHECK(weights_of(part) == before);
}

TEST_CASE("a run goes on in its own numbers or not at all") {
  folder const here;
  network net({.deviation = 0.5});
  moments kept;
  fg::save_checkpoint(net, kept.state(5), here / "c");
  fg::network<tiny::decoder, fg::reference> doubles;
  std::vector<double> first(kept.first.size()), second(kept.first.size());
  CHECK_THROWS_WITH(
      fg::load_checkpoint(doubles, fg::training_state<double>{first, second}, here / "c"),
      ContainsSubstring("weights.embedding.table is F32 [32, 16] in the file, F64 [32, 16] here"));
}

TEST_CASE("weights and moments that are shorter than the entries need are refused") {
  folder const here;
  network net({.deviation = 0.5});
  moments kept;
  auto const weights = net.parameters();
  auto const refused = [&](fg::training_state<float> state, std::span<float> numbers,
                           std::string const& why) {
    CHECK_THROWS_MATCHES(
        fg::save_checkpoint<tiny::decoder>(net.entries(), numbers, state, here / "d"),
        fg::invalid_argument, matchers::Message(why));
    CHECK_THROWS_MATCHES(
        fg::load_checkpoint<tiny::decoder>(net.entries(), numbers, state, here / "c"),
        fg::invalid_argument, matchers::Message(why));
  };
  fg::save_checkpoint(net, kept.state(5), here / "c");
  std::span<float> const first = kept.first, second = kept.second;
  auto const& last = net.entries().back();
  auto const needed = std::size_t(last.offset + last.rows * last.cols);
  std::string const count = std::to_string(needed), less = std::to_string(needed - 1);
  refused({}, weights,
          "a checkpoint's first_moments.* need " + count + " numbers, and there are 0");
  refused({first, second.first(needed - 1)}, weights,
          "a checkpoint's second_moments.* need " + count + " numbers, and there are " + less);
  refused({first, second}, weights.first(needed - 1),
          "a checkpoint's weights.* need " + count + " numbers, and there are " + less);
  CHECK(here.files() == 1);
  CHECK(kept.first == moments().first);
  CHECK_NOTHROW(fg::load_checkpoint<tiny::decoder>(
      net.entries(), weights.first(needed),
      fg::training_state<float>{first.first(needed), second.first(needed)}, here / "c"));
}

TEST_CASE("a checkpoint of another version, or what does not say that it is one, is refused") {
  folder const here;
  network net({.deviation = 0.5}), other({.deviation = 0.5, .seed = 9});
  moments kept;
  fg::save_checkpoint(net, kept.state(5), here / "c");
  std::string const whole = contents(here / "c");
  auto const before = weights_of(other);
  auto const with = [&](std::string const& words, std::string const& others) {
    std::string text = whole;
    put(here / "c", text.replace(whole.find(words), words.size(), others));
  };
  with("checkpoint 1", "checkpoint 2");
  auto const says = ContainsSubstring(
      "/c holds another version's numbers (differences: 1): \"finegrain checkpoint 2\" in "
      "the file, \"finegrain checkpoint 1\" here");
  CHECK_THROWS_WITH(fg::load_checkpoint(other, kept.state(), here / "c"), says);
  CHECK_THROWS_AS(fg::load_checkpoint(other, kept.state(), here / "c"), fg::mismatch);
  CHECK_THROWS_WITH(fg::load_weights(other, here / "c"), says);
  with("\"format\"", "\"former\"");
  auto const error =
      caught<fg::mismatch>([&] { fg::load_checkpoint(other, kept.state(), here / "c"); });
  CHECK(*error.differences == std::vector<std::string>{"the file is no checkpoint"});
  CHECK(weights_of(other) == before);
}

TEST_CASE("a run does not go on from weights alone, and the sentence says what reads them") {
  folder const here;
  network net({.deviation = 0.5}), other({.deviation = 0.5, .seed = 9});
  moments kept;
  auto const before = weights_of(other);
  fg::save_weights(net, here / "w");
  CHECK_THROWS_WITH(
      fg::load_checkpoint(other, kept.state(), here / "w"),
      here / "w holds weights without the optimiser's moments: load_weights reads it");
  fg::network<fg::decoder<wider>, executor> another;
  fg::save_weights(another, here / "w");
  CHECK_THROWS_AS(fg::load_checkpoint(other, kept.state(), here / "w"), fg::mismatch);
  CHECK(weights_of(other) == before);
}

TEST_CASE("a checkpoint of another architecture is refused, though its tensors would fit") {
  folder const here;
  network net;
  moments kept;
  fg::save_checkpoint(net, kept.state(), here / "c");
  fg::network<fg::decoder<chosen_otherwise>, executor> other({.deviation = 0.5});
  auto const before = weights_of(other);
  auto const error =
      caught<fg::mismatch>([&] { fg::load_checkpoint(other, kept.state(), here / "c"); });
  REQUIRE(error.differences->size() == 1);
  CHECK_THAT(error.what(), ContainsSubstring("2 of 4 experts") &&
                               ContainsSubstring("1 of 4 experts") &&
                               ContainsSubstring((here / "c").c_str()));
  CHECK(weights_of(other) == before);
}

TEST_CASE("another model's weights are refused with a list of all differences") {
  folder const here;
  network net;
  fg::save_weights(net, here / "w");
  fg::network<fg::decoder<wider>, executor> other({.deviation = 0.5});
  auto const before = weights_of(other);
  auto const error = caught<fg::mismatch>([&] { fg::load_weights(other, here / "w"); });
  CHECK(weights_of(other) == before);
  CHECK_THAT(error.what(), ContainsSubstring("differences: 17"));
  auto const& list = *error.differences;
  CHECK(list.size() == 17);
  std::string const mixture = [&] {
    for (auto const& entry : fg::list_weights<tiny::decoder>())
      if (entry.name.ends_with("mixture.router"))
        return entry.name.substr(0, entry.name.size() - 6);
    return std::string();
  }();
  CHECK(contains(list, mixture + "shared_gate is missing"));
  CHECK(contains(list, mixture + "bias is unknown here"));
  CHECK(contains(list,
                 mixture + "experts.3.down is F32 [16, 16] in the file, [16, 8] of numbers here"));
}

TEST_CASE("one missing, one unknown and one transposed tensor are each named") {
  folder const here;
  network net({.deviation = 0.5}), other({.deviation = 0.5, .seed = 9});
  std::vector<fg::tensor_view> tensors;
  fg::list_tensors(fg::list_weights<tiny::decoder>(), "", net.parameters().data(), tensors);
  auto const before = weights_of(other);
  auto const differences = [&](std::vector<fg::tensor_view> const& written) {
    fg::write_safetensors(here / "w", written);
    auto const list =
        *caught<fg::mismatch>([&] { fg::load_weights(other, here / "w"); }).differences;
    CHECK(weights_of(other) == before);
    return list;
  };
  auto changed = tensors;
  changed.pop_back();
  CHECK(differences(changed) == std::vector<std::string>{tensors.back().name + " is missing"});
  changed = tensors;
  changed[0].name = "surprise";
  CHECK(differences(changed) ==
        std::vector<std::string>{tensors[0].name + " is missing", "surprise is unknown here"});
  changed[0].name = "a\x1b[2J\nb";  // would clear a terminal
  CHECK(differences(changed)[1] == "a?[2J?b is unknown here");
  changed = tensors;
  std::swap(changed[0].shape[0], changed[0].shape[1]);
  CHECK(differences(changed) ==
        std::vector<std::string>{tensors[0].name + " is F32 [16, 32] in the file, [32, 16] of "
                                                   "numbers here"});
  CHECK_THROWS_WITH(fg::load_checkpoint(other, moments().state(), here / "w"),
                    ContainsSubstring("the file names no architecture"));
  CHECK(weights_of(other) == before);
}

TEST_CASE("a name with a zero byte does not hide the differences that come after it") {
  folder const here;
  network net({.deviation = 0.5});
  std::vector<fg::tensor_view> tensors;
  fg::list_tensors(net.entries(), "", net.parameters().data(), tensors);
  tensors[0].name = std::string("a\0b", 3);
  tensors[1].name = "surprise";
  fg::write_safetensors(here / "w", tensors);
  CHECK_THROWS_WITH(fg::load_weights(net, here / "w"),
                    ContainsSubstring("a?b is unknown here; surprise is unknown here"));
}

TEST_CASE("a checkpoint cut short anywhere loads nothing") {
  folder const here;
  network net({.deviation = 0.5}), other({.deviation = 0.5, .seed = 9});
  moments kept;
  fg::save_checkpoint(net, kept.state(5), here / "c");
  std::string const whole = contents(here / "c");
  auto const before = weights_of(other);
  for (std::size_t size = 0; size < whole.size(); size += 1 + whole.size() / 97) {
    put(here / "cut", whole.substr(0, size));
    auto const cut =
        caught<fg::file_error>([&] { fg::load_checkpoint(other, kept.state(), here / "cut"); });
    CHECK_THAT(cut.what(), ContainsSubstring(size < 8 ? "no safetensors file" : "cut short"));
  }
  CHECK(weights_of(other) == before);
  CHECK(kept.first == moments().first);
}

TEST_CASE("when the disk is full, the checkpoint before stays") {
  folder const here;
  network net({.deviation = 0.5});
  moments kept;
  fg::save_checkpoint(net, kept.state(5), here / "c");
  std::string const whole = contents(here / "c");
  pid_t const child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    bool good = true;
    for (rlim_t most = 0; good && most < whole.size(); most += whole.size() / 23) {
      rlimit const limit{most, whole.size()};
      good = ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
      try {
        fg::save_checkpoint(net, kept.state(6), here / "c");
        good = false;
      } catch (fg::file_error const&) {
      }
      good = good && contents(here / "c") == whole && here.files() == 1;
    }
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  CHECK(status == 0);
}

TEST_CASE("a checkpoint whose steps are negative, or more than can be counted on, is refused") {
  folder const here;
  network net({.deviation = 0.5});
  moments kept;
  for (std::int64_t const steps : {std::int64_t{-5}, INT64_MAX, INT64_MAX / 10 + 1}) {
    fg::save_checkpoint(net, kept.state(steps), here / "c");
    CHECK_THROWS_WITH(fg::load_checkpoint(net, kept.state(), here / "c"),
                      ContainsSubstring(std::to_string(steps) + " steps"));
  }
}
