// residual(rmsnorm | attention): the norm and the residual in the loops of the projections.
//
// Small weights stay in a core's cache, and a block of rows with them while it is normalised,
// projected and turned. Of large weights a task takes some columns of some rows, as every product
// does; the passes beside it are then too short to matter.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../plan/stages.hpp"
#include "attention.hpp"
#include "norm.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

/// A block's weights, stored as they are or packed, or their gradients; with run-time shapes.
template <class T, class Projection = matrix<T>>
struct block_weights {
  matrix<T> gain;       // (1, D)
  Projection input[3];  // (heads * dim, D): query, key, value
  Projection output;    // (D, query heads * dim)
  matrix<T> bias[3];    // (1, heads * dim), or empty
  matrix<T> norm[2];    // of queries and of keys: (1, numbers that a norm is of), or empty
};

/// What a block's forward leaves for its backward.
struct block_saved {
  matrix<float> rows;        // (T, D) of the norm
  float* inverse_rms;        // (T)
  matrix<float> q, k, v;     // (T, heads * dim), q and k with their positions turned in
  matrix<float> mixed;       // (T, query heads * dim)
  matrix<float> log_weight;  // (T, query heads)
  norms_saved<float, float> norms;

  constexpr block_saved(arena& memory, extent e, int hidden, heads shape, head_norm norm)
      : rows(memory.matrix<float>(e.tokens, hidden)),
        inverse_rms(memory.take<float>(e.tokens)),
        q(memory.matrix<float>(e.tokens, shape.query * shape.dim)),
        k(memory.matrix<float>(e.tokens, shape.key_value * shape.dim)),
        v(memory.matrix<float>(e.tokens, shape.key_value * shape.dim)),
        mixed(memory.matrix<float>(e.tokens, shape.query * shape.dim)),
        log_weight(memory.matrix<float>(e.tokens, shape.query)),
        norms(memory, e.tokens, shape, norm) {}
};

/// Gradients of the above while backward runs.
struct block_scratch {
  matrix<float> dout;  // (T, D) of attention's output, where that is not dy
  matrix<float> drows, dq, dk, dv, dmixed;

  constexpr block_scratch(arena& memory, extent e, int hidden, heads shape, bool scaled)
      : block_scratch(memory, e.training ? e.tokens : 0, hidden, shape.query * shape.dim,
                      shape.key_value * shape.dim, scaled) {}

 private:
  constexpr block_scratch(arena& memory, std::int64_t tokens, int hidden, int q_width, int kv_width,
                          bool scaled)
      : dout(memory.matrix<float>(scaled ? tokens : 0, hidden)),
        drows(memory.matrix<float>(tokens, hidden)),
        dq(memory.matrix<float>(tokens, q_width)),
        dk(memory.matrix<float>(tokens, kv_width)),
        dv(memory.matrix<float>(tokens, kv_width)),
        dmixed(memory.matrix<float>(tokens, q_width)) {}
};

namespace simd {

/// Numbers of weights that a core's second-level cache holds beside the rows that meet them.
inline constexpr std::int64_t small_weights = 1 << 17;

template <class W>
std::int64_t groups_of(W const (&w)[3]) {
  return groups_of(w[0].rows) + groups_of(w[1].rows) + groups_of(w[2].rows);
}

/// Whether the blocks of rows alone make tasks enough, each with all columns of small weights.
template <class W>
bool by_rows(std::int64_t rows, W const (&w)[3]) {
  return (w[0].rows + w[1].rows + w[2].rows) * w[0].cols <= small_weights &&
         ceil_div(rows, block_rows) >= groups_of(w);
}

/// Queries and keys of rows [begin, end) from products to what scores are made of: with their biases,
/// norms and positions; and values with their biases.
template <class Projection>
void finish_rows(batch const& b, earlier const& past, attention_form const& form, int dim,
                 block_weights<float const, Projection> const& w, block_saved const& s,
                 std::int64_t begin, std::int64_t end, matrix<float> const (&products)[3],
                 matrix<float> const (&made)[3]) {
  if (form.bias)
    for (int i = 0; i < 3; ++i)
      for (std::int64_t t = begin; t < end; ++t)
        add_row(w.bias[i].data, products[i].cols, products[i].row(t));
  if (form.norm != head_norm::none)
    for (int i = 0; i < 2; ++i) {
      std::int64_t const width = w.norm[i].cols, norms = made[i].cols / width;  // of a row
      float* const rms = i == 0 ? s.norms.query_rms : s.norms.key_rms;
      for (std::int64_t n = begin * norms; n < end * norms; ++n)
        rms[n] = normalise(products[i].data + n * width, w.norm[i].data, width,
                           static_cast<float>(form.epsilon), made[i].data + n * width);
    }
  turn_rows(b, past, turn_of(form, dim), 1, begin, end, made[0], made[1]);
}

/// Gradients of a block's weights but its biases and its heads' norms: a task makes some outputs of one
/// product's, or some columns of the gain's.
FINEGRAIN_LAZY inline void block_gradients(cpu const& on, block_saved const& s,
                                           block_scratch const& t, matrix<float const> x,
                                           matrix<float const> dout, block_weights<float> const& dw,
                                           gradients mode) {
  struct {
    matrix<float const> dy, x;
    matrix<float> dw;
  } const products[] = {{t.dq, s.rows, dw.input[0]},
                        {dout, s.mixed, dw.output},
                        {t.dk, s.rows, dw.input[1]},
                        {t.dv, s.rows, dw.input[2]}};
  std::int64_t tasks = 0;
  for (auto const& p : products) tasks += ceil_div(p.dw.rows, block_rows);
  on.threads(tasks + ceil_div(x.cols, gain_cols), [&](std::int64_t task, int) {
    for (auto const& p : products) {
      std::int64_t const first = task * block_rows;
      if (first < p.dw.rows) {
        std::int64_t const rows = std::min<std::int64_t>(block_rows, p.dw.rows - first);
        return in_products_of(on, [&]<format F>() {
          outer_product<F>(p.dy, first, p.x, x.rows, p.dw.middle_rows(first, rows), mode);
        });
      }
      task -= ceil_div(p.dw.rows, block_rows);
    }
    gain_gradient(x, s.inverse_rms, t.drows, task * gain_cols, dw.gain, mode);
  });
}

}  // namespace simd

/// y (T, D) = x + scale attention(rmsnorm(x)).
template <class Projection>
void attention_block_forward(pass<cpu> const& p, heads shape, attention_form const& form,
                             float epsilon, float scale,
                             block_weights<float const, Projection> const& w, block_saved const& s,
                             matrix<float const> x, matrix<float> y) {
  using namespace simd;
  cpu const& on = p.on;
  batch const& b = p.batch;
  earlier const past = p.past();
  std::int64_t const T = x.rows, groups = groups_of(w.input);
  bool const normed = form.norm != head_norm::none;
  matrix<float> const made[] = {s.q, s.k, s.v};
  matrix<float> const products[] = {normed ? s.norms.query : s.q, normed ? s.norms.key : s.k, s.v};
  auto const project = [&](std::int64_t begin, std::int64_t rows, std::int64_t group) {
    int i = 0;
    for (; group >= groups_of(w.input[i].rows); ++i) group -= groups_of(w.input[i].rows);
    multiply_group(on, s.rows.middle_rows(begin, rows), across(on, w.input[i]), group,
                   products[i].middle_rows(begin, rows), gradients::overwrite);
  };
  auto const finish = [&](std::int64_t begin, std::int64_t end) {
    finish_rows(b, past, form, shape.dim, w, s, begin, end, products, made);
  };
  if (by_rows(T, w.input)) {
    in_blocks(on, T, 1, [&](std::int64_t begin, std::int64_t rows, std::int64_t) {
      for (std::int64_t t = begin; t < begin + rows; ++t)
        s.inverse_rms[t] = normalise(x.row(t), w.gain.data, x.cols, epsilon, s.rows.row(t));
      for (std::int64_t group = 0; group < groups; ++group) project(begin, rows, group);
      finish(begin, begin + rows);
    });
  } else {
    rmsnorm_forward(on, x, w.gain, epsilon, s.rows, s.inverse_rms);
    in_blocks(on, T, groups, project);
    on.threads(ceil_div(T, turned_rows), [&](std::int64_t task, int) {
      finish(task * turned_rows, std::min(T, (task + 1) * turned_rows));
    });
  }
  matrix<float> const keys = with_earlier(p, s.k), values = with_earlier(p, s.v);
  attend_forward(on, shape, b, past, s.q, keys, values, s.mixed, s.log_weight);
  in_blocks(on, T, groups_of(y.cols), [&](std::int64_t begin, std::int64_t rows, std::int64_t g) {
    std::int64_t const c = g * block_cols, cols = std::min<std::int64_t>(block_cols, y.cols - c);
    bool const scaled = scale != 1;
    for (std::int64_t t = begin; t < begin + rows && !scaled; ++t)
      std::copy_n(x.row(t) + c, cols, y.row(t) + c);  // the residual: where the product adds
    multiply_group(on, s.mixed.middle_rows(begin, rows), across(on, w.output), g,
                   y.middle_rows(begin, rows),
                   scaled ? gradients::overwrite : gradients::accumulate);
    for (std::int64_t t = begin; t < begin + rows && scaled; ++t) {
      for (std::int64_t i = c; i < c + cols; ++i) y(t, i) *= scale;
      add_row(x.row(t) + c, cols, y.row(t) + c);
    }
  });
}

/// dx (T, D), and dw, from dy (T, D) and dout = scale dy. Nothing came earlier: training sees whole
/// sequences.
FINEGRAIN_LAZY void attention_block_backward(cpu const& on, heads shape, attention_form const& form,
                                             batch const& b, block_weights<float const> const& w,
                                             block_saved const& s, block_scratch const& t,
                                             matrix<float const> x, matrix<float const> dy,
                                             matrix<float const> dout,
                                             block_weights<float> const& dw, gradients mode,
                                             matrix<float> dx) {
  using namespace simd;
  rotary const turned = turn_of(form, shape.dim);
  bool const normed = form.norm != head_norm::none;
  std::int64_t const T = x.rows;
  multiply_all(on, dout, straight{on.copy.of(w.output), w.output.cols}, t.dmixed,
               gradients::overwrite);
  attend_backward(on, shape, b, s.q, s.k, s.v, s.mixed, s.log_weight, t.dmixed, t.dq, t.dk, t.dv);

  matrix<float> const made[] = {t.dq, t.dk, t.dv};
  auto const project = [&](std::int64_t begin, std::int64_t rows, std::int64_t group) {
    for (int i = 0; i < 3; ++i)
      multiply_group(on, made[i].middle_rows(begin, rows), straight{on.copy.of(w.input[i]), x.cols},
                     group, t.drows.middle_rows(begin, rows),
                     i == 0 ? gradients::overwrite : gradients::accumulate);
  };
  auto const through_norm = [&](std::int64_t begin, std::int64_t rows) {
    for (std::int64_t i = begin; i < begin + rows; ++i)
      normalise_backward(x.row(i), w.gain.data, x.cols, s.inverse_rms[i], t.drows.row(i), dx.row(i),
                         dy.row(i));
  };
  bool const in_rows = by_rows(T, w.input);
  if (normed || !in_rows) turn(on, b, {}, turned, -1, t.dq, t.dk);
  if (normed) {  // in place: a gain's gradient is made of dy before dx takes its place
    auto const back = [&](int i, matrix<float const> from, float const* rms) {
      std::int64_t const width = w.norm[i].cols;
      rmsnorm_backward(on, rows_of(from, width), w.norm[i], rms, rows_of(made[i], width),
                       dw.norm[i], mode, rows_of(made[i], width));
    };
    back(0, s.norms.query, s.norms.query_rms);
    back(1, s.norms.key, s.norms.key_rms);
  }
  if (in_rows) {
    in_blocks(on, T, 1, [&](std::int64_t begin, std::int64_t rows, std::int64_t) {
      if (!normed) turn_rows(b, {}, turned, -1, begin, begin + rows, t.dq, t.dk);
      for (std::int64_t group = 0; group < groups_of(x.cols); ++group) project(begin, rows, group);
      through_norm(begin, rows);
    });
  } else {
    in_blocks(on, T, groups_of(x.cols), project);
    on.threads(ceil_div(T, norm_rows), [&](std::int64_t task, int) {
      through_norm(task * norm_rows, std::min(norm_rows, T - task * norm_rows));
    });
  }

  block_gradients(on, s, t, x, dout, dw, mode);
  if (form.bias)
    for (int i = 0; i < 3; ++i) bias_backward(on, made[i], dw.bias[i], mode);
}

/// x + Factor attention(rmsnorm(x)); weights are those of x + attention(rmsnorm(x)).
template <int D, real_number Epsilon, int Heads, int KvHeads, int HeadDim, attention_form Form,
          real_number Factor>
struct residual_attention {
  static constexpr heads shape{Heads, KvHeads, HeadDim, HeadDim, Form.scale};
  static constexpr bool scaled = Factor.value != 1;

  struct saved : block_saved {
    constexpr saved(arena& memory, extent e) : block_saved(memory, e, D, shape, Form.norm) {}
  };
  struct scratch : block_scratch {
    constexpr scratch(arena& memory, extent e) : block_scratch(memory, e, D, shape, scaled) {}
  };

  template <class W>
  static void forward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                      matrix<float> y) {
    attention_block_forward(p, shape, Form, static_cast<float>(Epsilon.value),
                            static_cast<float>(Factor.value), views<float const>(w), s, x, y);
  }
  template <class W, class V>
  static void backward(pass<cpu> p, W const& w, saved const& s, matrix<float const> x,
                       matrix<float const> dy, V const& dw, matrix<float> dx) {
    scratch const t(p.scratch, p.extent);
    if constexpr (scaled) scale_rows(p.on, dy, Factor.value, t.dout);
    attention_block_backward(p.on, shape, Form, p.batch, views<float const>(w), s, t, x, dy,
                             scaled ? matrix<float const>(t.dout) : dy, views<float>(dw),
                             p.gradients, dx);
  }

 private:
  template <class T, class W>
  static auto views(W const& w) {
    auto const& a = w.a.b;
    using own = std::remove_cvref_t<decltype(a.query)>;
    using view = std::conditional_t<std::is_convertible_v<own, matrix<T>>, matrix<T>, own>;
    return block_weights<T, view>{w.a.a.gain,
                                  {a.query, a.key, a.value},
                                  a.output,
                                  {a.query_bias, a.key_bias, a.value_bias},
                                  {a.query_norm, a.key_norm}};
  }
};

}  // namespace FINEGRAIN_ISA

template <int D, real_number Epsilon, int Heads, int KvHeads, int HeadDim, attention_form Form>
struct plan<cpu,
            residual_of<then<rmsnorm<D, Epsilon>, attention<D, Heads, KvHeads, HeadDim, Form>>>>
    : residual_attention<D, Epsilon, Heads, KvHeads, HeadDim, Form, 1.0> {};
template <int D, real_number Epsilon, int Heads, int KvHeads, int HeadDim, attention_form Form,
          real_number Factor>
struct plan<cpu,
            residual_of<then<then<rmsnorm<D, Epsilon>, attention<D, Heads, KvHeads, HeadDim, Form>>,
                             times<D, Factor>>>>
    : without_times<cpu, residual_attention<D, Epsilon, Heads, KvHeads, HeadDim, Form, Factor>> {};

}  // namespace finegrain::inline FINEGRAIN_ABI
