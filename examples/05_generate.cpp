// Generation: a checkpoint of example 03 (or a model that learns for a moment) continues a prompt.
//
//   example_05_generate [--load FILE] [--prompt TEXT] [--bytes N] [--seed N]
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "byte_model.hpp"

namespace fg = finegrain;

int main(int count, char** words) try {
  fg::options given(count, words);
  std::string const file = given.text("--load", ""), prompt = given.text("--prompt", "The ");
  auto const bytes = given.number("--bytes", 200), seed = given.number("--seed", 1);
  given.done();

  fg::network<byte_model, fg::cpu> net({.deviation = 0.1});
  if (!file.empty()) {
    fg::load_weights(net, file);
  } else {
    fg::trainer train{net, fg::adamw{.lr = 4e-3}};
    auto const text = some_text("");
    fg::windows batch;
    for (int step = 0; step < 60; ++step) {
      text.draw(0, step, 8, 64, batch);
      train.step(batch.batch(), batch.y);
    }
  }

  // [example]
  std::vector<std::int32_t> const tokens(prompt.begin(), prompt.end());
  fg::sampling const how{
      .temperature = 0.8, .top_p = 0.95, .seed = static_cast<std::uint64_t>(seed)};
  std::printf("%s", prompt.c_str());
  fg::generate(net, tokens, bytes, how, [](std::int32_t byte) { std::putchar(byte); });
  std::printf("\n");
  // [/example]

  // Several prompts go through together, a token of each in a pass: each becomes what it becomes alone.
  std::vector<std::int32_t> const other(tokens.rbegin(), tokens.rend());
  std::vector<fg::id_list> const prompts{tokens, other};
  std::vector<std::int32_t> texts[2], alone;
  fg::generate(net, prompts, 20, how,
               [&](std::int64_t i, std::int32_t byte) { texts[i].push_back(byte); });
  fg::generate(net, tokens, 20, how, [&](std::int32_t byte) { alone.push_back(byte); });
  if (texts[0] != alone || texts[1].size() != 20) return 1;

  // What was written token by token, keys and values kept, is what a full pass would write.
  std::vector<std::int32_t> all = tokens;
  fg::generate(net, tokens, 20, {}, [&](std::int32_t byte) { all.push_back(byte); });
  std::vector<float> logits(all.size() * 256);
  net(all, fg::matrix<float>(logits.data(), static_cast<std::int64_t>(all.size()), 256));
  for (std::size_t t = tokens.size(); t < all.size(); ++t) {
    float const* const row = &logits[(t - 1) * 256];
    if (row[all[t]] != *std::max_element(row, row + 256)) return 1;
  }
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
