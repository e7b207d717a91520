// answer: what a network said to a request to its routers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "jsonl.hpp"
#include "specialisation.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A run under a request to its routers: for each text of a mixture (or the one text) the bits of
/// a token, and the tokens that each layer's experts got.
struct answer {
  std::vector<double> bits;
  std::vector<number_table> load;  // [domain][layer][expert]

  answer() = default;
  explicit answer(record const& r) : bits(r.numbers("bits")), load(bits.size()) {
    for (std::size_t d = 0; d < load.size(); ++d) load[d] = r.rows(key(d));
  }
  record line(record r) const {
    r.set("bits", bits);
    for (std::size_t d = 0; d < load.size(); ++d) r.set_rows(key(d), load[d]);
    return r;
  }

  double mean() const {
    return std::accumulate(bits.begin(), bits.end(), 0.0) / static_cast<double>(bits.size());
  }
  number_table total_load() const {
    number_table sum = load.empty() ? number_table{} : load[0];
    for (std::size_t d = 1; d < load.size(); ++d)
      for (std::size_t l = 0; l < sum.size(); ++l)
        for (std::size_t e = 0; e < sum[l].size(); ++e) sum[l][e] += load[d][l][e];
    return sum;
  }
  /// One layer's counts [domain][expert], of the layers that have a router. Throws invalid_argument.
  number_table by_domain(std::size_t layer) const {
    number_table out;
    for (number_table const& domain : load) {
      if (layer >= domain.size())
        throw invalid_argument("there is no router %lld: the model has %lld", detail::shown(layer),
                               detail::shown(domain.size()));
      out.push_back(domain[layer]);
    }
    return out;
  }

 private:
  static std::string key(std::size_t domain) { return "load." + std::to_string(domain); }
};

/// The answers' means over domains, a seed each.
inline std::vector<double> means(std::vector<answer> const& answers) {
  std::vector<double> out;
  for (answer const& a : answers) out.push_back(a.mean());
  return out;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
