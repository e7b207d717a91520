// What number formats cost in accuracy, on a layer of random weights and on a model that was trained;
// and how fast a decoder is with experts in a format, or all of it.
//
//   bench_formats [--text FILE] [--steps N]
//
// The layer has the 16B's widths; its error is that of y, relative, in the mean square; and that of rows with one
// number a hundred times the others. The model is
// the finest rung of the demo's ladder, trained as the demo does; its loss is on validation text.
// Experts are in the format and the rest in f32, or all is in it. The decoder has 285 M parameters, which no
// cache holds; a token is decoded alone, without others before it. Writes out/bench/formats.md too.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "trained.hpp"

namespace {

namespace fg = finegrain;
using fg::format;

constexpr fg::config wide{.hidden = 2048, .width = 1408, .routed = 8, .top_k = 2, .shared = 1};

constexpr fg::architecture large{
    .hidden = 1024,
    .layers = 6,
    .vocabulary = 32768,
    .heads = 16,
    .kv_heads = 16,
    .head_dim = 64,
    .dense_layers = 1,
    .dense_width = 2816,
    .moe = {.hidden = 1024, .width = 352, .routed = 32, .top_k = 4, .shared = 2}};

class layer {
 public:
  /// The first number of each of x's rows is so many times as large as the others are.
  explicit layer(float first)
      : net_(fg::initialisation{.seed = 1}), x_(tokens * wide.hidden), y_(x_.size()) {
    for (std::size_t i = 0; i < x_.size(); ++i)
      x_[i] = float(fg::random_normal(2, i)) * (i % wide.hidden == 0 ? first : 1);
    net_(view(x_), view(y_));
  }
  template <format F>
  double error() {
    auto made = fg::quantize<F>(net_);
    std::vector<float> y(y_.size());
    made(view(x_), view(y));
    double off = 0, size = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      off += std::pow(double(y[i]) - double(y_[i]), 2);
      size += std::pow(double(y_[i]), 2);
    }
    return std::sqrt(off / size);
  }

 private:
  static constexpr std::int64_t tokens = 128;
  static fg::matrix<float> view(std::vector<float>& m) { return {m.data(), tokens, wide.hidden}; }
  fg::network<fg::mixture<wide>, fg::cpu> net_;
  std::vector<float> x_, y_;
};

class reader {
 public:
  reader(fg::corpus const& text, std::int64_t steps) : net_({.deviation = 0.1}) {
    trained::train(net_, text, steps);
    std::int64_t const all = std::min<std::int64_t>(256, text.validation_windows(128));
    text.validate(0, all, all, 128, held_);
  }
  double bits() { return bits_of(net_); }
  /// With experts in one format and the rest in another.
  template <format F, format Rest>
  double bits() {
    auto made = fg::quantize<F, Rest>(net_);
    return bits_of(made);
  }

 private:
  double bits_of(auto& net) {
    auto const b = held_.batch();
    fg::buffer<float> numbers(b.tokens * 256);
    fg::matrix<float> const logits(numbers.data(), b.tokens, 256);
    net.infer(b, {}, logits);
    return fg::cross_entropy(net.on(), logits, held_.y, 1, fg::matrix<float>()) / double(b.tokens) /
           std::log(2);
  }
  trained::network net_;
  fg::windows held_;
};

class decoding {
 public:
  decoding() : net_({.deviation = 0.02}), logits_(large.vocabulary) {}
  double milliseconds() { return of(net_); }
  template <format F, format Rest>
  double milliseconds() {
    auto made = fg::quantize<F, Rest>(net_);
    return of(made);
  }

 private:
  /// The fastest of some tokens, the first apart.
  double of(auto& net) {
    using clock = std::chrono::steady_clock;
    double least = 1e9;
    for (std::int32_t id = 0; id <= 20; ++id) {
      auto const start = clock::now();
      net(std::span(&id, 1), fg::matrix<float>(logits_.data(), 1, large.vocabulary));
      std::chrono::duration<double, std::milli> const took = clock::now() - start;
      if (id > 0) least = std::min(least, took.count());
    }
    return least;
  }
  fg::network<fg::decoder<large>, fg::cpu> net_;
  std::vector<float> logits_;
};

}  // namespace

int main(int count, char** words) try {
  fg::options given(count, words);
  std::string const file = given.text("--text", "out/corpus/jargon.txt");
  long long const steps = given.number("--steps", 1500);
  given.done();

  layer random(1), uneven(100);
  reader trained(fg::corpus::read({file}), steps);
  double const exact = trained.bits();
  std::string table =
      "| format | bits a weight | error of a random layer | one input 100 times the others | "
      "validation bits/byte: experts in it | change | all in it | change |\n"
      "|---|---|---|---|---|---|---|---|\n";
  char line[200];
  std::snprintf(line, sizeof line, "| f32 | 32 | 0 | 0 | %.4f | | %.4f | |\n", exact, exact);
  table += line;
  auto const row = [&]<format F>(char const* name, std::integral_constant<format, F>) {
    double const experts = trained.bits<F, format::f32>(), all = trained.bits<F, F>();
    double const weights = double(wide.routed + wide.shared) * 3 * wide.hidden * wide.width;
    fg::arena counting;
    static_cast<void>(fg::frozen_weights<fg::cpu, F, fg::mixture<wide>>(counting));
    double const router = 4.0 * wide.routed * wide.hidden;
    std::snprintf(line, sizeof line, "| %s | %.2f | %.4f | %.4f | %.4f | %+.4f | %.4f | %+.4f |\n",
                  name, 8 * (double(counting.used()) - router) / weights, random.error<F>(),
                  uneven.error<F>(), experts, experts - exact, all, all - exact);
    table += line;
  };
  row("bf16", std::integral_constant<format, format::bf16>());
  row("int8, a scale for 32", std::integral_constant<format, format::int8_block>());
  row("int8, a scale an output", std::integral_constant<format, format::int8>());
  row("fp8 e4m3, a scale for 128 x 128", std::integral_constant<format, format::fp8>());
  row("int4, a scale for 32", std::integral_constant<format, format::int4>());
  double const two = trained.bits<format::int4, format::int8_block>();
  std::snprintf(line, sizeof line,
                "| experts in int4, the rest in int8, a scale for 32 | | | | | | %.4f | %+.4f |\n",
                two, two - exact);
  table += line;

  decoding all;
  std::snprintf(line, sizeof line, "not frozen: %.2f ms\n", all.milliseconds());
  table += "\nA token of a decoder, " + (line + std::string("\n"));
  table += "| format | experts in it, ms | all in it, ms |\n|---|---|---|\n";
  auto const time = [&]<format F>(char const* name, std::integral_constant<format, F>) {
    std::snprintf(line, sizeof line, "| %s | %.2f | %.2f |\n", name,
                  all.milliseconds<F, format::f32>(), all.milliseconds<F, F>());
    table += line;
  };
  time("f32", std::integral_constant<format, format::f32>());
  time("bf16", std::integral_constant<format, format::bf16>());
  time("int8, a scale for 32", std::integral_constant<format, format::int8_block>());
  time("int8, a scale an output", std::integral_constant<format, format::int8>());
  time("fp8", std::integral_constant<format, format::fp8>());
  time("int4", std::integral_constant<format, format::int4>());
  std::printf("%s", table.c_str());
  std::filesystem::create_directories("out/bench");
  if (std::FILE* const out = std::fopen("out/bench/formats.md", "w")) {
    std::fputs(table.c_str(), out);
    std::fclose(out);
  }
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench formats: %s\n", e.what());
  return 1;
}
