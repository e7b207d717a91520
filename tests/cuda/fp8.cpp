// The products of many tokens in fp8: codes and scales of rows bit by bit, products against plain
// loops in double on decoded numbers.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/fp8.hpp>
#include <finegrain/reference/experts.hpp>

#include "../catch.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;
using fg::bf16;
using bytes = std::vector<std::uint8_t>;

double value_of(int code) {
  int const e = code >> 3 & 15, m = code & 7;
  double const v = e == 0 ? std::ldexp(m, -9) : std::ldexp(m + 8, e - 10);
  return (code & 127) == 127 ? std::nan("") : code & 128 ? -v : v;
}
double value(std::uint8_t code) {
  static auto const table = [] {
    std::array<double, 256> made;
    for (int i = 0; i < 256; ++i) made[static_cast<std::size_t>(i)] = value_of(i);
    return made;
  }();
  return table[code];
}
/// The nearest code, ties to even.
std::uint8_t code_of(float x) {
  float const a = std::min(std::abs(x), 448.0f);
  int const e = a < 0x1p-6f ? -6 : std::ilogb(a);
  int const q = static_cast<int>(std::nearbyint(std::ldexp(a, 3 - e)));
  return static_cast<std::uint8_t>(((e + 6) * 8 + q) | (std::signbit(x) ? 128 : 0));
}

/// Random codes and scales of (experts, rows, columns); or values -1, 0, 1 and scales 1 and 2.
struct weights {
  std::int64_t rows, columns;
  std::vector<double> values;
  device_buffer<std::uint8_t> codes_;
  device_buffer<bf16> scales_;

  weights(int experts, int rows, int columns, std::uint64_t seed, bool whole)
      : rows(rows), columns(columns) {
    std::uint64_t draw = 0;
    auto const u = [&] { return static_cast<float>(fg::random_uniform(seed, draw++)); };
    int const high = device::fp8_rows::parts(rows), wide = device::fp8_rows::parts(columns);
    bytes codes(static_cast<std::size_t>(experts) * rows * columns);
    for (auto& code : codes) code = code_of(whole ? std::floor(3 * u()) - 1 : 448 * (2 * u() - 1));
    std::vector<bf16> scales(static_cast<std::size_t>(experts) * high * wide);
    for (auto& scale : scales)
      scale = bf16(whole ? 1 + std::floor(2 * u())
                         : (0.5f + u()) * 3 / (448 * std::sqrt(static_cast<float>(columns))));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      auto const row = static_cast<int>(i / columns % rows), column = static_cast<int>(i % columns);
      auto const block = i / columns / rows * high + row / 128;
      values.push_back(
          value(codes[i]) *
          double(float(scales[block * wide + static_cast<std::size_t>(column) / 128])));
    }
    bytes padded;  // rows of code_pitch
    for (auto row = codes.begin(); row != codes.end(); row += columns) {
      padded.insert(padded.end(), row, row + columns);
      padded.insert(padded.end(), static_cast<std::size_t>(device::code_pitch(columns) - columns),
                    0);
    }
    codes_ = upload(padded);
    scales_ = upload(scales);
  }
  double const* row(std::int64_t expert, int row) const {
    return &values[static_cast<std::size_t>((expert * rows + row) * columns)];
  }
};

/// Rows of codes, from poisoned memory.
struct coded_rows {
  std::int64_t count;
  int width;
  device_buffer<std::byte> memory;
  device::fp8_rows on;
  bytes codes;
  std::vector<float> scales;

  coded_rows(std::int64_t count, int width) : count(count), width(width) {
    fg::arena size;
    static_cast<void>(device::fp8_rows(size, count, width));
    memory = unwritten<std::byte>(size.used());
    fg::arena place(memory.data(), size.used());
    on = device::fp8_rows(place, count, width);
  }
  void fetch() {
    codes = download(on.codes, count * device::fp8_rows::pitch(width));
    scales = download(on.scales, on.rows * device::fp8_rows::parts(width));
  }
  std::uint8_t code(std::int64_t row, int column) const {
    return codes[static_cast<std::size_t>(row * device::fp8_rows::pitch(width) + column)];
  }
  float scale(std::int64_t row, int column) const {
    return scales[static_cast<std::size_t>(column / 128 * on.rows + row)];
  }
  /// The row's numbers.
  void decode(std::int64_t row, std::vector<double>& to) const {
    to.resize(static_cast<std::size_t>(width));
    for (int c = 0; c < width; ++c)
      to[static_cast<std::size_t>(c)] = double(scale(row, c)) * value(code(row, c));
  }
};

struct layer {
  int D, F, R, S;
  fg::glu act = fg::activation::swiglu;
  bool whole = false;
};

struct family {
  int D, F;
  weights gate, up, down;
  coded_rows x, hidden;
  device_buffer<bf16> out;
  std::int64_t count;

  family(layer const& l, int F, int experts, std::int64_t count, std::uint64_t seed)
      : D(l.D),
        F(F),
        gate(experts, F, l.D, seed, l.whole),
        up(experts, F, l.D, seed + 10, l.whole),
        down(experts, l.D, F, seed + 20, l.whole),
        x(count, l.D),
        hidden(count, F),
        out(unwritten<bf16>((count + 128) * l.D)),
        count(count) {}
  device::fp8_family codes() const {
    device::coded_family w;
    w.gate = gate.codes_.data(), w.gate_scales = gate.scales_.data();
    w.up = up.codes_.data(), w.up_scales = up.scales_.data();
    w.down = down.codes_.data(), w.down_scales = down.scales_.data();
    return {w, x.on, hidden.on};
  }
};

/// The largest of differences in units of what is allowed.
struct difference {
  double worst = 0, got = 0, expected = 0;
  std::int64_t row = 0, column = 0;
  void at(std::int64_t r, std::int64_t c, double g, double e, double allowed) {
    double const d = std::abs(g - e) / allowed;
    if (!(d <= worst)) worst = std::isnan(d) ? 1e30 : d, row = r, column = c, got = g, expected = e;
  }
};
std::ostream& operator<<(std::ostream& to, difference const& d) {
  return to << "(" << d.row << ", " << d.column << "): " << d.got << ", not " << d.expected << "; ";
}

/// Checks `count` rows: `token` of each (-1: a pad), `expert` of each.
template <class Token, class Expert>
void check_family(layer const& l, family& f, std::vector<bf16> const& x, std::int64_t count,
                  Token token, Expert expert) {
  f.x.fetch(), f.hidden.fetch();
  auto const out = download(f.out);
  int const D = f.D, F = f.F;
  std::int64_t wrong_codes = 0, wrong_scales = 0;
  difference hidden, scale, sums;
  std::vector<double> h(static_cast<std::size_t>(F)), noise(h), xs, hs;
  for (std::int64_t r = 0; r < count; ++r) {
    std::int64_t const t = token(r), e = expert(r);
    for (int from = 0; from < D; from += 128) {
      float most = 0;
      auto const number = [&](int c) {
        return t < 0 ? 0.0f : float(x[static_cast<std::size_t>(t * D + c)]);
      };
      int const to = std::min(from + 128, D);
      for (int c = from; c < to; ++c) most = std::max(most, std::abs(number(c)));
      wrong_scales += f.x.scale(r, from) != most / 448;
      for (int c = from; c < to; ++c)
        wrong_codes += f.x.code(r, c) != (most == 0 ? 0 : code_of(number(c) * (448 / most)));
    }
    f.x.decode(r, xs), f.hidden.decode(r, hs);
    // The tensor core's sums of 128 products keep about 13 bits: an error of each number of hidden.
    for (int c = 0; c < F; ++c) {
      double g = 0, u = 0, most_g = 0, most_u = 0;
      double const *const gate = f.gate.row(e, c), *const up = f.up.row(e, c);
      for (std::size_t k = 0; k < xs.size(); ++k) {
        double const b = xs[k] * gate[k], d = xs[k] * up[k];
        g += b, u += d;
        most_g += std::abs(b), most_u += std::abs(d);
      }
      auto const i = static_cast<std::size_t>(c);
      h[i] = fg::spec::gated_at(l.act, g, u).value;
      noise[i] = 0x1p-11 * (most_g * 1.1 * (std::abs(u) + 0x1p-11 * most_u) +
                            most_u * std::abs(fg::spec::activate(l.act.kind, g))) +
                 1e-5 * std::abs(h[i]);
    }
    for (int from = 0; from < F; from += 128) {
      int const to = std::min(from + 128, F);
      double most = 0, wobble = 0;
      for (int c = from; c < to; ++c) {
        most = std::max(most, std::abs(h[static_cast<std::size_t>(c)]));
        wobble = std::max(wobble, noise[static_cast<std::size_t>(c)]);
      }
      scale.at(r, from, f.hidden.scale(r, from), most / 448, wobble / 448 + 1e-30);
      for (int c = from; c < to; ++c) {  // half the distance of two codes
        double const a = std::abs(h[static_cast<std::size_t>(c)]);
        hidden.at(r, c, hs[static_cast<std::size_t>(c)], h[static_cast<std::size_t>(c)],
                  noise[static_cast<std::size_t>(c)] + wobble + a / 16 * 1.001 +
                      most / 448 * 0x1p-10 * 1.001 + 1e-30);
      }
    }
    for (int c = 0; c < D; ++c) {
      double sum = 0, most = 0;
      double const* const down = f.down.row(e, c);
      for (std::size_t k = 0; k < hs.size(); ++k) {
        double const b = hs[k] * down[k];
        sum += b, most += std::abs(b);
      }
      sums.at(r, c, float(out[static_cast<std::size_t>(r * D + c)]), sum,
              0x1p-11 * most + 0x1p-8 * std::abs(sum) + 1e-30);
    }
  }
  CAPTURE(count, F, D);
  INFO("scale " << scale << "hidden " << hidden << "out " << sums);
  CHECK(wrong_codes == 0);
  CHECK(wrong_scales == 0);
  CHECK(scale.worst <= 1);
  CHECK(hidden.worst <= 1);
  CHECK(sums.worst <= 1);
  std::int64_t beyond = 0;  // what stands behind the rows is not touched
  for (auto i = static_cast<std::size_t>(count * D); i < out.size(); ++i)
    beyond += out[i].bits != 0xffff;
  CHECK(beyond == 0);
}

void check_layer(layer const& l, on_device::routing const& routing, double scale = 1) {
  CAPTURE(routing.tokens, routing.slots, l.D, l.F, l.R, l.S);
  int const T = routing.tokens;
  if (too_large_here(std::int64_t{T} * (routing.slots + l.S), l.D, l.F)) return;
  auto const host = map_of(routing, 128);
  device_map const map(routing, host);
  std::vector<bf16> x(static_cast<std::size_t>(T) * l.D);
  std::uint64_t draw = 0;
  for (auto& number : x) {
    double const u = fg::random_uniform(1, draw++);
    number = bf16(static_cast<float>(l.whole ? std::floor(3 * u) - 1 : scale * (2 * u - 1)));
  }
  if (!l.whole)  // a part that is all zeros
    for (int c = 0; c < std::min(l.D, 128) && T > 0; ++c) x[static_cast<std::size_t>(c)] = bf16(0);
  auto const x_ = upload(x);

  device::expert_products<bf16> p;
  p.hidden = l.D;
  p.act = l.act;
  p.rows = map;
  p.x = x_.data();
  family routed(l, l.F, l.R, p.rows.max_rows(), 10), shared(l, l.S * l.F, 1, T, 20);
  if (l.R > 0) p.routed.width = l.F, p.routed.out = routed.out.data();
  if (l.S > 0) p.shared.width = l.S * l.F, p.shared.out = shared.out.data();
  auto const run = [&] {
    using products = device::fp8_products<bf16>;
    products::quantize(p, routed.codes(), shared.codes(), nullptr);
    products::up_forward(p, routed.codes(), shared.codes(), nullptr);
    products::down_forward(p, routed.codes(), shared.codes(), nullptr);
  };
  run();
  device::runtime::synchronize(nullptr);
  if (l.R > 0)
    check_family(
        l, routed, x, host.rows(),
        [&](std::int64_t r) { return host.row_token[static_cast<std::size_t>(r)]; },
        [&](std::int64_t r) {
          int e = 0;
          while (host.offsets[static_cast<std::size_t>(e) + 1] <= r) ++e;
          return e;
        });
  if (l.S > 0)
    check_family(
        l, shared, x, T, [](std::int64_t r) { return r; }, [](std::int64_t) { return 0; });

  // The same bits again.
  auto const out = download(routed.out), shared_out = download(shared.out);
  for (int again = on_device::order_varies() ? 3 : 1; again > 0; --again) run();
  CHECK(same_bits(out, download(routed.out)));
  CHECK(same_bits(shared_out, download(shared.out)));
}

}  // namespace

TEST_CASE("fp8: rows as codes fit into the memory of rows in bf16") {
  auto const fits = [](int D, int F, int T) {
    device::expert_products<bf16> p;
    p.hidden = D;
    p.shared.width = F;
    p.rows.tokens = T;
    return device::fp8_fits(p);
  };
  CHECK(fits(2048, 1408, 128));
  CHECK(fits(72, 40, 1000));
  CHECK_FALSE(fits(2048, 1408, 1));  // scales are of 128 rows
  CHECK_FALSE(fits(2048, 8, 1000));
}

TEST_CASE("fp8: shapes and routings") {
  NEED_HOPPER(device::fp8_products<bf16>);
  check_layer({128, 128, 2, 0}, random_routing(128, 1, 2, 1));
  check_layer({256, 256, 4, 1}, random_routing(300, 2, 4, 2));
  check_layer({72, 40, 3, 2}, random_routing(131, 2, 3, 3));              // tails everywhere
  check_layer({8, 8, 2, 1}, random_routing(5, 1, 2, 4));                  // below one tile
  check_layer({392, 200, 8, 1}, random_routing(1, 3, 8, 5));              // one token
  check_layer({328, 136, 8, 3}, random_routing(257, 4, 8, 6, 2, 3));      // empty experts
  check_layer({640, 400, 5, 0}, all_at(389, 5, 3));                       // one expert
  check_layer({136, 72, 6, 1}, random_routing(200, 3, 6, 7, 0, 0, 0.4));  // dropped slots
  check_layer({128, 64, 0, 2}, random_routing(150, 0, 0, 8));             // no routed experts
}

TEST_CASE("fp8: no tokens, no rows") {
  NEED_HOPPER(device::fp8_products<bf16>);
  check_layer({64, 64, 2, 1}, random_routing(0, 1, 2, 1));
  check_layer({64, 64, 2, 1}, random_routing(70, 1, 2, 1, 0, 0, 1.1));
}

TEST_CASE("fp8: GEGLU, ReGLU, and numbers far from 1") {
  NEED_HOPPER(device::fp8_products<bf16>);
  check_layer({272, 272, 4, 1, fg::activation::geglu}, random_routing(300, 2, 4, 2));
  check_layer({144, 136, 4, 1, fg::activation::reglu}, random_routing(131, 2, 4, 2));
  check_layer({144, 136, 4, 1, {fg::activation::swiglu, 0.5f}}, random_routing(131, 2, 4, 2));
  check_layer({272, 272, 4, 1}, random_routing(150, 2, 4, 2), 1e-6);
  check_layer({272, 272, 4, 1}, random_routing(150, 2, 4, 2), 1000);
}

TEST_CASE("fp8: whole numbers") {
  NEED_HOPPER(device::fp8_products<bf16>);
  check_layer({208, 144, 4, 1, fg::activation::swiglu, true}, random_routing(300, 2, 4, 9));
}

TEST_CASE("fp8: more tiles than multiprocessors", "[hardware]") {
  NEED_HOPPER(device::fp8_products<bf16>);
  check_layer({144, 400, 16, 1}, random_routing(2000, 4, 16, 11, 1));
}
