// One program for several instruction sets: it takes the best that this machine has, or the one that
// the environment's FINEGRAIN_ISA names, and compares with the reference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <memory>
#include <vector>

#include "layer.hpp"

int main() try {
  for (fg::isa_variant const* v = make_layer_variants; v->isa; ++v)
    std::printf("%-16s%s\n", v->isa, fg::runs_isa(v->isa) ? "runs here" : "");
  fg::isa_variant const& best = fg::best_isa(make_layer_variants);
  std::unique_ptr<layer> const fast(best.as<decltype(make_layer)>()());

  constexpr int T = 40;
  std::vector<float> x(T * moe.hidden), y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.7F * static_cast<float>(i));
  fg::matrix<float> const in(x.data(), T, moe.hidden), out(y.data(), T, moe.hidden);
  (*fast)(in, out);

  fg::network<fg::mixture<moe>, fg::basic_reference<float>> slow;
  std::ranges::copy(fast->parameters(), slow.parameters().begin());
  std::vector<float> expected(x.size());
  slow(in, {expected.data(), T, moe.hidden});
  float error = 0, largest = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    error = std::max(error, std::abs(y[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  std::printf("as %s: of numbers up to %g, the largest error is %g\n", best.isa, double(largest),
              double(error));

  try {  // exceptions of a variant are the program's
    (*fast)(in, {y.data(), T - 1, moe.hidden});
  } catch (fg::invalid_argument const& e) {
    std::printf("refused: %s\n", e.what());
    return largest > 0 && error < 1e-5F * largest ? 0 : 1;
  }
  return 1;
} catch (fg::error const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
