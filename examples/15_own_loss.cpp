// A loss of one's own: distillation, of a larger decoder that has read the text before.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "byte_model.hpp"

namespace fg = finegrain;

// [example]
std::vector<double> log_softmax(float const* logits, std::int64_t n) {
  std::vector<double> x(logits, logits + n);
  double const most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double const l : x) sum += std::exp(l - most);
  for (double& l : x) l -= most + std::log(sum);
  return x;
}

struct distillation {
  fg::matrix<float const> teacher;  // (T, V) logits
  fg::id_list targets;              // (T)

  // Half the text's cross-entropy and half the teacher's, of the tokens first, first + 1, ...
  double operator()(fg::cpu const& on, std::int64_t first, fg::matrix<float const> y,
                    fg::matrix<float> dy) const {
    auto const mine = targets.subspan(std::size_t(first), std::size_t(y.rows));
    double sum = 0.5 * cross_entropy(on, y, mine, 0.5, dy);
    for (std::int64_t t = 0; t < y.rows; ++t) {
      auto const p = log_softmax(y.row(t), y.cols), q = log_softmax(teacher.row(first + t), y.cols);
      for (std::size_t v = 0; v < p.size(); ++v) {
        sum -= 0.5 * std::exp(q[v]) * p[v];
        if (dy.data) dy.row(t)[v] += float(0.5 * (std::exp(p[v]) - std::exp(q[v])));  // unscaled
      }
    }
    return sum;
  }
};
// [/example]

int main() {
  constexpr fg::architecture larger = [] {
    fg::architecture a = small_reader;
    a.hidden = a.moe.hidden = 128;
    return a;
  }();
  fg::network<fg::decoder<larger>, fg::cpu> large({.deviation = 0.1});
  fg::network<byte_model, fg::cpu> small({.deviation = 0.1});
  fg::trainer teacher{large, {.lr = 4e-3}};
  fg::trainer student{small, {.lr = 4e-3}};
  auto const text = some_text("");
  fg::windows w;
  std::vector<float> numbers(8 * 64 * 256);
  fg::matrix<float> const logits(numbers.data(), 8 * 64, 256);
  for (int step = 0; step < 80; ++step) {
    text.draw(/*seed*/ 0, step, /*windows*/ 8, /*bytes*/ 64, w);
    large.infer(w.batch(), {}, logits);
    step < 40 ? teacher.step(w.batch(), w.y) : student.step(w.batch(), distillation{logits, w.y});
  }
  double const did = student.evaluate(w.batch(), w.y);  // untrained: log 256
  std::printf("cross-entropy %.3f, teacher %.3f\n", did, teacher.evaluate(w.batch(), w.y));
  return did < 4 ? 0 : 1;
}
