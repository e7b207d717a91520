// What one would write without finegrain: a loop over experts around a library's products.
//
// An engine computes some rows of one expert; a peer gathers the rows, runs its engine over all
// experts and adds up the results. Engines here: Eigen, OpenBLAS; in onednn.hpp: oneDNN.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <finegrain/base/matrix.hpp>
#include <finegrain/cpu/executor.hpp>
#include <span>
#include <string>
#include <vector>
#ifdef FINEGRAIN_OPENBLAS
#include <cblas.h>
#endif

#include "probe.hpp"

namespace bench {

using dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using view = fg::matrix<float>;
using const_view = fg::matrix<float const>;

inline auto map(const_view m) {
  return Eigen::Map<dense const, 0, Eigen::OuterStride<>>(m.data, m.rows, m.cols,
                                                          Eigen::OuterStride<>(m.stride));
}
inline auto map(view m) {
  return Eigen::Map<dense, 0, Eigen::OuterStride<>>(m.data, m.rows, m.cols,
                                                    Eigen::OuterStride<>(m.stride));
}

/// An expert's weights, and where its gradients go.
struct expert {
  const_view gate, up, down;  // (F, D), (F, D), (D, F)
  view dgate, dup, ddown;
};

/// The tokens that are sent to an expert, and the weights of its results.
struct assignment {
  std::vector<std::int64_t> tokens;
  std::vector<float> weights;
};

/// Some of an expert's rows: what one task computes.
struct piece : assignment {
  std::size_t expert = 0;
  std::int64_t first = 0;  // of its slots: rows of x and y
  std::int64_t at = 0;     // of its numbers in g, u, h
  std::int64_t rows() const { return std::int64_t(tokens.size()); }
};

/// One routing of T tokens, cut into pieces; biggest first.
struct schedule {
  std::vector<piece> pieces;
  std::vector<std::vector<std::pair<std::int64_t, float>>> places;  // a token's slots and weights
  std::int64_t slots = 0, numbers = 0;

  /// Experts that take every token are cut in `parts`: else they would be the last at work.
  schedule(std::span<expert const> experts, std::vector<assignment> const& routed,
           std::int64_t tokens, std::int64_t parts)
      : places(static_cast<std::size_t>(tokens)) {
    for (std::size_t e = 0; e < routed.size(); ++e) {
      auto const n = std::ptrdiff_t(routed[e].tokens.size());
      auto const cuts = std::ptrdiff_t(n == tokens ? std::min<std::int64_t>(n, parts) : n > 0);
      for (std::ptrdiff_t i = 0; i < cuts; ++i) {
        auto const cut = [&](auto const& all) {
          return std::decay_t<decltype(all)>(all.begin() + n * i / cuts,
                                             all.begin() + n * (i + 1) / cuts);
        };
        pieces.push_back({{cut(routed[e].tokens), cut(routed[e].weights)}, e});
      }
    }
    std::stable_sort(pieces.begin(), pieces.end(), [&](piece const& a, piece const& b) {
      return a.rows() * experts[a.expert].gate.rows > b.rows() * experts[b.expert].gate.rows;
    });
    for (auto& p : pieces) {
      p.first = slots;
      p.at = numbers;
      for (std::size_t i = 0; i < p.tokens.size(); ++i)
        places[std::size_t(p.tokens[i])].push_back({slots + std::int64_t(i), p.weights[i]});
      slots += p.rows();
      numbers += p.rows() * experts[p.expert].gate.rows;
    }
  }
};

/// Memory for every slot's rows; peers that run one after the other share it.
class row_memory {
 public:
  /// Room for a schedule, beside those before; with `training` for what backward needs.
  void fit(schedule const& s, std::int64_t hidden, bool training) {
    hidden_ = hidden;
    slots_ = std::max(slots_, rounded(s.slots * hidden));
    numbers_ = std::max(numbers_, rounded(s.numbers));
    std::int64_t const needed = 4 * (2 * slots_ + (training ? 5 : 3) * numbers_);
    if (needed > memory_.bytes()) memory_ = large_memory(needed);
  }

  /// A piece's rows of x, y, and of gate, up, hidden, dgate, dup.
  struct rows {
    view x, y, g, u, h, dg, du;
  };
  rows of(piece const& p, std::int64_t width) const {
    float* const wide = memory_.floats() + 2 * slots_ + p.at;
    auto const narrow = [&](int i) {
      return view(memory_.floats() + i * slots_ + p.first * hidden_, p.rows(), hidden_);
    };
    auto const hidden = [&](int i) { return view(wide + i * numbers_, p.rows(), width); };
    return {narrow(0), narrow(1), hidden(0), hidden(1), hidden(2), hidden(3), hidden(4)};
  }
  float const* y(std::int64_t slot) const { return memory_.floats() + slots_ + slot * hidden_; }

 private:
  static std::int64_t rounded(std::int64_t n) { return (n + 15) / 16 * 16; }
  large_memory memory_;
  std::int64_t hidden_ = 0, slots_ = 0, numbers_ = 0;
};

/// Experts one to a thread ("outer"), or one after the other with threads inside each product
/// ("inner").
template <class Engine>
class peer {
 public:
  peer(fg::cpu const& on, bool outer, Engine& engine, row_memory& memory,
       std::vector<schedule> const& routings, std::int64_t hidden, bool training = false)
      : on_(on), outer_(outer), engine_(engine), memory_(memory), routings_(routings) {
    for (auto const& s : routings) {
      memory.fit(s, hidden, training);
      engine.prepare(s, threads());
    }
  }

  void forward(std::int64_t routing, const_view x, view y) const {
    schedule const& s = routings_[std::size_t(routing)];
    auto const load = [&](piece const& p) {
      engine_.load(x, p, memory_.of(p, engine_.width(p)).x);
    };
    each(s, load, [&](piece const& p, bool threaded, int worker) {
      engine_.forward(on_, threaded, worker, p, memory_.of(p, engine_.width(p)));
    });
    combine(s, y, true);
  }
  /// Gradients of weights, and dx, after forward. The router is left out.
  void backward(std::int64_t routing, const_view dy, view dx) const {
    schedule const& s = routings_[std::size_t(routing)];
    auto const load = [&](piece const& p) {
      view const to = memory_.of(p, engine_.width(p)).y;
      for (std::int64_t i = 0; i < to.rows; ++i)
        map(to).row(i) = p.weights[std::size_t(i)] * map(dy).row(p.tokens[std::size_t(i)]);
    };
    each(s, load, [&](piece const& p, bool threaded, int) {
      engine_.backward(on_, threaded, p, memory_.of(p, engine_.width(p)));
    });
    combine(s, dx, false);
  }

 private:
  int threads() const { return outer_ ? 1 : on_.threads.workers(); }

  void each(schedule const& s, auto&& load, auto&& compute) const {
    auto const count = std::int64_t(s.pieces.size());
    engine_.threads(threads());
    on_.threads(count, [&](std::int64_t i, int worker) {
      piece const& p = s.pieces[std::size_t(i)];
      load(p);
      if (outer_) compute(p, false, worker);
    });
    if (outer_) return;
    for (piece const& p : s.pieces) compute(p, true, 0);
  }
  void combine(schedule const& s, view y, bool weighted) const {
    on_.threads(y.rows, [&](std::int64_t t, int) {
      map(y).row(t).setZero();
      for (auto const& [slot, weight] : s.places[std::size_t(t)])
        map(y).row(t) += (weighted ? weight : 1.0f) *
                         Eigen::Map<Eigen::RowVectorXf const>(memory_.y(slot), y.cols);
    });
  }

  fg::cpu const& on_;
  bool outer_;
  Engine& engine_;
  row_memory& memory_;
  std::vector<schedule> const& routings_;
};

/// An engine from a library's products in f32, on weights as they stand.
template <class Products>
class dense_engine {
 public:
  static constexpr char const* name = Products::name;
  /// Whether the library's own threads look out for work for a while after a product.
  static constexpr bool lingers = Products::lingers;
  explicit dense_engine(std::span<expert const> experts) : experts_(experts) {}

  std::int64_t width(piece const& p) const { return experts_[p.expert].gate.rows; }
  void prepare(schedule const&, int) {}
  void threads(int n) const { Products::threads(n); }
  void load(const_view x, piece const& p, view to) const {
    for (std::int64_t i = 0; i < to.rows; ++i)
      map(to).row(i) = map(x).row(p.tokens[std::size_t(i)]);
  }
  void forward(fg::cpu const& on, bool threaded, int, piece const& p,
               row_memory::rows const& m) const {
    expert const& e = experts_[p.expert];
    Products::nt(on, threaded, m.x, e.gate, m.g);
    Products::nt(on, threaded, m.x, e.up, m.u);
    auto const g = map(m.g).array();
    map(m.h).array() = g / (1 + (-g).exp()) * map(m.u).array();
    Products::nt(on, threaded, m.h, e.down, m.y);
  }
  /// m.y holds dy times the weights, and then the rows' share of dx.
  void backward(fg::cpu const& on, bool threaded, piece const& p, row_memory::rows const& m) const {
    expert const& e = experts_[p.expert];
    Products::nn(on, threaded, m.y, e.down, m.du, false);
    Products::tn(on, threaded, m.y, m.h, e.ddown);
    for (std::int64_t r = 0; r < m.g.rows; ++r) {
      auto const g = map(m.g).row(r).array(), u = map(m.u).row(r).array();
      auto dg = map(m.dg).row(r).array(), du = map(m.du).row(r).array();
      dg = (1 + (-g).exp()).inverse();
      dg = du * u * dg * (1 + g * (1 - dg));
      du *= g / (1 + (-g).exp());
    }
    Products::tn(on, threaded, m.dg, m.x, e.dgate);
    Products::tn(on, threaded, m.du, m.x, e.dup);
    Products::nn(on, threaded, m.dg, e.gate, m.y, false);
    Products::nn(on, threaded, m.du, e.up, m.y, true);
  }

 private:
  std::span<expert const> experts_;
};

/// c = a b^T, c = a b (or c += a b), c = a^T b.
struct by_eigen {
  static constexpr char const* name = "Eigen";
  static constexpr bool lingers = false;  // it has none
  static void threads(int) {}
  static void in_turn(fg::cpu const& on, bool threaded, std::int64_t cols, auto&& f) {
    std::int64_t const parts = threaded ? on.threads.workers() : 1;
    on.threads(parts, [&](std::int64_t i, int) {
      f(cols * i / parts, cols * (i + 1) / parts - cols * i / parts);
    });
  }
  static void nt(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    in_turn(on, threaded, c.cols, [&](std::int64_t first, std::int64_t n) {
      map(c.middle_cols(first, n)).noalias() = map(a) * map(b.middle_rows(first, n)).transpose();
    });
  }
  static void nn(fg::cpu const& on, bool threaded, const_view a, const_view b, view c, bool add) {
    in_turn(on, threaded, c.cols, [&](std::int64_t first, std::int64_t n) {
      auto to = map(c.middle_cols(first, n));
      if (!add) to.setZero();
      to.noalias() += map(a) * map(b.middle_cols(first, n));
    });
  }
  static void tn(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    in_turn(on, threaded, c.cols, [&](std::int64_t first, std::int64_t n) {
      map(c.middle_cols(first, n)).noalias() = map(a).transpose() * map(b.middle_cols(first, n));
    });
  }
};

#ifdef FINEGRAIN_OPENBLAS
struct by_openblas {
  static constexpr char const* name = "OpenBLAS";
  static constexpr bool lingers = true;
  static void threads(int n) { openblas_set_num_threads(n); }
  static void run(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, std::int64_t depth, const_view a,
                  const_view b, view c, bool add) {
    cblas_sgemm(CblasRowMajor, ta, tb, int(c.rows), int(c.cols), int(depth), 1.0f, a.data,
                int(a.stride), b.data, int(b.stride), add ? 1.0f : 0.0f, c.data, int(c.stride));
  }
  static void nt(fg::cpu const&, bool, const_view a, const_view b, view c) {
    if (c.rows == 1)
      cblas_sgemv(CblasRowMajor, CblasNoTrans, int(b.rows), int(b.cols), 1.0f, b.data,
                  int(b.stride), a.data, 1, 0.0f, c.data, 1);
    else
      run(CblasNoTrans, CblasTrans, a.cols, a, b, c, false);
  }
  static void nn(fg::cpu const&, bool, const_view a, const_view b, view c, bool add) {
    run(CblasNoTrans, CblasNoTrans, a.cols, a, b, c, add);
  }
  static void tn(fg::cpu const&, bool, const_view a, const_view b, view c) {
    run(CblasTrans, CblasNoTrans, a.rows, a, b, c, false);
  }
};
#endif

}  // namespace bench
