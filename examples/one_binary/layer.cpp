// The layer, compiled once for each instruction set.
#include "layer.hpp"

#include <finegrain/finegrain.hpp>

namespace {
class fast_layer : public layer {
 public:
  std::span<float> parameters() override { return network_.parameters(); }
  void operator()(fg::matrix<float const> x, fg::matrix<float> y) override { network_(x, y); }

 private:
  fg::network<fg::mixture<moe>, fg::cpu> network_;
};
}  // namespace

layer* make_layer() { return new fast_layer; }
