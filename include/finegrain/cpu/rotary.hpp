// Rotary positions: pairs of a head's numbers are turned by angles that grow with the position.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "../base/math.hpp"
#include "../plan/kv_cache.hpp"
#include "../plan/rotary.hpp"
#include "executor.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
inline namespace FINEGRAIN_ISA {

namespace simd {

/// f(first row, end, sequence) for each sequence's part of rows [begin, end).
template <class F>
void in_sequences(batch const& b, std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t s = finegrain::detail::sequence_of(b, begin); begin < end; ++s) {
    std::int64_t const stop = std::min(end, b.end(s));
    if (begin < stop) f(begin, stop, s);
    begin = std::max(begin, stop);
  }
}

/// Sine and cosine of an angle in quarter turns, to a unit in the last place or two: plain
/// arithmetic, so that a compiler makes vectors of a loop of them.
FINEGRAIN_INLINE void sine_cosine(double quarters, float& sine, float& cosine) {
  constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  double const shifted = quarters + shift;
  auto const quadrant = static_cast<std::int32_t>(__builtin_bit_cast(std::int64_t, shifted));
  float const a = static_cast<float>(quarters - (shifted - shift)), b = a * a;  // |a| <= 1/2
  float const s =
      a * (1.57079633f +
           b * (-0.645964098f + b * (0.0796926262f + b * (-4.68175414e-3f + b * 1.60441185e-4f))));
  float const c =
      1.0f + b * (-1.23370055f + b * (0.253669508f + b * (-0.0208634808f +
                                                          b * (9.1926027e-4f - b * 2.520204e-5f))));
  float const u = quadrant & 1 ? c : s, v = quadrant & 1 ? s : c;
  sine = quadrant & 2 ? -u : u;
  cosine = (quadrant + 1) & 2 ? -v : v;
}

/// Turns n pairs, whose first numbers are Step apart.
template <int Step>
FINEGRAIN_INLINE void turn_pairs(float* FINEGRAIN_RESTRICT first, float* FINEGRAIN_RESTRICT second,
                                 int n, float const* cosine, float const* sine) {
  for (int i = 0; i < n; ++i) {
    float const u = first[i * Step], v = second[i * Step];
    first[i * Step] = u * cosine[i] - v * sine[i];
    second[i * Step] = u * sine[i] + v * cosine[i];
  }
}

/// Turns the pairs of every head by direction * position * their speed, in rows [begin, end) of q and
/// of k. One copy: inlined twice it may differ in bits.
FINEGRAIN_LAZY FINEGRAIN_ONE_COPY inline void turn_rows(batch const& b, earlier const& past,
                                                        rotary const& how, float direction,
                                                        std::int64_t begin, std::int64_t end,
                                                        matrix<float> q, matrix<float> k) {
  constexpr int pairs = 64;
  int const all = how.dim / 2;
  double const slower = math::pow(how.theta, -2.0 / how.dim);
  float const size = static_cast<float>(how.size());
  double speed[pairs];  // quarter turns a position
  double next = 0.63661977236758134308;
  for (int i0 = 0; i0 < all; i0 += pairs) {
    int const n = std::min(pairs, all - i0);
    for (int i = 0; i < n; ++i, next *= slower) speed[i] = next * how.slowed(i0 + i);
    in_sequences(b, begin, end, [&](std::int64_t first, std::int64_t last, std::int64_t s) {
      float cosine[pairs], sine[pairs];
      for (std::int64_t t = first; t < last; ++t) {
        double const position = static_cast<double>(past.position(b, t, s));
        for (int i = 0; i < n; ++i) {
          sine_cosine(position * speed[i], sine[i], cosine[i]);
          sine[i] *= direction * size;
          cosine[i] *= size;
        }
        for (matrix<float> const& m : {q, k})
          for (std::int64_t c = how.first(i0); c < m.cols; c += how.head) {
            float *const u = m.row(t) + c, *const v = u + how.apart();
            if (how.adjacent)
              turn_pairs<2>(u, v, n, cosine, sine);
            else
              turn_pairs<1>(u, v, n, cosine, sine);
          }
      }
    });
  }
}
inline constexpr std::int64_t turned_rows = 32;  // a task's
FINEGRAIN_LAZY inline void turn(cpu const& on, batch const& b, earlier const& past,
                                rotary const& how, float direction, matrix<float> q,
                                matrix<float> k = {}) {
  on.threads(ceil_div(q.rows, turned_rows), [&](std::int64_t task, int) {
    turn_rows(b, past, how, direction, task * turned_rows,
              std::min(q.rows, (task + 1) * turned_rows), q, k);
  });
}

}  // namespace simd

/// Turns positions into m (T, heads * numbers of a head): rotary embedding. A row is where it stands
/// in its sequence, behind the tokens that are past, or where the batch says.
inline void rotate(cpu const& on, batch const& b, earlier const& past, rotary const& how,
                   matrix<float> m) {
  simd::turn(on, b, past, how, 1, m);
}
/// The gradient of rotate: its inverse, too, but for the size of what was turned.
inline void unrotate(cpu const& on, batch const& b, rotary const& how, matrix<float> m) {
  simd::turn(on, b, {}, how, -1, m);
}

}  // namespace FINEGRAIN_ISA
}  // namespace finegrain::inline FINEGRAIN_ABI
