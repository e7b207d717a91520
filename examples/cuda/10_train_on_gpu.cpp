// Training on a GPU with a step that is recorded once and replayed.
// This file is C++ for any compiler; the kernels come from a .cu file of two lines, device.cu.
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <vector>

// [example]
namespace fg = finegrain;

constexpr fg::architecture small{
    .hidden = 128,
    .layers = 2,
    .vocabulary = 256,
    .heads = 2,
    .kv_heads = 2,
    .head_dim = 64,
    .moe = {.hidden = 128, .width = 64, .routed = 16, .top_k = 4, .shared = 1, .bias = true}};

int train(int steps) {
  fg::network<fg::decoder<small>, fg::cuda> net({.deviation = 0.05});
  fg::trainer train{net, fg::adamw{.lr = 2e-3}, {.bias = {.speed = 0.001}}};

  std::int64_t const T = 512;
  fg::device_buffer<std::int32_t> ids(T), targets(T);
  auto step = train.record({.tokens = T, .ids = ids}, targets);
  std::vector<std::int32_t> text(T + 1);
  while (train.steps() < steps) {
    for (std::size_t t = 0; t < text.size(); ++t)  // a text: the alphabet, from some letter on
      text[t] = static_cast<std::int32_t>('a' + (t + std::size_t(train.steps()) * 7) % 26);
    fg::device::runtime::copy(ids.data(), text.data(), ids.bytes(), net.on().stream);
    fg::device::runtime::copy(targets.data(), text.data() + 1, targets.bytes(), net.on().stream);
    step();
    if (train.steps() % 50 == 0) {
      fg::step_report const did = train.report();  // waits
      std::printf("step %lld: loss %.3f\n", static_cast<long long>(train.steps()), did.loss);
    }
  }
  return train.report().loss < 0.5 ? 0 : 1;
}
// [/example]

int main() try { return train(200); } catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
