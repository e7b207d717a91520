// panels: weights copied once into the order in which a product reads them, in any format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/buffer.hpp"
#include "executor.hpp"
#include "left.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {
namespace simd {

/// `count` matrices W (rows, cols) for x W^T, or pairs of them, gate and up. A panel is two vectors'
/// rows of W, the pair's side by side.
struct panel_shape {
  std::int64_t count = 0, rows = 0, cols = 0;
  int sides = 1;  // 2 for pairs

  /// Rows of each matrix in a panel, and panels of a matrix.
  constexpr std::int64_t width() const { return panel_width / sides; }
  constexpr std::int64_t size() const { return ceil_div(rows, width()); }
  /// The first row of a panel's vector.
  constexpr std::int64_t first_row(std::int64_t p, int j) const {
    return p * width() + (sides == 1 ? j * lanes : 0);
  }
};

/// One matrix's panels of numbers, as multiply_panels reads them: they go k by k, a unit of each row.
/// What is missing at the ends is 0.
template <format F>
struct packed_matrix {
  static constexpr std::int64_t unit_bytes = panel_width * 4;
  /// Where there are 32 registers, pairs are read no faster from several panels at a time.
  static constexpr int abreast(int rows) {
    constexpr bool pairs = registers == 32 && F == format::bf16;
    return rows <= 2 && !pairs ? enough_panels(rows) : panels_for<F>(rows);
  }
  float const* data;
  std::int64_t units;  // of k in all

  /// Where there are 32 registers pieces are longer, and of one length, since the next one is fetched during
  /// each. A piece of panels side by side stays in the first-level cache. Registers for matrices read A and B
  /// from the second-level cache in time, and take a panel as one piece; but for more than two strips pieces
  /// of B stay in the first, which leaves room for what comes from memory.
  std::int64_t pass(int rows, std::int64_t) const {
    if (unit<F>::deep > 1 && rows > 2 * strips<F>::most) return depth;
    if (unit<F>::deep > 1) return std::max<std::int64_t>(units, 1);
    std::int64_t const longest = panels_for<F>(rows) > 1 ? block_depth<F> : 2 * depth;
    return registers == 32 ? ceil_div(units, (units - 1) / longest + 1) : depth;
  }

  /// Many tiles share the fetching of what comes then. A tile alone reads at the pace of memory: it
  /// fetches 4 kB ahead, or 1 kB where it has few registers and takes units of one part fast; one row of
  /// one part leaves even that to the machine, but for the long steps of registers for matrices. Up to eight
  /// rows fetch from further on, too; more lose by it (docs/tried.md).
  void run(strips<F> const& a, piece const& now, int count, bool, float* sums,
           piece const& then) const {
    float const* const panel = at(now.panel, now.k);
    sink const to = now.k == 0 ? sink::fresh : sink::go_on;
    if (a.rows() <= 2 && count > 1) return few_rows(a, now.units, panel, to, count, sums);
    std::int64_t const apart = units * panel_width;
    auto const run = [&](auto next) {
      a.multiply(now.units, {panel, count, apart}, to, sums, next);
    };
    if (a.tiles() > 1)
      fetching<F>(bytes(at(then.panel, then.k)), then.units * unit_bytes, count, apart * 4,
                  a.tiles(), now.units, run);
    else if constexpr (unit<F>::deep > 1)
      run(streams{bytes(panel + 1024), streams::every * unit_bytes});
    else {
      bool const machine = a.rows() * unit<F>::parts == 1;  // it fetches
      flow<1> const next(bytes(panel + (registers == 16 && unit<F>::parts == 1 ? 256 : 1024)),
                         machine ? 0 : unit_bytes);
      if (!few_places && !machine && a.rows() <= 8)
        run(far_flow{next});
      else
        run(next);
    }
  }
  float const* at(std::int64_t p, std::int64_t k) const {
    return data + (p * units + k) * panel_width;
  }
  static std::byte const* bytes(float const* p) { return reinterpret_cast<std::byte const*>(p); }

 private:
  void few_rows(strips<F> const& a, std::int64_t some, float const* panel, sink to, int count,
                float* sums) const {
    std::int64_t const apart = units * panel_width;
    no_fetching none;
    auto const run = [&]<int Rows, int Panels>() {
      for (; a.rows() == Rows && count >= Panels; count -= Panels) {
        run_tiles<F, tile_form{in_strips, Rows, Rows, Panels}, Rows>(
            a.first(), some, {panel, Panels, apart, Rows * panel_width}, to, sums, panel_width, {},
            1, none);
        panel += Panels * apart;
        sums += Panels * Rows * panel_width;
      }
    };
    run.template operator()<1, 4>();
    run.template operator()<1, 2>();
    run.template operator()<1, 1>();
    run.template operator()<2, 2>();
  }
};

/// Panels of numbers.
template <format F>
struct panels : panel_shape {
  static constexpr format products = F;  // what they are multiplied in
  float* data = nullptr;

  constexpr panels() = default;
  constexpr panels(arena& memory, std::int64_t count, std::int64_t rows, std::int64_t cols,
                   int sides = 1)
      : panel_shape{count, rows, cols, sides}, data(memory.take<float>(count * matrix_size())) {}

  /// How many panels must be packed by one task.
  static constexpr std::int64_t together() { return 1; }
  /// Packs weights w (rows, cols) as vector j of the panels [p, last) of matrix i.
  void pack(finegrain::matrix<float const> w, int j, std::int64_t i, std::int64_t p,
            std::int64_t last) const {
    std::int64_t const there = ceil_div(cols, unit<F>::numbers), units = units_of<F>(cols);
    for (; p < last; ++p) {
      float* const to = data + i * matrix_size() + p * units * panel_width + j * lanes;
      pack_vector<F>(w.data, w, first_row(p, j), 0, cols, to);
      for (std::int64_t u = there; u < units; ++u) std::fill_n(to + u * panel_width, lanes, 0.0f);
    }
  }

  packed_matrix<F> matrix(std::int64_t i, float*) const {
    return {data + i * matrix_size(), units_of<F>(cols)};
  }
  /// One matrix alone.
  panels only(std::int64_t i) const {
    panels one = *this;
    one.data += i * matrix_size(), one.count = 1;
    return one;
  }

 private:
  constexpr std::int64_t matrix_size() const { return size() * units_of<F>(cols) * panel_width; }
};

/// Packs weights (rows, cols) as the matrices from `first` on, or of pairs as one side of them.
template <format F>
void fill_panels(cpu const& on, panels<F> const& to, stack<float const> w, std::int64_t first = 0,
                 int side = 0) {
  if constexpr (in_matrices<panels<F>::products>) require_matrix_registers();
  std::int64_t const together = to.together(), tasks = ceil_div(to.size(), together);
  on.threads(w.count * tasks, [&](std::int64_t task, int) {
    std::int64_t const i = task / tasks, p = task % tasks * together;
    for (int j = 0; j < vectors; ++j)
      if (to.sides == 1 || j == side)
        to.pack(w[i], j, first + i, p, std::min(to.size(), p + together));
  });
}

/// One matrix as a stack of one, or of none if it is empty.
template <class T>
stack<T> stacked(matrix<T> m) {
  return {m.data, m.rows * m.cols > 0 ? 1 : 0, m.rows, m.cols};
}
/// The shape alone: the numbers are packed.
template <format F>
stack<float const> stacked(panels<F> const& p) {
  return {nullptr, p.count, p.rows, p.cols};
}

}  // namespace simd
}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
