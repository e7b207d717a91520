// What one would write without finegrain: a product per expert, by Eigen or OpenBLAS.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <finegrain/cpu/executor.hpp>
#include <finegrain/plan/routing.hpp>
#include <vector>
#ifdef FINEGRAIN_OPENBLAS
#include <cblas.h>
#endif

namespace bench {

namespace fg = finegrain;

using dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<dense const, 0, Eigen::OuterStride<>>;
using out = Eigen::Map<dense, 0, Eigen::OuterStride<>>;
inline in map(fg::matrix<float const> m) {
  return {m.data, m.rows, m.cols, Eigen::OuterStride<>(m.stride)};
}
inline out map(fg::matrix<float> m) {
  return {m.data, m.rows, m.cols, Eigen::OuterStride<>(m.stride)};
}

using view = fg::matrix<float>;
using const_view = fg::matrix<float const>;

/// c = a b^T, c = a b, c = a^T b; `threads` is 1 where the experts are spread over threads.
struct by_eigen {
  static constexpr char const* name = "Eigen";
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
  static void nn(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    in_turn(on, threaded, c.cols, [&](std::int64_t first, std::int64_t n) {
      map(c.middle_cols(first, n)).noalias() = map(a) * map(b.middle_cols(first, n));
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
  static void run(fg::cpu const& on, bool threaded, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb,
                  std::int64_t depth, const_view a, const_view b, view c) {
    int const threads = threaded ? on.threads.workers() : 1;
    if (openblas_get_num_threads() != threads) openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, ta, tb, int(c.rows), int(c.cols), int(depth), 1.0f, a.data,
                int(a.stride), b.data, int(b.stride), 0.0f, c.data, int(c.stride));
  }
  static void nt(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    run(on, threaded, CblasNoTrans, CblasTrans, a.cols, a, b, c);
  }
  static void nn(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    run(on, threaded, CblasNoTrans, CblasNoTrans, a.cols, a, b, c);
  }
  static void tn(fg::cpu const& on, bool threaded, const_view a, const_view b, view c) {
    run(on, threaded, CblasTrans, CblasNoTrans, a.rows, a, b, c);
  }
};
#endif

/// One expert's weights, gradients, and buffers for its rows.
struct peer_job {
  const_view gate, up, down;
  view dgate, dup, ddown;
  std::vector<std::int64_t> tokens;
  std::vector<float> weight;
  std::int64_t first = 0;  // of its slots
};

/// A per-expert loop: gather, three products, combine. Experts one to a thread ("outer"), or one
/// after the other with each product over all threads ("inner").
template <class G>
class peer {
 public:
  peer(fg::cpu const& on, bool outer, std::vector<peer_job> experts, std::int64_t tokens,
       std::int64_t hidden)
      : on_(on), outer_(outer), tokens_(tokens), hidden_(hidden) {
    for (auto& job : experts) {
      std::int64_t const n = std::int64_t(job.tokens.size());
      if (n == 0) continue;
      // shared experts are one task for each thread, else they would be the only one that works
      std::int64_t const parts =
          outer && n == tokens ? std::min<std::int64_t>(n, on.threads.workers()) : 1;
      for (std::int64_t i = 0; i < parts; ++i) {
        peer_job part = job;
        auto cut = [&](auto const& all) {
          return std::decay_t<decltype(all)>(all.begin() + n * i / parts,
                                             all.begin() + n * (i + 1) / parts);
        };
        part.tokens = cut(job.tokens);
        part.weight = cut(job.weight);
        jobs_.push_back(part);
      }
    }
    std::stable_sort(jobs_.begin(), jobs_.end(), [](auto const& a, auto const& b) {
      return a.tokens.size() > b.tokens.size();
    });
    std::int64_t slots = 0, numbers = 0;
    places_.resize(std::size_t(tokens));
    for (auto& job : jobs_) {
      job.first = slots;
      for (std::size_t i = 0; i < job.tokens.size(); ++i)
        places_[std::size_t(job.tokens[i])].push_back({slots + std::int64_t(i), job.weight[i]});
      slots += std::int64_t(job.tokens.size());
      offsets_.push_back(numbers);
      numbers += std::int64_t(job.tokens.size()) * job.gate.rows;
    }
    for (auto* m : {&x_, &y_}) m->resize(slots, hidden);
    for (auto* m : {&g_, &u_, &h_, &dh_}) m->resize(std::size_t(numbers));
  }

  void forward(const_view x, view y) {
    each([&](std::size_t i, bool threaded) {
      auto const& job = jobs_[i];
      view const xs = rows(x_, job), g = part(g_, i), u = part(u_, i), h = part(h_, i);
      gather(x, job, xs, false);
      G::nt(on_, threaded, xs, job.gate, g);
      G::nt(on_, threaded, xs, job.up, u);
      auto const a = map(g).array();
      map(h).array() = a / (1 + (-a).exp()) * map(u).array();
      G::nt(on_, threaded, h, job.down, rows(y_, job));
    });
    combine(y, true);
  }
  /// Gradients of weights, and dx, after forward. The router is left out.
  void backward(const_view x, const_view dy, view dx) {
    each([&](std::size_t i, bool threaded) {
      auto const& job = jobs_[i];
      view const xs = rows(x_, job), dys = rows(y_, job);
      view const g = part(g_, i), u = part(u_, i), h = part(h_, i), dh = part(dh_, i);
      gather(x, job, xs, false);
      gather(dy, job, dys, true);
      G::nn(on_, threaded, dys, job.down, dh);
      G::tn(on_, threaded, dys, h, job.ddown);
      dense const s = (1 + (-map(g).array()).exp()).inverse();
      map(h).array() =
          map(dh).array() * map(u).array() * s.array() * (1 + map(g).array() * (1 - s.array()));
      map(dh).array() *= map(g).array() * s.array();
      G::tn(on_, threaded, h, xs, job.dgate);
      G::tn(on_, threaded, dh, xs, job.dup);
      dense other(dys.rows, hidden_);
      G::nn(on_, threaded, h, job.gate, dys);
      G::nn(on_, threaded, dh, job.up, {other.data(), other.rows(), other.cols()});
      map(dys) += other;
    });
    combine(dx, false);
  }

 private:
  void each(auto&& f) {
    if (outer_)
      on_.threads(std::int64_t(jobs_.size()),
                  [&](std::int64_t i, int) { f(std::size_t(i), false); });
    else
      for (std::size_t i = 0; i < jobs_.size(); ++i) f(i, true);
  }
  static view rows(dense& m, peer_job const& job) {
    return view(m.data(), m.rows(), m.cols())
        .middle_rows(job.first, std::int64_t(job.tokens.size()));
  }
  view part(std::vector<float>& numbers, std::size_t i) {
    return {numbers.data() + offsets_[i], std::int64_t(jobs_[i].tokens.size()), jobs_[i].gate.rows};
  }
  static void gather(const_view from, peer_job const& job, view to, bool weighted) {
    for (std::int64_t i = 0; i < to.rows; ++i) {
      float const w = weighted ? job.weight[std::size_t(i)] : 1.0f;
      map(to).row(i) = w * map(from).row(job.tokens[std::size_t(i)]);
    }
  }
  void combine(view y, bool weighted) {
    on_.threads(tokens_, [&](std::int64_t t, int) {
      map(y).row(t).setZero();
      for (auto const& [slot, weight] : places_[std::size_t(t)])
        map(y).row(t) += (weighted ? weight : 1.0f) * y_.row(slot);
    });
  }

  fg::cpu const& on_;
  bool outer_;
  std::int64_t tokens_, hidden_;
  std::vector<peer_job> jobs_;
  std::vector<std::vector<std::pair<std::int64_t, float>>> places_;  // a token's slots
  std::vector<std::int64_t> offsets_;
  dense x_, y_;
  std::vector<float> g_, u_, h_, dh_;
};

}  // namespace bench
