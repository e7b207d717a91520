// A router's report as kernels write it. Defined in report.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// A report, in memory that kernels write; see routing_report.
struct router_report {
  std::int64_t *load = nullptr, *dropped = nullptr;  // (R)
  double *mean_score = nullptr, *bias = nullptr;     // (R)
  double* quantile = nullptr;                        // (R)
  double* totals = nullptr;                          // (3) balance_loss, entropy, devices

  constexpr router_report() = default;
  /// In numbers(R) doubles, one part after the other.
  router_report(double* at, int R)
      : load(reinterpret_cast<std::int64_t*>(at)),
        dropped(load + R),
        mean_score(at + 2 * R),
        bias(at + 3 * R),
        quantile(at + 4 * R),
        totals(at + 5 * R) {
    static_assert(sizeof(std::int64_t) == sizeof(double));
  }
  static constexpr std::int64_t numbers(std::int64_t R) { return 5 * R + 3; }
  /// On the host, when kernels have written it. Report is routing_report, whose header brings
  /// <vector>, which kernels do without.
  template <class Report>
  void read(Report& to) const {
    for (std::size_t e = 0; e < to.load.size(); ++e) {
      to.load[e] = load[e], to.dropped[e] = dropped[e];
      to.mean_score[e] = mean_score[e], to.bias[e] = bias[e], to.quantile[e] = quantile[e];
    }
    to.balance_loss = totals[0], to.entropy = totals[1], to.devices = totals[2];
  }
  static constexpr int blocks = 128;
  /// Numbers of scratch that it needs.
  static constexpr std::int64_t partials(int R) { return std::int64_t{blocks} * (R + 3); }
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
