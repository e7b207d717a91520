// A picture of expert load: for each model a strip of layers by experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "routing.hpp"
#include "svg.hpp"

namespace finegrain::inline FINEGRAIN_ABI::picture {

/// One model's load: for each router, what each expert got; and what the routers are called.
struct load_map {
  std::string name;
  number_table layers;
  std::vector<std::string> routers = {};
};

/// The picture as SVG. A cell's colour is the expert's load over its layer's mean; experts stand
/// in order of load, the busiest first, since their numbers mean nothing.
inline std::string draw_load(std::string const& title, std::vector<load_map> const& maps) {
  constexpr double row = 18, top = 64, most = 3;
  std::size_t longest = 0;
  for (load_map const& m : maps) longest = std::max(longest, text::width(m.name));
  double const left = std::max(24 + 7.2 * static_cast<double>(longest), 150.0);
  double const right = std::max(590.0, left + 340);
  double height = top;
  for (load_map const& m : maps) height += row * static_cast<double>(1 + m.layers.size()) + 16;
  drawing d(right + 110, std::max(height + 10, top + 150));
  d.heading(title, "each layer's experts, the busiest first; load over the layer's mean");
  double y = top;
  for (load_map const& m : maps) {
    load_balance const b = balance_of(m.layers);
    d.text({12, y + 13}, m.name, R"(font-weight="bold")");
    d.text({left, y + 13}, "all layers: largest max/mean " + text::fixed(b.max_over_mean, 2) +
                               ", mean variation " + text::fixed(b.variation, 2));
    y += row;
    for (std::size_t l = 0; l < m.layers.size(); ++l, y += row) {
      auto load = m.layers[l];
      std::sort(load.begin(), load.end(), std::greater<>());
      double total = 0;
      for (double n : load) total += n;
      double const mean = total / static_cast<double>(load.size());
      double const width = (right - left) / static_cast<double>(load.size());
      d.text({left - 8, y + 13},
             l < m.routers.size() ? m.routers[l] : "router " + std::to_string(l),
             R"(text-anchor="end" fill="#555")");
      for (std::size_t e = 0; e < load.size(); ++e)
        d.box({left + width * static_cast<double>(e), y}, width, row - 1,
              "stroke=\"#fff\" stroke-width=\"0.5\" fill=\"" + heat_colour(load[e] / mean / most) +
                  "\"",
              text::fixed(load[e] / mean, 2));
    }
    y += 16;
  }
  colour_bar(d, {right + 30, top}, heat_colour, {"0", "1 (even)", "2", "3 or more"});
  return d.svg();
}

}  // namespace finegrain::inline FINEGRAIN_ABI::picture
