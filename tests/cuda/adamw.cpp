// The device's AdamW against the host's.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/adamw.hpp>
#include <finegrain/train/adamw.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;
using kernels = fg::device::adamw<bf16>;

namespace {

/// Ranges with a tail, off a border, and a gap between them that nothing touches.
std::vector<fg::trained_range> const ranges{
    {0, 16384}, {16384, 1003, 1, 0}, {17400, 8, 0.5, 0.25}, {17413, 600, 3, 3}};
constexpr std::size_t size = 18100;

std::vector<fg::device::weight_range> for_device(std::vector<fg::trained_range> const& all) {
  std::vector<fg::device::weight_range> list;
  for (auto const& r : all) list.push_back({r.offset, r.count, r.rate, r.decay});
  return list;
}

}  // namespace

TEST_CASE("steps of AdamW on the device are the host's") {
  NEED_GPU();
  auto const ranges_ = for_device(ranges);
  auto const on_device = upload(ranges_);
  auto const count = static_cast<std::int64_t>(ranges.size());

  fg::adamw const how{.lr = 1e-2};
  fg::device::adamw_numbers const how_{how.beta1, how.beta2, how.epsilon, how.weight_decay};
  std::vector<double> w, m(size, 0), v(size, 0), partial(ranges.size());
  for (bf16 x : random_rows(size, 1)) w.push_back(number(x));
  auto const w_ = upload(std::vector<float>(w.begin(), w.end()));
  auto const m_ = upload(std::vector<float>(size, 0)), v_ = upload(std::vector<float>(size, 0));
  auto const stored = upload(std::vector<bf16>(size, bf16(7.0f)));
  auto const partial_ = unwritten<double>(count);
  auto const state = upload(std::vector<fg::device::adamw_step>(1));
  fg::schedule const along{.warmup = 3, .steps = 8, .decay = fg::decay::cosine};
  auto const loss = upload(std::vector<double>{2.5});
  auto const terms = upload(std::vector<std::int64_t>{7});

  for (int step = 1; step <= 5; ++step) {
    CAPTURE(step);
    auto g = random_rows(size, unsigned(10 + step), step == 2 ? 1e-6f : 3.0f);
    if (step == 4) g[5] = bf16(INFINITY);
    fg::device::adamw_request const asked{how.lr, along, step == 3 ? 0.0 : 1.0, 2};
    auto const g_ = upload(g);
    auto const before_w = download(w_);
    kernels::gradient_norm(how_, asked, on_device.data(), count, g_.data(), partial_.data(),
                           step == 2 ? nullptr : loss.data(), step == 2 ? nullptr : terms.data(),
                           state.data(), stream);
    kernels::update(how_, on_device.data(), count, g_.data(), w_.data(), m_.data(), v_.data(),
                    stored.data(), state.data(), stream);
    auto const after = download(state)[0];
    auto const gs = doubles(g);
    double const norm =
        fg::gradient_norm<double>(fg::parallel{}, ranges, gs.data(), partial.data()) / 2;
    CHECK(after.finite == std::isfinite(norm));
    CHECK(after.step == step);
    CHECK(after.loss == (step == 2 ? 0 : 2.5));
    CHECK(after.terms == (step == 2 ? 0 : 7));
    if (!std::isfinite(norm)) {
      CHECK(same_bits(download(w_), before_w));
      continue;
    }
    CHECK(after.norm == Approx(norm).epsilon(1e-12));
    double const scale = (asked.clip > 0 && norm > asked.clip ? asked.clip / norm : 1) / 2;
    fg::adamw_update<double>({}, how,
                             {.number = step,
                              .rate = how.lr * along.at(step - 1),
                              .scale = scale,
                              .gradient = gs.data(),
                              .weights = w.data(),
                              .first = m.data(),
                              .second = v.data()},
                             ranges);
    CHECK(far_off(download(w_), w, 1e-5, 1e-6) == "");
    CHECK(far_off(download(m_), m, 1e-5, 1e-9) == "");
    CHECK(far_off(download(v_), v, 1e-5, 1e-15) == "");
    std::vector<double> rounded(size, 7);
    auto const now = download(w_);
    for (auto const& r : ranges)
      for (auto i = std::size_t(r.offset); i < std::size_t(r.offset + r.count); ++i)
        rounded[i] = fg::rounded_to_bf16(number(now[i]));
    CHECK(far_off(download(stored), rounded, 0, 0) == "");
  }
}

TEST_CASE("weights rounded by chance on the device are the host's") {
  NEED_GPU();
  auto const ranges_ = for_device(ranges);
  std::vector<float> w;
  for (std::uint64_t i = 0; i < size; ++i) w.push_back(float(fg::random_normal(1, i)));
  w[3] = INFINITY, w[17413] = -INFINITY, w[17420] = 0;
  auto const w_ = upload(w);
  auto const on_device = upload(ranges_);
  for (std::int64_t step : {0, 1, 7}) {
    auto const stored = upload(std::vector<bf16>(size, bf16(7.0f)));
    std::vector<bf16> expected(size, bf16(7.0f));
    fg::round_weights<float>(
        fg::parallel{}, ranges, w.data(),
        {expected.data(), true, fg::random_word(0, static_cast<std::uint64_t>(step))});
    auto const state = upload(std::vector<fg::device::adamw_step>{{.step = step}});
    fg::device::chance_rounding<void>::write(on_device.data(), on_device.size(), w_.data(),
                                             stored.data(), state.data(), stream);
    CHECK(same_bits(download(stored), expected));
  }
}

TEST_CASE("selection biases move by the counts of all batches") {
  NEED_GPU();
  // Three routers whose reports lie one after the other; the second has no biases.
  std::vector<fg::device::router_place> const routers{
      {0, 0, 5, 6, 1}, {5, 1, -1, -1, 8}, {26, 9, 10, 400, 300}};
  constexpr std::int64_t numbers = 800, all_loads = 309;
  auto const routers_ = upload(routers);
  auto const count = static_cast<std::int64_t>(routers.size());
  std::vector<double> reports(700);
  for (auto const& r : routers)
    for (std::int64_t e = 0; e < r.experts; ++e) {
      std::int64_t const chosen = e % 4;
      std::memcpy(&reports[std::size_t(r.report + e)], &chosen, sizeof chosen);
    }
  auto const reports_ = upload(reports);
  auto const load = unwritten<std::int64_t>(all_loads);
  for (auto const mode : {fg::gradients::overwrite, fg::gradients::accumulate})
    kernels::add_loads(routers_.data(), count, reports_.data(), mode, load.data(), stream);
  auto const loads = download(load);
  for (bool const centre : {false, true}) {
    std::vector<float> const old(std::size_t(numbers), 0.5f);
    auto const w = upload(old);
    auto const stored = upload(std::vector<bf16>(std::size_t(numbers), bf16(7.0f)));
    auto const bad = upload(std::vector<fg::device::adamw_step>(1));  // not finite
    auto const good = upload(std::vector<fg::device::adamw_step>{{.finite = 1}});
    kernels::move_biases(routers_.data(), count, load.data(), 0.25, centre, w.data(), stored.data(),
                         bad.data(), stream);
    CHECK(same_bits(download(w), old));
    kernels::move_biases(routers_.data(), count, load.data(), 0.25, centre, w.data(), stored.data(),
                         good.data(), stream);
    auto const kept = download(stored);
    std::vector<double> should(std::size_t(numbers), 0.5), rounded(std::size_t(numbers), 7.0);
    for (auto const& r : routers) {
      std::int64_t all = 0;
      for (std::int64_t e = 0; e < r.experts; ++e) {
        CHECK(loads[std::size_t(r.load + e)] == 2 * (e % 4));
        all += 2 * (e % 4);
      }
      if (r.bias < 0) continue;
      double mean = 0;
      for (std::int64_t e = 0; e < r.experts; ++e) {
        auto const excess = 2 * (e % 4) * r.experts - all;
        double& b = should[std::size_t(r.bias + e)];
        b -= 0.25 * ((excess > 0) - (excess < 0));
        mean += b / r.experts;
      }
      for (std::int64_t e = 0; e < r.experts; ++e) {
        double& b = should[std::size_t(r.bias + e)];
        b -= centre ? mean : 0;
        rounded[std::size_t(r.bias + e)] = b;
        CHECK(number(kept[std::size_t(r.bias + e)]) + number(kept[std::size_t(r.rest + e)]) ==
              Approx(b).margin(1e-5));
        rounded[std::size_t(r.rest + e)] = number(kept[std::size_t(r.rest + e)]);
      }
    }
    CHECK(far_off(download(w), should, 0, 1e-6) == "");
    CHECK(far_off(download(stored), rounded, bf16_step, 1e-6) == "");
  }
}

}  // namespace
