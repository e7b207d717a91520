// logits: what a router makes of a token before any choice, for every executor. As a rule a product
// of x and the router; with jitter, noise, cosines or another arithmetic where the config says so.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "../base/number.hpp"
#include "../base/wide.hpp"
#include "plan.hpp"
#include "routing.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Whether logits are x times the router in the executor's own numbers, and no more.
constexpr bool plain_logits(config const& c) {
  return c.precision == precision::f32 && c.cosine == 0 && !c.jitter && !c.noisy &&
         c.has_router() && !c.given_logits;
}

/// Memory that logits need while they are made; empty where they are plain.
template <class S>
struct logit_scratch {
  matrix<S> input, dinput;        // (T, D) x as the router reads it
  matrix<S> router;               // (R, D) rounded
  matrix<S> dclean, ddeviation;   // (T, R) of the load loss: logits before noise, deviations
  matrix<S> dprojected, dspread;  // (T, P), (T, R)

  constexpr logit_scratch(arena& memory, extent e, config const& c)
      : input(memory.matrix<S>(rounds_logits(c) || (c.jitter && e.training) ? e.tokens : 0,
                               c.hidden)),
        dinput(memory.matrix<S>(c.jitter && e.training ? e.tokens : 0, c.hidden)),
        router(memory.matrix<S>(rounds_logits(c) ? c.routed : 0, c.hidden)),
        dclean(memory.matrix<S>(c.noisy && e.training ? e.tokens : 0, c.routed)),
        ddeviation(memory.matrix<S>(c.noisy && e.training ? e.tokens : 0, c.routed)),
        dprojected(memory.matrix<S>(e.training ? e.tokens : 0, c.cosine)),
        dspread(memory.matrix<S>(c.noisy && e.training ? e.tokens : 0, c.routed)) {}
};

namespace detail {

/// The noise of token t's logit e, in deviations.
template <class S>
S noise_of(routing<S> const& r, std::int64_t t, int e) {
  return static_cast<S>(random_normal(seed_of(*r.seed, stream::noise),
                                      static_cast<std::uint64_t>(t * r.logits.cols + e)));
}

/// A logit as it was before noise, if there was any.
template <class S>
S clean_logit(config const& c, routing<S> const& r, std::int64_t t, int e) {
  S const noise = c.noisy && r.training ? noise_of(r, t, e) * softplus(r.spread(t, e)) : S(0);
  return r.logits(t, e) - noise;
}

/// x as the router reads it: rounded, jittered, or as it is.
template <class X, class S>
matrix<S const> router_input(X const& on, config const& c, double jitter, matrix<S const> x,
                             routing<S> const& r, logit_scratch<S> const& t) {
  if (!rounds_logits(c) && jitter == 0) return x;
  std::uint64_t const seed = seed_of(*r.seed, stream::jitter);
  for_rows(on, x.rows, [&](std::int64_t i, int) {
    for (std::int64_t d = 0; d < x.cols; ++d) {
      S v = rounds_logits(c) ? rounded_to_bf16(x(i, d)) : x(i, d);
      if (jitter > 0) v *= jitter_factor<S>(jitter, seed, i * x.cols + d);
      t.input(i, d) = rounds_logits(c) && jitter > 0 ? rounded_to_bf16(v) : v;
    }
  });
  return t.input;
}
/// The router as it is multiplied with.
template <class S>
matrix<S const> router_matrix(config const& c, matrix<S const> router, logit_scratch<S> const& t) {
  if (!rounds_logits(c)) return router;
  for (std::int64_t i = 0; i < router.rows; ++i)
    for (std::int64_t d = 0; d < router.cols; ++d) t.router(i, d) = rounded_to_bf16(router(i, d));
  return t.router;
}

inline namespace FINEGRAIN_ISA {
/// The sum of n products, in f64.
template <class S>
double dot_f64(S const* a, S const* b, std::int64_t n) {
  constexpr std::int64_t lanes = wide::lanes<double>;
  wide::vec<double> sums{};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    wide::add_product(wide::load_doubles(a + i), wide::load_doubles(b + i), sums);
  double total = 0;
  for (std::int64_t l = 0; l < lanes; ++l) total += sums[l];
  for (; i < n; ++i) total += double(a[i]) * double(b[i]);
  return total;
}
/// y = x W^T with products and sums in f64, rounded once.
template <class X, class S>
void multiply_f64(X const& on, matrix<S const> x, matrix<S const> w, matrix<S> y) {
  for_rows(on, x.rows, [&](std::int64_t t, int) {
    for (std::int64_t i = 0; i < w.rows; ++i)
      y(t, i) = static_cast<S>(dot_f64(x.row(t), w.row(i), x.cols));
  });
}
}  // namespace FINEGRAIN_ISA

// ---- cosines: e^temperature * p . e / (|p| |e|), p = x project^T [X-MoE] ------------------------

template <class S>
S length_of(S const* v, std::int64_t n) {
  S total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += v[i] * v[i];
  return std::max(math::sqrt(total), S(1e-12));
}
template <class S>
S cosine_scale(S temperature) {
  return std::min(math::exp(temperature), S(100));
}

template <class X, class S>
void cosine_forward(X const& on, router_weights<S const> const& w, routing<S> const& r) {
  S const scale = cosine_scale(w.temperature(0, 0));
  for_rows(on, r.logits.rows, [&](std::int64_t t, int) {
    S const* const p = r.projected.row(t);
    S const size = length_of(p, r.projected.cols);
    for (std::int64_t i = 0; i < r.logits.cols; ++i) {
      S dot = 0;
      for (std::int64_t n = 0; n < r.projected.cols; ++n) dot += p[n] * w.router(i, n);
      r.logits(t, i) = scale * dot / (size * length_of(w.router.row(i), w.router.cols));
    }
  });
}
/// With q = p / |p|, n = e / |e|, c = q . n, and g the gradient of a logit:
/// dp = scale g (n - c q) / |p|, de = scale g (q - c n) / |e|, dtemperature = g logit, before noise.
template <class X, class S>
void cosine_backward(X const& on, config const& config, router_weights<S const> const& w,
                     routing<S> const& r, matrix<S const> dlogits, matrix<S> dprojected,
                     router_weights<S> const& dw, gradients mode) {
  std::int64_t const R = dlogits.cols, P = r.projected.cols;
  S const scale = cosine_scale(w.temperature(0, 0));
  if (mode == gradients::overwrite) dw.temperature(0, 0) = 0;
  for (std::int64_t t = 0; scale < 100 && t < dlogits.rows; ++t)
    for (int i = 0; i < R; ++i)
      dw.temperature(0, 0) += dlogits(t, i) * clean_logit(config, r, t, i);

  for_rows(on, dlogits.rows, [&](std::int64_t t, int) {
    S const size = length_of(r.projected.row(t), P);
    for (std::int64_t n = 0; n < P; ++n) dprojected(t, n) = 0;
    for (int i = 0; i < R; ++i) {
      S const g = dlogits(t, i) / size, c = clean_logit(config, r, t, i);  // scale times the cosine
      S const e = length_of(w.router.row(i), P);
      for (std::int64_t n = 0; n < P; ++n)
        dprojected(t, n) += g * (scale * w.router(i, n) / e - c * r.projected(t, n) / size);
    }
  });
  for_rows(on, R, [&](std::int64_t i, int) {
    S const e = length_of(w.router.row(i), P);
    for (std::int64_t n = 0; n < P && mode == gradients::overwrite; ++n) dw.router(i, n) = 0;
    for (std::int64_t t = 0; t < dlogits.rows; ++t) {
      S const g = dlogits(t, i) / e, c = clean_logit(config, r, t, static_cast<int>(i));
      S const size = length_of(r.projected.row(t), P);
      for (std::int64_t n = 0; n < P; ++n)
        dw.router(i, n) += g * (scale * r.projected(t, n) / size - c * w.router(i, n) / e);
    }
  });
}

}  // namespace detail

/// Logits of each token, from x (T, D).
template <class X, class S>
void logits_forward(X const& on, config const& c, routing_request const& request, matrix<S const> x,
                    router_weights<S const> const& w, routing<S> const& r,
                    logit_scratch<S> const& t) {
  if (c.given_logits) return;
  auto const exact = on.exact();
  auto const from = detail::router_input(on, c, r.training ? jitter_of(c, request) : 0.0, x, r, t);
  if (!c.has_router()) {
    for (std::int64_t i = 0; i < x.rows; ++i) std::fill_n(r.logits.row(i), c.routed, S(0));
  } else if (c.cosine > 0) {
    linear_forward(exact, from, w.project, r.projected);
    detail::cosine_forward(on, w, r);
  } else if (c.precision == precision::f64) {
    detail::multiply_f64(on, from, w.router, r.logits);
  } else {
    linear_forward(exact, from, detail::router_matrix(c, w.router, t), r.logits);
  }
  if (rounds_logits(c))
    detail::for_rows(on, x.rows, [&](std::int64_t i, int) {
      for (int e = 0; e < c.routed; ++e) r.logits(i, e) = rounded_to_bf16(r.logits(i, e));
    });
  if (c.noisy && r.training) {
    linear_forward(exact, from, w.noise, r.spread);
    detail::for_rows(on, x.rows, [&](std::int64_t i, int) {
      for (int e = 0; e < c.routed; ++e)
        r.logits(i, e) += detail::noise_of(r, i, e) * detail::softplus(r.spread(i, e));
    });
  }
}

/// Gradients of the router's weights, and what they add to dx (T, D), from those of the logits.
/// Rounding lets gradients through.
template <class X, class S>
void logits_backward(X const& on, config const& c, routing_request const& request,
                     matrix<S const> x, router_weights<S const> const& w, routing<S> const& r,
                     logit_scratch<S> const& t, matrix<S> dlogits, router_weights<S> const& dw,
                     gradients mode, matrix<S> dx) {
  if (!c.has_router() || c.given_logits) return;
  auto const exact = on.exact();
  double const jitter = jitter_of(c, request);
  auto const from = detail::router_input(on, c, jitter, x, r, t);
  matrix<S> to = dx;
  if (jitter > 0) {
    to = t.dinput;
    for (std::int64_t i = 0; i < to.rows; ++i) std::fill_n(to.row(i), to.cols, S(0));
  }
  if (c.noisy) {
    bool const load = request.balance.load > 0;
    detail::for_rows(on, x.rows, [&](std::int64_t i, int) {
      for (int e = 0; e < c.routed; ++e) {
        S const deviation =
            dlogits(i, e) * detail::noise_of(r, i, e) + (load ? t.ddeviation(i, e) : S(0));
        t.dspread(i, e) = deviation * detail::logistic(r.spread(i, e));
        if (load) dlogits(i, e) += t.dclean(i, e);
      }
    });
    linear_backward(exact, from, w.noise, t.dspread, dw.noise, mode, to, gradients::accumulate);
  }
  if (c.cosine > 0) {
    detail::cosine_backward<X, S>(on, c, w, r, dlogits, t.dprojected, dw, mode);
    linear_backward(exact, from, w.project, t.dprojected, dw.project, mode, to,
                    gradients::accumulate);
  } else {
    linear_backward(exact, from, detail::router_matrix(c, w.router, t), dlogits, dw.router, mode,
                    to, gradients::accumulate);
  }
  if (jitter > 0) {
    std::uint64_t const seed = detail::seed_of(*r.seed, detail::stream::jitter);
    detail::for_rows(on, x.rows, [&](std::int64_t i, int) {
      for (std::int64_t d = 0; d < x.cols; ++d)
        dx(i, d) += to(i, d) * detail::jitter_factor<S>(jitter, seed, i * x.cols + d);
    });
  }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
