// x + attention(rmsnorm(x)) on the device against the specification in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/layers.hpp>

#include "../catch.hpp"
#include "device_layer.hpp"

using namespace under_test;

namespace {

constexpr fg::attention_form biased{.bias = true, .theta = 1e6},
    each{.norm = fg::head_norm::each, .theta = 1e6}, whole{.norm = fg::head_norm::all, .rotary = 8},
    everything{.bias = true,
               .norm = fg::head_norm::each,
               .epsilon = 1e-2,
               .scale = 0.2,
               .yarn = {.factor = 4, .original = 64, .fast = 8, .slow = 2, .mscale_all = 0.5f}},
    neighbours{.adjacent = true}, longer{.yarn = {.factor = 8, .original = 32, .mscale = 0.5f}};

template <int D, int Heads, int KvHeads, int HeadDim,
          fg::attention_form Form = fg::attention_form{}>
void compare(fg::batch const& b, fg::gradients mode) {
  constexpr auto block =
      fg::residual(fg::rmsnorm<D, 1e-5>{} | fg::attention<D, Heads, KvHeads, HeadDim, Form>{});
  using E = std::remove_const_t<decltype(block)>;
  device_layer<E> fast;
  exact_layer<E> exact;
  fast.mode = exact.mode = mode;
  if (mode == fg::gradients::accumulate) exact.before = fast.before = 0.25f;
  numbers const w = rounded(random_numbers(fg::weights_size<E>(), 3, 2 / std::sqrt(double(D))));
  fast.set_weights(w), exact.set_weights(w);
  numbers const x = rounded(random_numbers(b.tokens * D, 4)),
                dy = rounded(random_numbers(b.tokens * D, 5));
  fast.train(x, dy, b), exact.train(x, dy, b);
  INFO(D << " wide, " << Heads << " heads, " << KvHeads << " of keys, " << b.tokens << " tokens");
  CHECK(off(exact.y, fast.read_y()) < 0.01);
  CHECK(off(exact.dx, fast.read_dx()) < 0.015);
  numbers const dw = fast.read_dw();
  for (auto const& entry : fg::list_weights<E>()) {
    INFO(entry.name);
    // A bias of all keys would change no weight if positions turned nothing: little is left of sums.
    double const bound = entry.name == "attention.key_bias" ? 0.06 : 0.02;
    CHECK(off(part(exact.dw, entry), part(dw, entry)) < bound);
  }
  numbers const y = fast.read_y();
  CHECK(same(y, fast.forward(x, b)));  // inference

  fg::cache_of<fg::cuda> cache(fg::cache_width(E{}), b.tokens);
  if (b.tokens > 0 && b.starts.empty())
    CHECK(off(exact.y, fast.forward(x, {}, false, &cache)) < 0.01);
}

template <int D, int Heads, int KvHeads, int HeadDim>
void check_sequences() {
  constexpr auto block =
      fg::residual(fg::rmsnorm<D>{} | fg::attention<D, Heads, KvHeads, HeadDim>{});
  using E = std::remove_const_t<decltype(block)>;
  device_layer<E> fast;
  exact_layer<E> exact;
  numbers const w = rounded(random_numbers(fg::weights_size<E>(), 3, 2 / std::sqrt(double(D))));
  fast.set_weights(w), exact.set_weights(w);
  CHECK(off_in_sequences(fast, exact) < 0.01);
}

}  // namespace

TEST_CASE("a residual attention block on the device is the specification's") {
  NEED_GPU();
  for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate})
    for (std::int64_t T : on_device::sizes_here({0, 1, 5, 70, 257})) {
      compare<128, 2, 2, 64>({.tokens = T}, mode);
      compare<72, 3, 1, 24>({.tokens = T}, mode);
      if (T < 5) continue;
      std::vector<std::int64_t> const starts{0, 2, 3, T};
      compare<256, 4, 2, 128>({.tokens = T, .starts = starts}, mode);
    }
}

TEST_CASE("on the device several sequences with a cache are what each is alone") {
  NEED_GPU();
  check_sequences<128, 2, 2, 64>();
  check_sequences<72, 3, 1, 24>();
}

TEST_CASE("with biases, norms of queries and keys and YaRN, too") {
  NEED_GPU();
  for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate})
    for (std::int64_t T : {0, 1, 5, 70}) {
      compare<72, 3, 1, 24, biased>({.tokens = T}, mode);
      compare<72, 3, 1, 24, neighbours>({.tokens = T}, mode);
      compare<64, 4, 2, 32, each>({.tokens = T}, mode);
      compare<64, 4, 2, 24, whole>({.tokens = T}, mode);
      compare<64, 4, 2, 24, longer>({.tokens = T}, mode);
      if (T < 5) continue;
      std::vector<std::int64_t> const starts{0, 2, 3, T};
      compare<128, 4, 2, 64, everything>({.tokens = T, .starts = starts}, mode);
      compare<128, 4, 2, 64, biased>({.tokens = T, .starts = starts}, mode);
    }
}
