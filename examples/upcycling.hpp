// upcycling: a network of mixtures that begins with a dense one's weights.
#pragma once

#include <algorithm>
#include <finegrain/finegrain.hpp>
#include <string>

/// Gives each of so many experts the dense blocks' weights; the mixture's routers stay as they were.
template <int Experts, class Dense, class Sparse>
void upcycle(Dense const& from, Sparse& to) {
  for (finegrain::weight_entry const& e : from.entries()) {
    auto const copy = [&](std::string const& name) {
      finegrain::matrix<float const> const w = from.weight(e.name);
      for (std::int64_t r = 0; r < w.rows; ++r)
        std::copy_n(w.row(r), w.cols, to.weight(name).row(r));
    };
    std::size_t const at = e.name.find("mlp.");
    if (at == e.name.npos)
      copy(e.name);
    else  // layers.0.mlp.gate to layers.0.mixture.experts.3.gate
      for (int i = 0; i < Experts; ++i)
        copy(e.name.substr(0, at) + "mixture.experts." + std::to_string(i) + e.name.substr(at + 3));
  }
}
