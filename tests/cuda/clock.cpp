// Timed networks on the device: the same bits, and what each node took.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

namespace {

using namespace under_test;
using E = tiny::decoder;
using timed = fg::timed<E, fg::cuda>;
constexpr std::int64_t T = 32;

/// A few steps of a new trainer: the weights that come out.
template <class Network>
std::vector<bf16> trained(Network& net, fg::timings* times) {
  tiny::text const text(T);
  fg::trainer train{net, fg::adamw{.lr = 1e-2}};
  for (int step = 0; step < 3; ++step)
    train.step({.tokens = T, .ids = text.inputs(), .times = times}, text.targets());
  return fg::place<fg::cuda>::fetched(net.on(), net.parameters());
}

TEST_CASE("clocks change no bit on the device, and count every node's calls") {
  NEED_GPU();
  fg::network<E, fg::cuda> plain;
  fg::network<timed, fg::cuda> clocked;
  fg::timings times;
  auto const expected = trained(plain, nullptr), got = trained(clocked, &times);
  CHECK(same_bits(expected, got));

  auto lines = fg::explain_nodes<E, fg::cuda>(plain.extent_of(T, true), times);
  CHECK(times.rows.size() == std::size_t(std::count_if(lines.begin(), lines.end(), [](auto& one) {
          return !one.plan.empty();
        })));
  CHECK(lines.back().times.both.calls == 3);
  auto const total = lines.back().times.seconds();
  lines.pop_back();
  CHECK(lines[0].name == "decoder");
  CHECK(lines[0].times.seconds() <= total);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    INFO(lines[i].name);
    if (lines[i].plan.empty()) continue;
    CHECK(lines[i].times.calls() > 0);
    CHECK(lines[i].times.seconds() > 0);
    double parts = 0;
    for (std::size_t j = i + 1; j < lines.size() && lines[j].depth > lines[i].depth; ++j)
      if (lines[j].depth == lines[i].depth + 1 && !lines[j].plan.empty())
        parts += lines[j].times.seconds();
    CHECK(parts <= lines[i].times.seconds() * (1 + 1e-6));  // from a float of milliseconds
  }
  CHECK_THAT((fg::explain<E, fg::cuda>(plain.extent_of(T, true), {1e12, 1e12}, times)),
             ContainsSubstring("of it"));
}

TEST_CASE("each of a network's calls on the device is timed by itself") {
  NEED_GPU();
  using block = decltype(fg::repeat<2>(fg::residual(fg::rmsnorm<64>{} | fg::mlp<64, 32>{})) |
                         fg::linear<64, 64>{});
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    fg::network<fg::timed<block, fg::cuda>, fg::cuda> net{fg::cuda(stream)};
    auto const x = upload(as_bf16(random_numbers(T * 64, 1)));
    auto const y = unwritten<bf16>(T * 64);
    fg::matrix<bf16 const> const in{x.data(), T, 64};
    fg::timings times;
    fg::batch const b{.tokens = T, .times = &times};
    net.infer(b, in, {y.data(), T, 64});
    CHECK(times.rows[0].forward.calls == 1);
    net.forward(b, in, {y.data(), T, 64});
    CHECK(times.rows[0].backward.calls == 0);
    net.backward(in);
    auto const lines = fg::explain_nodes<block, fg::cuda>(net.extent_of(T, true), times);
    auto const calls = [&](std::size_t line, char const* name, int each) {
      CHECK(lines[line].name == name);
      CHECK(lines[line].times.forward.calls == 2 * each);
      CHECK(lines[line].times.backward.calls == each);
    };
    calls(lines.size() - 1, "total", 1);
    calls(lines.size() - 2, "linear", 1);
    calls(0, "repeat 2", 1);
    calls(1, "residual", 2);
    net.infer({.tokens = T}, in, {y.data(), T, 64});
    CHECK(times.rows[0].forward.calls == 2);
  }
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("a recorded step takes no times, and says so") {
  NEED_GPU();
  fg::network<timed, fg::cuda> net;
  fg::trainer train{net};
  fg::device_buffer<std::int32_t> const ids(T), targets(T);
  fg::timings times;
  CHECK_THROWS_WITH(train.record({.tokens = T, .ids = ids, .times = &times}, targets),
                    "a pass that is recorded takes no times: nothing runs yet");
  CHECK(times.rows.empty());
  train.record({.tokens = T, .ids = ids}, targets);  // without times it is a step like any other
}

TEST_CASE("limits of the device are measured when asked for") {
  NEED_GPU();
  auto const limits = fg::measured_limits(fg::cuda(), 64, 1 << 20);
  CHECK((limits.flops > 0 && std::isfinite(limits.flops)));
  CHECK((limits.bytes > 0 && std::isfinite(limits.bytes)));
  CHECK(fg::measured_limits(fg::basic_cuda<float>(), 64, 1 << 20).flops > 0);
}

}  // namespace
