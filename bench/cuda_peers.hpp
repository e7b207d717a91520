// What one would write with cuBLAS: products for each expert that has tokens, on several lanes, when
// the host knows who goes where; and the bound of it, one product for each projection.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda_cases.hpp"

namespace bench {

/// Passes of batches whose routing the host knows ahead: no router, no counting, no wait. Backward
/// is that of the last forward, without the router's share.
class cublas_loop {
 public:
  cublas_loop(fg::config const& c, gpu::products& products, std::vector<gpu_batch> const& batches,
              bool training, CUstream_st* on)
      : c_(c), products_(products), batches_(batches), on_(on) {
    std::int64_t tokens = 0;
    for (gpu_batch const& b : batches) {
      plans_.emplace_back(c, b, on);
      tokens = std::max(tokens, b.tokens);
    }
    std::int64_t const slots = tokens * c.top_k, numbers = (slots + tokens * c.shared) * c.width;
    auto const make = [](auto& buffer, std::int64_t n) { buffer = fg::device_buffer<number>(n); };
    make(x_, slots * c.hidden);
    make(out_, (slots + tokens) * c.hidden);
    make(z_, 2 * numbers);
    make(hidden_, numbers);
    if (!training) return;
    make(dout_, slots * c.hidden);
    make(dhidden_, numbers);
    make(dz_, 2 * numbers);
  }

  void forward(std::int64_t i, expert_pointers<number const> const& w, number* y) const {
    gpu_batch const& b = batches_[static_cast<std::size_t>(i) % batches_.size()];
    plan const& p = plans_[static_cast<std::size_t>(i) % batches_.size()];
    std::int64_t const slots = b.tokens * c_.top_k, D = c_.hidden;
    gpu::gather(b.x.data(), p.token.data(), nullptr, slots, c_.hidden, x_.data(), on_);
    products_.fork(on_);
    each(p, b.tokens, [&](int lane, piece const& e) {
      using enum gpu::products::form;
      std::int64_t const F = e.width;
      number const* const x = e.shared ? b.x.data() : x_.data() + e.first * D;
      number* const z = z_.data() + 2 * e.at;
      products_.run(lane, nt, e.rows, F, D, x, e.in(w.gate, w.shared_gate), {z, 2 * F});
      products_.run(lane, nt, e.rows, F, D, x, e.in(w.up, w.shared_up), {z + F, 2 * F});
      gpu::activate(z, e.rows, static_cast<int>(F), hidden_.data() + e.at, products_.lane(lane));
      products_.run(lane, nt, e.rows, D, F, hidden_.data() + e.at, e.in(w.down, w.shared_down),
                    out_.data() + e.first * D);
    });
    products_.join(on_);
    gpu::combine(out_.data(), p.place.data(), p.weight.data(),
                 c_.shared > 0 ? out_.data() + slots * D : nullptr, b.tokens, c_.top_k, c_.hidden,
                 y, on_);
  }

  /// Of the first batch. Gradients of experts without tokens are not written.
  void backward(expert_pointers<number const> const& w, expert_pointers<number> const& dw,
                number const* dy, number* dx) const {
    gpu_batch const& b = batches_[0];
    plan const& p = plans_[0];
    std::int64_t const slots = b.tokens * c_.top_k, D = c_.hidden;
    gpu::gather(dy, p.token.data(), p.row_weight.data(), slots, c_.hidden, dout_.data(), on_);
    products_.fork(on_);
    each(p, b.tokens, [&](int lane, piece const& e) {
      using enum gpu::products::form;
      std::int64_t const F = e.width;
      number const* const x = e.shared ? b.x.data() : x_.data() + e.first * D;
      number const* const dout = e.shared ? dy : dout_.data() + e.first * D;
      number* const dz = dz_.data() + 2 * e.at;
      number* const rows = out_.data() + e.first * D;  // the gradient of x's rows
      products_.run(lane, nn, e.rows, F, D, dout, e.in(w.down, w.shared_down),
                    dhidden_.data() + e.at);
      products_.run(lane, tn, D, F, e.rows, dout, hidden_.data() + e.at,
                    e.in(dw.down, dw.shared_down));
      gpu::activate_backward(z_.data() + 2 * e.at, dhidden_.data() + e.at, e.rows,
                             static_cast<int>(F), dz, products_.lane(lane));
      products_.run(lane, tn, F, D, e.rows, {dz, 2 * F}, x, e.in(dw.gate, dw.shared_gate));
      products_.run(lane, tn, F, D, e.rows, {dz + F, 2 * F}, x, e.in(dw.up, dw.shared_up));
      products_.run(lane, nn, e.rows, D, F, {dz, 2 * F}, e.in(w.gate, w.shared_gate), rows);
      products_.run(lane, nn, e.rows, D, F, {dz + F, 2 * F}, e.in(w.up, w.shared_up), rows, true);
    });
    products_.join(on_);
    gpu::combine(out_.data(), p.place.data(), nullptr,
                 c_.shared > 0 ? out_.data() + slots * D : nullptr, b.tokens, c_.top_k, c_.hidden,
                 dx, on_);
  }

 private:
  /// An expert's rows: of x and out from `first`, of z and hidden from number `at`.
  struct piece {
    bool shared;
    std::int64_t rows, width, first, at, offset;

    template <class T>
    T* in(T* routed, T* shared_one) const {
      return shared ? shared_one : routed + offset;
    }
  };

  /// Rows expert by expert, in an expert token by token.
  struct plan {
    std::vector<std::int64_t> first;               // (R + 1)
    fg::device_buffer<std::int32_t> token, place;  // (T K) of rows; (T, K)
    fg::device_buffer<float> weight, row_weight;   // (T, K); of rows

    plan(fg::config const& c, gpu_batch const& b, CUstream_st* on)
        : first(static_cast<std::size_t>(c.routed) + 1),
          token(b.tokens * c.top_k),
          place(b.tokens * c.top_k),
          weight(b.tokens * c.top_k),
          row_weight(b.tokens * c.top_k) {
      for (auto e : b.experts) ++first[static_cast<std::size_t>(e) + 1];
      for (std::size_t e = 1; e < first.size(); ++e) first[e] += first[e - 1];
      std::vector<std::int64_t> next(first);
      std::vector<std::int32_t> of_row(b.experts.size()), of_slot(b.experts.size());
      std::vector<float> row_weights(b.experts.size());
      for (std::size_t i = 0; i < b.experts.size(); ++i) {
        std::int64_t const row = next[static_cast<std::size_t>(b.experts[i])]++;
        of_row[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(i) / c.top_k;
        row_weights[static_cast<std::size_t>(row)] = b.weights[i];
        of_slot[i] = static_cast<std::int32_t>(row);
      }
      using fg::device::runtime;
      runtime::copy(token.data(), of_row.data(), token.bytes(), on);
      runtime::copy(place.data(), of_slot.data(), place.bytes(), on);
      runtime::copy(weight.data(), b.weights.data(), weight.bytes(), on);
      runtime::copy(row_weight.data(), row_weights.data(), row_weight.bytes(), on);
    }
  };

  /// f(lane, piece) for the shared expert and every routed one that has tokens.
  void each(plan const& p, std::int64_t tokens, auto&& f) const {
    std::int64_t const slots = tokens * c_.top_k, F = c_.width;
    int lane = 0;
    auto const next = [&](piece const& e) {
      f(lane, e);
      lane = (lane + 1) % products_.lanes();
    };
    if (c_.shared > 0) next({true, tokens, F * c_.shared, slots, slots * F, 0});
    for (std::int64_t e = 0; e < c_.routed; ++e) {
      std::int64_t const first = p.first[static_cast<std::size_t>(e)];
      std::int64_t const rows = p.first[static_cast<std::size_t>(e) + 1] - first;
      if (rows > 0) next({false, rows, F, first, first * F, e * F * c_.hidden});
    }
  }

  fg::config c_;
  gpu::products& products_;
  std::vector<gpu_batch> const& batches_;
  CUstream_st* on_;
  std::vector<plan> plans_;
  fg::device_buffer<number> x_, out_, z_, hidden_, dout_, dhidden_, dz_;
};

/// The products of a layer as if all tokens went to the same expert: the same FLOPs in one product
/// for each projection, without gathering, activation or sums.
class dense_bound {
 public:
  dense_bound(fg::config const& c, std::int64_t tokens, bool training, gpu::products& products)
      : products_(products),
        rows_(tokens * c.active()),
        D_(c.hidden),
        F_(c.width),
        x_(rows_ * D_),
        out_(rows_ * D_),
        z_(2 * rows_ * F_),
        hidden_(rows_ * F_),
        w_(2 * D_ * F_),
        dw_(training ? 2 * D_ * F_ : 0) {
    std::uint64_t seed = 0;
    for (auto const* m : {&x_, &z_, &hidden_, &out_})
      gpu::fill_normal(m->data(), m->size(), 1, ++seed, products.lane(0));
    gpu::fill_normal(w_.data(), w_.size(), 0.02f, ++seed, products.lane(0));
  }

  using form = gpu::products::form;
  void forward() const {
    products_.run(0, form::nt, rows_, 2 * F_, D_, x_.data(), w_.data(), z_.data());
    products_.run(0, form::nt, rows_, D_, F_, hidden_.data(), w_.data(), out_.data());
  }
  void backward() const {  // out_ is the gradient, x_ the input and then its gradient's place
    products_.run(0, form::nn, rows_, F_, D_, out_.data(), w_.data(), hidden_.data());
    products_.run(0, form::tn, D_, F_, rows_, out_.data(), hidden_.data(), dw_.data());
    products_.run(0, form::tn, 2 * F_, D_, rows_, z_.data(), x_.data(), dw_.data());
    products_.run(0, form::nn, rows_, D_, 2 * F_, z_.data(), w_.data(), x_.data());
  }

 private:
  gpu::products& products_;
  std::int64_t rows_, D_, F_;
  fg::device_buffer<number> x_, out_, z_, hidden_, w_, dw_;
};

}  // namespace bench
