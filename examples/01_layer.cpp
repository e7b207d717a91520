// One DeepSeekMoE layer in an existing codebase: Eigen matrices go in and come out.
// [example]
#include <Eigen/Core>
#include <cstdio>
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;
using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// 63 routed experts of a quarter of the usual width, 7 to a token, and one that every token shares.
constexpr fg::config moe{.hidden = 512, .width = 352, .routed = 63, .top_k = 7, .shared = 1};
static_assert(fg::parameters(moe) == 34'635'264 && fg::active_parameters(moe) == 4'357'632);

void your_model() {
  rows x = rows::Random(128, moe.hidden), y(128, moe.hidden);  // (T, D)

  fg::network<fg::mixture<moe>, fg::cpu> layer;
  layer(x, y);  // inference: y = shared(x) + sum of gate_i(x) expert_i(x)

  rows dy = rows::Ones(128, moe.hidden), dx(128, moe.hidden);
  layer.forward({.tokens = x.rows()}, x, y);  // training: as above; x must stay as it is until
  layer.backward(dy, dx);                     // here; dx, and every weight's gradient:
  fg::matrix<float> dgate = layer.gradient("experts.3.gate");  // (F, D), as layer.weight(...)
  std::printf("|dx| = %g, d gate[0][0] of expert 3 = %g\n", double(dx.norm()), double(dgate(0, 0)));
}
// [/example]

int main() {
  your_model();

  // A token's result does not depend on the tokens beside it, to the bit: parts of Eigen matrices
  // go in and out like whole ones.
  fg::network<fg::mixture<moe>, fg::cpu> layer;
  rows const x = rows::Random(40, moe.hidden);
  rows whole(40, moe.hidden), parts(40, moe.hidden);
  layer(x, whole);
  layer(x.topRows(3), parts.topRows(3));
  layer(x.bottomRows(37), parts.bottomRows(37));
  std::printf("in parts: %s\n", whole == parts ? "the same bits" : "other bits");
  return whole == parts ? 0 : 1;
}
