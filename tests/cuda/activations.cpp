// Activations on the device: the same bits, what a node's own call makes there, and gradients.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

namespace {

using namespace under_test;
using E = tiny::decoder;
using watched = fg::watched<E, fg::cuda>;
using apart = fg::watched<E, fg::cuda, "attention", "mixture">;
constexpr std::int64_t T = 32;

/// A few steps of a new trainer: the weights that come out.
template <class Network>
std::vector<bf16> trained(Network& net, fg::any_activations* seen) {
  tiny::text const text(T);
  fg::trainer train{net, fg::adamw{.lr = 1e-2}};
  for (int step = 0; step < 3; ++step)
    train.step({.tokens = T, .ids = text.inputs(), .seen = seen}, text.targets());
  return fg::place<fg::cuda>::fetched(net.on(), net.parameters());
}
std::vector<bf16> rows_of(fg::matrix<bf16 const> m) { return download(m.data, m.size()); }

/// One stage by itself, with the weights that a part of a network has.
template <class Stage, class Net>
fg::network<Stage, fg::cuda> part_of(Net const& net, std::string const& path) {
  fg::network<Stage, fg::cuda> part({}, net.on());
  for (auto const& entry : part.entries()) {
    auto const from = net.weight(path + entry.name);
    fg::place<fg::cuda>::copy(net.on(), from.data, from.size(), part.weight(entry.name).data);
  }
  return part;
}

TEST_CASE("watching changes no bit on the device") {
  NEED_GPU();
  fg::network<E, fg::cuda> plain;
  fg::network<watched, fg::cuda> net;
  fg::activations seen{net};
  auto const expected = trained(plain, nullptr);
  CHECK(same_bits(trained(net, &seen), expected));
  CHECK(seen["head"].rows == T);
  CHECK(seen.gradient("embedding").cols == 16);
}

TEST_CASE("a node's activations and gradients on the device are its own call's") {
  NEED_GPU();
  fg::network<apart, fg::cuda> net({.deviation = 0.3});
  fg::activations seen{net};
  tiny::text const text(T);
  auto const logits = unwritten<bf16>(T * 32), y = unwritten<bf16>(T * 16);
  auto const dy = upload(as_bf16(random_numbers(T * 32, 1)));
  fg::matrix<bf16> const out{y.data(), T, 16};
  net.forward({.tokens = T, .ids = text.inputs(), .seen = &seen}, {}, {logits.data(), T, 32});
  net.backward({dy.data(), T, 32});
  CHECK(same_bits(rows_of(seen["head"]), download(logits)));
  CHECK(same_bits(rows_of(seen.gradient("head")), download(dy)));

  auto norm = part_of<fg::rmsnorm<16>>(net, "layers.1.rmsnorm_2.");
  norm.infer({.tokens = T}, seen["layers.1.residual"], out);
  CHECK(same_bits(rows_of(seen["layers.1.rmsnorm_2"]), download(y)));
  auto layer = part_of<fg::mixture<tiny::numbers.moe>>(net, "layers.1.mixture.");
  layer.forward({.tokens = T}, seen["layers.1.rmsnorm_2"], out);
  CHECK(same_bits(rows_of(seen["layers.1.mixture"]), download(y)));
  auto const dx = unwritten<bf16>(T * 16);
  layer.backward(seen.gradient("layers.1.mixture"), {dx.data(), T, 16});
  CHECK(same_bits(rows_of(seen.gradient("layers.1.rmsnorm_2")), download(dx)));
  auto attend = part_of<fg::attention<16, 2, 1, 8>>(net, "layers.1.attention.");
  attend.forward({.tokens = T}, seen["layers.1.rmsnorm"], out);
  CHECK(same_bits(rows_of(seen["layers.1.attention"]), download(y)));

  // rows that stand apart, and those that are wanted
  auto const wide = unwritten<bf16>(T * 48);
  fg::matrix<bf16> const gaps{wide.data(), T, 32, 48};
  fg::batch b{.tokens = T, .ids = text.inputs(), .seen = &seen};
  net.infer(b, {}, gaps);
  auto const all = rows_of(seen["head"]), strided = download(wide);
  for (std::int64_t t = 0; t < T; ++t)
    CHECK(std::memcmp(&all[std::size_t(32 * t)], &strided[std::size_t(48 * t)], 64) == 0);
  std::vector<std::int64_t> const wanted{3, 31};
  b.wanted = wanted;
  net.infer(b, {}, gaps.middle_rows(0, 2));
  CHECK(seen["head"].rows == 2);

  auto const frozen = fg::quantize<fg::format::bf16>(net);
  b.wanted = {};
  auto const memory = unwritten<std::byte>(frozen.workspace_bytes(frozen.extent_of(T)));
  frozen.infer(b, {}, {logits.data(), T, 32}, {memory.data(), std::size_t(memory.size())});
  CHECK(same_bits(rows_of(seen["head"]), all));
  norm.infer({.tokens = T}, seen["layers.1.residual"], out);
  CHECK(same_bits(rows_of(seen["layers.1.rmsnorm_2"]), download(y)));
}

TEST_CASE("a recorded step keeps no activations, and says so") {
  NEED_GPU();
  fg::network<watched, fg::cuda> net;
  fg::trainer train{net};
  fg::device_buffer<std::int32_t> const ids(T), targets(T);
  fg::activations seen{net};
  CHECK_THROWS_WITH(train.record({.tokens = T, .ids = ids, .seen = &seen}, targets),
                    "a pass that is recorded keeps no activations: nothing runs yet");
  train.record({.tokens = T, .ids = ids}, targets);  // without it is a step like any other
}

}  // namespace
