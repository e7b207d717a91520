// Training: a small decoder learns from a text; it is saved, and goes on as if it had not stopped.
//
//   example_03_train [--text FILE] [--steps N] [--save FILE]
#include <cmath>
#include <cstdio>
#include <cstring>

#include "byte_model.hpp"

namespace fg = finegrain;

int main(int count, char** words) try {
  fg::options given(count, words);
  auto const text = some_text(given.text("--text", ""));
  auto const steps = given.number("--steps", 60);
  std::string const path = given.text("--save", "example_03.safetensors");
  given.done();

  // [example]
  fg::network<byte_model, fg::cpu> net({.deviation = 0.1, .seed = 1});
  fg::trainer train{
      net, fg::adamw{.lr = 4e-3},
      fg::training{.schedule = {.warmup = 10}, .routing = {.balance = {.expert = 0.01}}}};
  fg::windows batch;  // bytes, and for each the byte that follows
  while (train.steps() < steps) {
    text.draw(/*seed*/ 0, train.steps(), /*windows*/ 8, /*bytes*/ 64, batch);
    fg::step_report const did = train.step(batch.batch(), batch.y);
    if (train.steps() % 10 == 0)
      std::printf("step %3lld  %.3f bits per byte\n", static_cast<long long>(train.steps()),
                  did.loss / std::log(2));
  }
  train.save(path);  // weights, moments, step: all of it or, if it fails, what was there before
  // [/example]

  // One more step here, and one by a trainer that knows the file alone: the same bits.
  fg::network<byte_model, fg::cpu> other;
  fg::trainer resumed{other, train.optimizer(), train.settings()};
  resumed.load(path);
  text.draw(0, train.steps(), 8, 64, batch);
  train.step(batch.batch(), batch.y);
  resumed.step(batch.batch(), batch.y);
  bool const same = std::memcmp(net.parameters().data(), other.parameters().data(),
                                net.parameters().size_bytes()) == 0;
  std::printf("%s: resumed with %s\n", path.c_str(), same ? "the same bits" : "other bits");
  return same ? 0 : 1;
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
