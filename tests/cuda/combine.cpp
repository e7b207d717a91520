// Combine on the device, against sums in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/combine.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;

struct shape {
  std::int64_t T;
  int k, D, R;
  bool shared, add, gate;
};

TEST_CASE("a token's output is the weighted sum of its rows; dx takes in the router's part") {
  NEED_GPU();
  for (auto const& s : std::vector<shape>{{0, 2, 8, 4, true, true, false},
                                          {1, 6, 2048, 64, true, false, false},
                                          {5, 1, 8, 3, false, false, false},
                                          {70, 3, 72, 5, true, true, true},
                                          {130, 8, 264, 64, true, false, true},
                                          {200, 6, 520, 100, false, true, false},
                                          {65, 2, 40, 0, true, true, true},
                                          {65, 2, 40, 0, true, true, false},
                                          {300, 9, 1000, 256, true, true, false}})
    for (bool whole : {false, true}) {  // whole numbers, whose sums are exact
      std::int64_t const rows = s.T * s.k + 7;
      auto const made = [&](std::int64_t count, std::uint64_t seed) {
        auto numbers = random_bf16(count, seed, whole ? 2 : 1);
        for (auto& x : numbers)
          if (whole) x = bf16(std::round(float(x)));
        return numbers;
      };
      auto const floats = [&](std::int64_t count, std::uint64_t seed) {
        auto numbers = random_floats(count, seed, whole ? 2 : 1);
        for (auto& x : numbers)
          if (whole) x = std::round(x);
        return numbers;
      };
      auto const routed = made(rows * s.D, 1), shared = made(s.T * s.D, 2),
                 add = made(s.T * s.D, 3), router = made(s.R * s.D, 4), gate = made(s.D, 5);
      auto const weights = floats(s.T * s.k, 6), shared_weight = floats(s.T, 7),
                 dlogits = floats(s.T * s.R, 8), dgate = floats(s.T, 9);
      std::vector<std::int32_t> slot_row;
      for (std::int64_t i = 0; i < s.T * s.k; ++i)
        slot_row.push_back(fg::random_word(3, std::uint64_t(i)) % 5 == 0
                               ? -1
                               : std::int32_t((i * 7919 + 3) % rows));
      auto const d_routed = upload(routed), d_shared = upload(shared), d_add = upload(add),
                 d_router = upload(router), d_gate = upload(gate);
      auto const d_weights = upload(weights), d_shared_weight = upload(shared_weight),
                 d_dlogits = upload(dlogits), d_dgate = upload(dgate);
      auto const d_slots = upload(slot_row);
      auto const y = unwritten<bf16>(s.T * s.D), dx = unwritten<bf16>(s.T * s.D);
      fg::device::combined<bf16> from;
      from.hidden = s.D, from.tokens = s.T, from.slots = s.k;
      from.slot_row = d_slots.data();
      from.routed = d_routed.data();
      from.shared = s.shared ? d_shared.data() : nullptr;
      from.add = s.add ? d_add.data() : nullptr;
      fg::device::router_part<bf16> part;
      part.routed = s.R;
      part.dlogits = d_dlogits.data(), part.router = d_router.data();
      part.dgate = s.gate ? d_dgate.data() : nullptr;
      part.shared_gate = d_gate.data();
      using kernels = fg::device::combine<bf16>;
      kernels::forward(from, d_weights.data(), s.gate ? d_shared_weight.data() : nullptr, 0.5f,
                       y.data(), nullptr);
      kernels::backward(from, part, dx.data(), nullptr);

      std::vector<double> expected_y, expected_dx, w_router = doubles(router);
      for (std::int64_t t = 0; t < s.T; ++t)
        for (int d = 0; d < s.D; ++d) {
          auto const at = std::size_t(t * s.D + d);
          double sum = 0, gradient = 0;
          for (int slot = 0; slot < s.k; ++slot) {
            auto const i = std::size_t(t * s.k + slot);
            if (slot_row[i] < 0) continue;
            double const x =
                float(routed[std::size_t(slot_row[i]) * std::size_t(s.D) + std::size_t(d)]);
            sum += weights[i] * x;
            gradient += x;
          }
          if (s.shared) {
            sum += (s.gate ? shared_weight[std::size_t(t)] : 0.5f) * double(float(shared[at]));
            gradient += double(float(shared[at]));
          }
          if (s.add) sum += double(float(add[at])), gradient += double(float(add[at]));
          for (int e = 0; e < s.R; ++e)
            gradient +=
                double(dlogits[std::size_t(t * s.R + e)]) * w_router[std::size_t(e * s.D + d)];
          if (s.gate)
            gradient += double(dgate[std::size_t(t)]) * double(float(gate[std::size_t(d)]));
          expected_y.push_back(sum);
          expected_dx.push_back(gradient);
        }
      INFO("T " << s.T << " k " << s.k << " D " << s.D << " R " << s.R);
      auto const got = download(y, s.T * s.D), got_dx = download(dx, s.T * s.D);
      CHECK(far_off(got, expected_y, 0.0042, 2e-3) == "");
      CHECK(far_off(got_dx, expected_dx, 0.0042, 2e-3) == "");
      for (double& x : expected_y) x = float(bf16(float(x)));
      for (double& x : expected_dx) x = float(bf16(float(x)));
      if (whole) {
        CHECK(far_off(got, expected_y, 0, 0) == "");
        CHECK(far_off(got_dx, expected_dx, 0, 0) == "");
      }
    }
}

}  // namespace
