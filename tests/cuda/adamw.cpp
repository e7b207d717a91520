// The device's AdamW against the host's.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/adamw.hpp>
#include <finegrain/train/adamw.hpp>

#include "numbers.hpp"

namespace {

using namespace rows_under_test;
using kernels = fg::device::adamw<bf16>;

TEST_CASE("steps of AdamW on the device are the host's") {
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  // Ranges with a tail, off a border, and a gap between them that nothing touches.
  std::vector<fg::trained_range> const ranges{
      {0, 16384, true}, {16384, 1003, false}, {17400, 8, true}, {17413, 600, true}};
  constexpr std::size_t size = 18100;
  std::vector<fg::device::weight_range> ranges_;
  for (auto const& r : ranges) ranges_.push_back({r.offset, r.count, r.decays});
  auto const on_device = up(ranges_);
  auto const count = static_cast<std::int64_t>(ranges.size());

  fg::adamw const how{.lr = 1e-2};
  fg::device::adamw_numbers const how_{how.beta1, how.beta2, how.epsilon, how.weight_decay};
  std::vector<double> w, m(size, 0), v(size, 0), partial(ranges.size());
  for (bf16 x : random_rows(size, 1)) w.push_back(number(x));
  auto const w_ = up(std::vector<float>(w.begin(), w.end()));
  auto const m_ = up(std::vector<float>(size, 0)), v_ = up(std::vector<float>(size, 0));
  auto const stored = up(std::vector<bf16>(size, bf16(7.0f)));
  auto const partial_ = poison<double>(count);
  auto const state = poison<fg::device::adamw_step>(1);

  for (int step = 1; step <= 5; ++step) {
    CAPTURE(step);
    auto g = random_rows(size, unsigned(10 + step), step == 2 ? 1e-6f : 3.0f);
    if (step == 4) g[5] = bf16(INFINITY);
    fg::device::adamw_step const before{
        .rate = how.lr / step, .step = step, .clip = step == 3 ? 0.0 : 1.0, .gathered = 2};
    fg::device::runtime::copy(state.data(), &before, sizeof before, stream);
    auto const g_ = up(g);
    auto const before_w = down(w_);
    kernels::gradient_norm(how_, on_device.data(), count, g_.data(), partial_.data(), state.data(),
                           stream);
    kernels::update(how_, on_device.data(), count, g_.data(), w_.data(), m_.data(), v_.data(),
                    stored.data(), state.data(), stream);
    auto const after = down(state)[0];
    auto const gs = doubles(g);
    double const norm =
        fg::gradient_norm<double>(fg::parallel{}, ranges, gs.data(), partial.data()) / 2;
    CHECK(after.finite == std::isfinite(norm));
    if (!std::isfinite(norm)) {
      CHECK(same_bits(down(w_), before_w));
      continue;
    }
    CHECK(after.norm == Approx(norm).epsilon(1e-12));
    double const scale = (before.clip > 0 && norm > before.clip ? before.clip / norm : 1) / 2;
    fg::adamw_update<double>(fg::parallel{}, how, before.rate, step, scale, ranges, gs.data(),
                             w.data(), m.data(), v.data());
    CHECK(far_off(down(w_), w, 1e-5, 1e-6) == "");
    CHECK(far_off(down(m_), m, 1e-5, 1e-9) == "");
    CHECK(far_off(down(v_), v, 1e-5, 1e-15) == "");
    std::vector<double> rounded(size, 7);
    auto const now = down(w_);
    for (auto const& r : ranges)
      for (auto i = std::size_t(r.offset); i < std::size_t(r.offset + r.count); ++i)
        rounded[i] = fg::rounded_to_bf16(number(now[i]));
    CHECK(far_off(down(stored), rounded, 0, 0) == "");
  }
}

TEST_CASE("selection biases move by the counts of all batches") {
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  for (int const R : {1, 8, 300}) {
    std::vector<std::int32_t> counts;
    for (int e = 0; e < R; ++e) counts.push_back(e % 4);
    auto const counts_ = up(counts);
    auto const load = poison<std::int64_t>(R);
    kernels::add_load(counts_.data(), R, fg::gradients::overwrite, load.data(), stream);
    kernels::add_load(counts_.data(), R, fg::gradients::accumulate, load.data(), stream);
    std::int64_t all = 0;
    auto const loads = down(load);
    for (int e = 0; e < R; ++e) {
      CHECK(loads[std::size_t(e)] == 2 * counts[std::size_t(e)]);
      all += loads[std::size_t(e)];
    }
    for (bool const centre : {false, true}) {
      std::vector<float> const old(std::size_t(R), 0.5f);
      auto const bias = up(old);
      auto const stored = poison<bf16>(R);
      auto const state = up(std::vector<fg::device::adamw_step>(1));  // not finite
      kernels::move_bias(load.data(), R, 0.25, centre, bias.data(), nullptr, state.data(), stream);
      CHECK(same_bits(down(bias), old));
      kernels::move_bias(load.data(), R, 0.25, centre, bias.data(), stored.data(), nullptr, stream);
      std::vector<double> should;
      double mean = 0;
      for (int e = 0; e < R; ++e) {
        auto const excess = loads[std::size_t(e)] * R - all;
        should.push_back(0.5 - 0.25 * ((excess > 0) - (excess < 0)));
        mean += should.back() / R;
      }
      for (double& b : should) b -= centre ? mean : 0;
      CHECK(far_off(down(bias), should, 0, 1e-6) == "");
      CHECK(far_off(down(stored), should, bf16_step, 1e-6) == "");
    }
  }
}

}  // namespace
