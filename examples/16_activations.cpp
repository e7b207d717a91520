// Activations by name: a logit lens, which reads the residual stream after each layer as if it were the
// last, and how much each layer's mixture adds to that stream.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "byte_model.hpp"

namespace fg = finegrain;

constexpr fg::architecture deeper = [] {
  fg::architecture a = small_reader;
  a.layers = 4;
  a.dense_layers = a.dense_width = 0;
  return a;
}();

double root_mean_square(fg::matrix<float const> rows) {
  double sum = 0;
  for (std::int64_t i = 0; i < rows.size(); ++i) sum += double(rows.data[i]) * double(rows.data[i]);
  return std::sqrt(sum / double(rows.size()));
}

int main() {
  // [example]
  using model = fg::watched<fg::decoder<deeper>, fg::cpu, "mixture">;
  fg::network<model, fg::cpu> net({.deviation = 0.1});
  fg::activations seen{net, {"layers.*.residual_2", "layers.*.mixture"}};
  // [/example]
  fg::trainer train{net, {.lr = 4e-3}};
  auto const text = some_text("");
  fg::windows w;
  for (int step = 0; step < 80; ++step) {
    text.draw(/*seed*/ 0, step, /*windows*/ 8, /*bytes*/ 64, w);
    train.step(w.batch(), w.y);
  }
  text.draw(/*seed*/ 1, 0, 8, 64, w);
  double const loss = train.evaluate(w.batch(), w.y);

  // [example]
  fg::batch b = w.batch();
  b.seen = &seen;
  std::vector<float> logits(std::size_t(b.tokens * 256));
  net.infer(b, {}, fg::matrix<float>(logits.data(), b.tokens, 256));

  fg::network<decltype(fg::rmsnorm<64>{} | fg::head<64, 256>{}), fg::cpu> end;
  for (auto const& weight : end.entries())  // rmsnorm.gain, head.weight
    std::copy_n(net.weight(weight.name).data, weight.rows * weight.cols,
                end.weight(weight.name).data);
  fg::trainer lens{end};
  double read = 0;
  std::printf("layer  bits per byte  stream  mixture\n");
  for (int i = 0; i < deeper.layers; ++i) {
    std::string const layer = "layers." + std::to_string(i);
    auto const stream = seen[layer + ".residual_2"];  // (T, 64)
    read = lens.evaluate(stream, w.y);
    std::printf("%5d  %13.3f  %6.3f  %7.3f\n", i, read / std::log(2), root_mean_square(stream),
                root_mean_square(seen[layer + ".mixture"]));
  }
  // [/example]
  return std::abs(read - loss) < 1e-6 ? 0 : 1;  // the last layer's is the model's own
}
