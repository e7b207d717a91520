// One DeepSeekMoE layer on a GPU: pointers to its memory go in and out, on a stream of yours.
// This file is C++ for any compiler; the kernels come from a .cu file of two lines, device.cu.
#include <cstdio>
#include <finegrain/finegrain.hpp>

// [example]
namespace fg = finegrain;

constexpr fg::config moe{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};

void your_model(CUstream_st* stream) {
  fg::network<fg::mixture<moe>, fg::cuda> layer({}, fg::cuda(stream));  // bf16 weights, f32 sums
  std::int64_t const T = 4096, D = moe.hidden;
  fg::device_buffer<fg::bf16> x(T * D), y(T * D), dy(T * D), dx(T * D);  // or memory of your own
  fg::device::runtime::fill(x.data(), 0x3c, x.bytes(), stream);          // any numbers: 0.0115
  fg::device::runtime::fill(dy.data(), 0x3c, dy.bytes(), stream);

  layer.reserve(T, true);  // allocates; the passes below only enqueue, and can be captured
  layer({x.data(), T, D}, {y.data(), T, D});
  layer.forward({.tokens = T}, {x.data(), T, D}, {y.data(), T, D});
  layer.backward({dy.data(), T, D}, {dx.data(), T, D});  // and layer.gradient("experts.3.gate")
}
// [/example]

int main() try {
  your_model(nullptr);
  fg::device::runtime::synchronize(nullptr);
  std::puts("done");
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
