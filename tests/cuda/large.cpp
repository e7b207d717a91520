// More than 2^31 numbers in an array, and the 16B in the memory of one GPU. Hidden: they need 60 GB.
// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include <chrono>
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "device_layer.hpp"

using namespace under_test;

namespace {

using run = fg::device::runtime;
constexpr std::int64_t past_int = std::int64_t{1} << 31;

/// x (T, cols) of which every `period` rows are the same.
fg::device_buffer<bf16> repeated(std::int64_t T, std::int64_t period, std::int64_t cols,
                                 std::uint64_t seed) {
  auto const once = as_bf16(random_numbers(period * cols, seed));
  fg::device_buffer<bf16> x(T * cols);
  auto const bytes = static_cast<std::int64_t>(once.size() * sizeof(bf16));
  for (std::int64_t t = 0; t < T; t += period)
    run::enqueue_copy(x.data() + t * cols, once.data(), bytes, nullptr);
  return x;
}
double free_bytes() {
  std::size_t free = 0, all = 0;
  static_cast<void>(cudaMemGetInfo(&free, &all));
  return static_cast<double>(free);
}

}  // namespace

TEST_CASE("activations of more than 2^31 numbers", "[.large]") {
  NEED_GPU();
  constexpr fg::config c{.hidden = 512, .width = 1024, .routed = 16, .top_k = 8, .shared = 1};
  constexpr std::int64_t T = 140032, period = 1094, D = c.hidden;
  static_assert(T * c.top_k * 2 * c.width > past_int && T % period == 0);
  for (auto use : {fg::device::instructions::all, fg::device::instructions::portable}) {
    fg::network<fg::mixture<c>, fg::cuda> net({.deviation = 0.04});
    net.on().use = use;
    auto const x = repeated(T, period, D, 1), dy = repeated(T, period, D, 2);
    auto y = unwritten<bf16>(T * D), dx = unwritten<bf16>(T * D);
    auto const pass = [&](std::int64_t tokens) {
      net.forward({.tokens = tokens}, {x.data(), tokens, D}, {y.data(), tokens, D});
      net.backward({dy.data(), tokens, D}, {dx.data(), tokens, D});
      return as_numbers(download(net.gradient().data(), fg::weights_size<fg::mixture<c>>()));
    };
    numbers const all = pass(T);
    auto const first_y = download(y.data(), period * D), first_dx = download(dx.data(), period * D);
    for (std::int64_t t : {T / 2 / period * period, T - period}) {
      CHECK(same_bits(first_y, download(y.data() + t * D, period * D)));
      CHECK(same_bits(first_dx, download(dx.data() + t * D, period * D)));
    }
    numbers const once = pass(period);
    std::vector<double> expected(once.begin(), once.end());
    for (double& g : expected) g *= T / period;
    for (auto const& entry : net.entries()) {
      INFO(entry.name);
      CHECK(off(part(expected, entry), part(all, entry)) < 0.02);
    }
  }
}

TEST_CASE("experts of more than 2^31 numbers", "[.large]") {
  NEED_GPU();
  constexpr fg::config c{.hidden = 4096, .width = 1024, .routed = 520, .top_k = 4};
  constexpr std::int64_t T = 512, D = c.hidden, F = c.width, size = D * F;
  static_assert(c.routed * size > past_int);
  fg::network<fg::mixture<c>, fg::cuda> net({.deviation = 0.02});
  auto const x = upload(as_bf16(random_numbers(T * D, 1)));
  auto const dy = upload(as_bf16(random_numbers(T * D, 2)));
  auto y = unwritten<bf16>(T * D);
  auto const w = std::as_const(net).weights();
  numbers const rows = as_numbers(download(x)), dys = as_numbers(download(dy)),
                router = as_numbers(download(w.router.data, c.routed * D));
  // Each token's experts and weights, in double.
  std::vector<std::vector<std::pair<double, int>>> chosen;
  for (std::int64_t t = 0; t < T; ++t) {
    std::vector<std::pair<double, int>> scores;
    double sum = 0;
    for (int e = 0; e < c.routed; ++e) {
      double logit = 0;
      for (std::int64_t d = 0; d < D; ++d)
        logit += double(rows[std::size_t(t * D + d)]) * double(router[std::size_t(e * D + d)]);
      scores.push_back({std::exp(logit), e});
      sum += std::exp(logit);
    }
    std::partial_sort(scores.begin(), scores.begin() + c.top_k, scores.end(), std::greater{});
    scores.resize(c.top_k);
    for (auto& s : scores) s.first /= sum;
    chosen.push_back(scores);
  }
  auto const output = [&](std::int64_t t, int e) {
    numbers const gate = as_numbers(download(w.gate.data + e * size, size)),
                  up = as_numbers(download(w.up.data + e * size, size)),
                  down = as_numbers(download(w.down.data + e * size, size));
    std::vector<double> hidden(F), out(D);
    for (std::int64_t f = 0; f < F; ++f) {
      double g = 0, u = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        double const v = rows[std::size_t(t * D + d)];
        g += v * double(gate[std::size_t(f * D + d)]);
        u += v * double(up[std::size_t(f * D + d)]);
      }
      hidden[std::size_t(f)] = g / (1 + std::exp(-g)) * u;
    }
    for (std::int64_t d = 0; d < D; ++d)
      for (std::int64_t f = 0; f < F; ++f)
        out[std::size_t(d)] += hidden[std::size_t(f)] * double(down[std::size_t(d * F + f)]);
    return out;
  };

  for (bool const training : {false, true}) {
    if (training) {
      net.forward({.tokens = T}, {x.data(), T, D}, {y.data(), T, D});
      net.backward({dy.data(), T, D});
    } else {
      net.infer({.tokens = T}, {x.data(), T, D}, {y.data(), T, D});
    }
    // A token that the last experts, whose weights lie past 2^31, have a part in.
    int seen = 0;
    for (std::int64_t t = 0; t < T && seen < 2; ++t) {
      auto const& mine = chosen[std::size_t(t)];
      if (std::none_of(mine.begin(), mine.end(), [](auto s) { return s.second >= 514; })) continue;
      ++seen;
      std::vector<double> expected(D);
      for (auto const& [weight, e] : mine) {
        auto const out = output(t, e);
        for (std::size_t d = 0; d < out.size(); ++d) expected[d] += weight * out[d];
      }
      INFO(t);
      CHECK(off(expected, as_numbers(download(y.data() + t * D, D))) < 0.015);
    }
    CHECK(seen == 2);
  }
  // y is linear in up and in down: an expert's weights times their gradients are its part of y . dy.
  auto const dw = net.gradient_views();
  for (int const e : {3, 515, 519}) {
    double expected = 0;
    for (std::int64_t t = 0; t < T; ++t)
      for (auto const& [weight, mine] : chosen[std::size_t(t)]) {
        if (mine != e) continue;
        auto const out = output(t, e);
        for (std::size_t d = 0; d < out.size(); ++d)
          expected += weight * out[d] * double(dys[std::size_t(t * D) + d]);
      }
    auto const dot = [&](bf16 const* a, bf16 const* b) {
      numbers const u = as_numbers(download(a + e * size, size)),
                    v = as_numbers(download(b + e * size, size));
      double sum = 0;
      for (std::size_t i = 0; i < u.size(); ++i) sum += double(u[i]) * double(v[i]);
      return sum;
    };
    INFO("expert " << e);
    CHECK(dot(w.up.data, dw.up.data) == Approx(expected).epsilon(0.02).margin(1e-4));
    CHECK(dot(w.down.data, dw.down.data) == Approx(expected).epsilon(0.02).margin(1e-4));
  }
}

TEST_CASE("DeepSeekMoE 16B fits into 40 GB", "[.large]") {
  NEED_GPU();
  using E = fg::decoder<fg::presets::deepseek_moe_16b>;
  using model = fg::network<E, fg::cuda>;
  constexpr std::int64_t T = 4096, V = fg::out_width<E>();
  constexpr std::int64_t bytes = 2 * fg::weights_size<E>() + model::workspace_bytes({T, 1, false});
  static_assert(bytes < std::int64_t{40} << 30);
  double const before = free_bytes();
  auto const start = std::chrono::steady_clock::now();
  model net;
  double const seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<std::int32_t> ids;
  for (std::uint64_t t = 0; t < T; ++t)
    ids.push_back(static_cast<std::int32_t>(fg::random_word(1, t) % V));
  net.reserve(T);
  double const taken = before - free_bytes();
  WARN("weights and workspace " << double(bytes) * 0x1p-30 << " GiB by formula, " << taken * 0x1p-30
                                << " GiB taken; random weights in " << seconds << " s");
  CHECK(taken < 40 * 0x1p30);
  fg::device_buffer<bf16> y(T * V);
  run::fill(y.data(), 0xff, y.bytes(), nullptr);
  net.infer({.tokens = T, .ids = ids}, {}, {y.data(), T, V});
  numbers const last = as_numbers(download(y.data() + (T - 1) * V, V));
  double square = 0;
  for (float x : last) square += double(x) * double(x);
  CHECK(square > 0);
  CHECK(std::isfinite(square));
}
