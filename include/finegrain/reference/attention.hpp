// Causal attention inside each sequence, with rotary positions and shared key and value heads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../base/math.hpp"
#include "../plan/attention.hpp"
#include "../plan/stages.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace spec {

/// Turns the pairs of every head by direction * position * their speed.
template <class T>
void turn(batch const& b, earlier const& past, rotary const& how, double direction, matrix<T> m) {
  double const size = how.size();
  for (std::int64_t s = 0; s < b.sequences(); ++s)
    for (std::int64_t t = b.begin(s); t < b.end(s); ++t)
      for (int i = 0; i < how.dim / 2; ++i) {
        double const speed = math::pow(how.theta, -2.0 * i / how.dim) * how.slowed(i);
        double const angle = direction * double(past.position(b, t, s)) * speed;
        T const cosine = T(size * math::cos(angle)), sine = T(size * math::sin(angle));
        for (T* head = m.row(t); head < m.row(t) + m.cols; head += how.head) {
          T &first = head[how.first(i)], &second = head[how.first(i) + how.apart()];
          T const u = first, v = second;
          first = u * cosine - v * sine;
          second = u * sine + v * cosine;
        }
      }
}

}  // namespace spec

/// Turns positions into m (T, heads * numbers of a head): rotary embedding. A row is where it stands
/// in its sequence, behind the tokens that are past, or where the batch says.
template <class T>
void rotate(basic_reference<T> const&, batch const& b, earlier const& past, rotary const& how,
            spec::output<T> m) {
  spec::turn(b, past, how, 1, m);
}
/// The gradient of rotate: its inverse, too, but for the size of what was turned.
template <class T>
void unrotate(basic_reference<T> const&, batch const& b, rotary const& how, spec::output<T> m) {
  spec::turn(b, {}, how, -1, m);
}

/// mixed (T, query heads * value): for each token and head, values averaged with the weights
/// softmax(scale q . k) over its sequence's tokens up to itself. q is (T, query heads * dim), keys
/// and values are (rows, key-value heads * dim or value), as with_earlier says where they are.
/// log_weight (T, query heads) is the log of the sum of exponentials.
template <class T>
void attend_forward(basic_reference<T> const&, heads shape, batch const& b, earlier const& past,
                    spec::input<T> q, spec::input<T> keys, spec::input<T> values,
                    spec::output<T> mixed, spec::output<T> log_weight) {
  int const dim = shape.dim, value = shape.value, share = shape.query / shape.key_value;
  T const scale = shape.scale_of<T>();
  for (std::int64_t s = 0; s < b.sequences(); ++s)
    for (std::int64_t t = b.begin(s); t < b.end(s); ++t)
      for (int h = 0; h < shape.query; ++h) {
        std::int64_t const first = past.first_row(b, s), at = h / share;
        std::int64_t const last = first + past.length(s) + t - b.begin(s);
        T* const mix = mixed.row(t) + h * value;
        auto score = [&](std::int64_t j) {
          return scale * spec::dot(q.row(t) + h * dim, keys.row(j) + at * dim, dim);
        };

        T highest = score(first);
        for (std::int64_t j = first + 1; j <= last; ++j) highest = std::max(highest, score(j));
        T total = 0;
        std::fill_n(mix, value, T(0));
        for (std::int64_t j = first; j <= last; ++j) {
          T const weight = math::exp(score(j) - highest);
          total += weight;
          spec::add(weight, values.row(j) + at * value, mix, value);
        }
        for (int i = 0; i < value; ++i) mix[i] /= total;
        log_weight(t, h) = highest + math::log(total);
      }
}

/// dq, dk, dv from dmixed. With p the softmax weights and dp_j = dmixed . v_j:
/// dv_j = p_j dmixed, and the score's gradient is p_j (dp_j - sum p dp), the sum being
/// dmixed . mixed. Nothing came earlier: training sees whole sequences.
template <class T>
void attend_backward(basic_reference<T> const&, heads shape, batch const& b, spec::input<T> q,
                     spec::input<T> k, spec::input<T> v, spec::input<T> mixed,
                     spec::input<T> log_weight, spec::input<T> dmixed, spec::output<T> dq,
                     spec::output<T> dk, spec::output<T> dv) {
  int const dim = shape.dim, value = shape.value, share = shape.query / shape.key_value;
  T const scale = shape.scale_of<T>();
  for (auto gradient : {dq, dk, dv}) spec::clear(gradient);
  for (std::int64_t s = 0; s < b.sequences(); ++s)
    for (std::int64_t t = b.begin(s); t < b.end(s); ++t)
      for (int h = 0; h < shape.query; ++h) {
        std::int64_t const at = h / share;
        T const* const query = q.row(t) + h * dim;
        T const* const dmix = dmixed.row(t) + h * value;
        T const mean = spec::dot(dmix, mixed.row(t) + h * value, value);
        for (std::int64_t j = b.begin(s); j <= t; ++j) {
          T const score = scale * spec::dot(query, k.row(j) + at * dim, dim);
          T const p = math::exp(score - log_weight(t, h));
          T const dscore = p * (spec::dot(dmix, v.row(j) + at * value, value) - mean);
          spec::add(scale * dscore, k.row(j) + at * dim, dq.row(t) + h * dim, dim);
          spec::add(scale * dscore, query, dk.row(j) + at * dim, dim);
          spec::add(p, dmix, dv.row(j) + at * value, value);
        }
      }
}

}  // namespace finegrain::inline FINEGRAIN_ABI
