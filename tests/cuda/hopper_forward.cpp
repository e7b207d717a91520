// The forward products by wgmma and TMA against plain loops in double on the same rounded inputs.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/hopper/forward.hpp>
#include <finegrain/cuda/hopper/transposed.hpp>
#include <finegrain/reference/experts.hpp>

#include "../catch.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;
using fg::bf16;
using numbers = std::vector<bf16>;

constexpr std::uint16_t poison = 0xffff;

/// Uniform in -scale ... scale; or whole numbers -1, 0, 1.
numbers random_numbers(std::int64_t size, std::uint64_t seed, double scale, bool whole) {
  numbers v(static_cast<std::size_t>(size));
  std::uint64_t draw = 0;
  for (auto& x : v) {
    double const u = fg::random_uniform(seed, draw++);
    x = bf16(static_cast<float>(whole ? std::floor(3 * u) - 1 : scale * (2 * u - 1)));
  }
  return v;
}

struct layer {
  int D, F, R, S;
  fg::glu act = fg::activation::swiglu;
  bool whole = false;
};

/// One family's weights, and what the products made of them.
struct family {
  int F, D, experts;
  numbers gate, up, down;
  device_buffer<bf16> gate_up_, down_, z_, hidden_, out_;

  family(layer const& l, int F, int experts, std::int64_t rows, std::uint64_t seed)
      : F(F), D(l.D), experts(experts) {
    std::int64_t const size = std::int64_t{experts} * F * D;
    gate = random_numbers(size, seed, 2 / std::sqrt(D), l.whole);
    up = random_numbers(size, seed + 1, 2 / std::sqrt(D), l.whole);
    down = random_numbers(size, seed + 2, 2 / std::sqrt(F), l.whole);
    auto both = gate;
    both.insert(both.end(), up.begin(), up.end());
    gate_up_ = upload(both);
    down_ = upload(down);
    z_ = unwritten<bf16>(rows * 2 * F);
    hidden_ = unwritten<bf16>(rows * F);
    out_ = unwritten<bf16>(rows * D);
  }
  device::expert_family<bf16> arguments(bool save_z) const {
    device::expert_family<bf16> f;
    f.width = F;
    f.gate = gate_up_.data();
    f.up = f.gate + std::int64_t{experts} * F * D;
    f.down = down_.data();
    f.z = save_z ? z_.data() : nullptr;
    f.hidden = hidden_.data();
    f.out = out_.data();
    return f;
  }
};

/// A path: hopper_forward, or its rows multiplied by hopper_transposed.
struct path {
  void (*up)(device::expert_products<bf16> const&, CUstream_st*);
  void (*down)(device::expert_products<bf16> const&, CUstream_st*);
  int tile;
  bool pads;  // are zeros
};
constexpr path forward{device::hopper_forward<bf16>::up_forward,
                       device::hopper_forward<bf16>::down_forward, 128, true};
constexpr path transposed{device::hopper_forward<bf16>::up_forward,
                          device::hopper_transposed<bf16>::down_forward, 128, false};

double dot(bf16 const* a, bf16 const* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += double(float(a[i])) * double(float(b[i]));
  return sum;
}

/// The largest difference, in units of bf16's rounding of a number about 1 or of the number itself.
struct difference {
  double worst = 0;
  std::int64_t row = 0, column = 0;
  void at(std::int64_t r, std::int64_t c, bf16 got, double expected) {
    double const d = std::abs(double(float(got)) - expected) / std::max(1.0, std::abs(expected));
    if (!(d <= worst)) worst = std::isnan(d) ? 1e30 : d, row = r, column = c;
  }
};

/// Checks `rows` rows of a family: `token` of each (-1: a pad, zeros), `expert` of each.
template <class Token, class Expert>
void check_family(layer const& l, family const& f, numbers const& x, std::int64_t rows,
                  std::int64_t memory_rows, bool save_z, bool pads, Token token, Expert expert) {
  auto const z = download(f.z_), hidden = download(f.hidden_), out = download(f.out_);
  int const F = f.F, D = f.D;
  difference dz, dhidden, dout;
  for (std::int64_t r = 0; r < rows; ++r) {
    int const t = token(r);
    if (t < 0 && !pads) continue;
    std::int64_t const e = expert(r);
    for (int c = 0; c < F; ++c) {
      auto const w = static_cast<std::size_t>((e * F + c) * D);
      double const g = t < 0 ? 0 : dot(&x[static_cast<std::size_t>(t) * D], &f.gate[w], D);
      double const u = t < 0 ? 0 : dot(&x[static_cast<std::size_t>(t) * D], &f.up[w], D);
      if (save_z) {
        dz.at(r, c, z[static_cast<std::size_t>(r * 2 * F + c)], g);
        dz.at(r, F + c, z[static_cast<std::size_t>(r * 2 * F + F + c)], u);
      }
      dhidden.at(r, c, hidden[static_cast<std::size_t>(r * F + c)],
                 fg::spec::gated_at(l.act, g, u).value);
    }
    for (int c = 0; c < D; ++c)
      dout.at(r, c, out[static_cast<std::size_t>(r * D + c)],
              dot(&hidden[static_cast<std::size_t>(r * F)],
                  &f.down[static_cast<std::size_t>((e * D + c) * F)], F));
  }
  double const bound = 1.0 / 256 * 1.05;
  CAPTURE(rows, F, D, f.experts);
  INFO("z at " << dz.row << ", " << dz.column << "; hidden at " << dhidden.row << ", "
               << dhidden.column << "; out at " << dout.row << ", " << dout.column);
  CHECK(dz.worst <= (l.whole ? 0 : bound));
  CHECK(dhidden.worst <= bound);
  CHECK(dout.worst <= bound);

  std::int64_t beyond = 0;  // what stands behind the rows is not touched
  for (std::int64_t i = rows * F; i < memory_rows * F; ++i)
    beyond += hidden[static_cast<std::size_t>(i)].bits != poison;
  for (std::int64_t i = rows * D; i < memory_rows * D; ++i)
    beyond += out[static_cast<std::size_t>(i)].bits != poison;
  for (std::int64_t i = save_z ? rows * 2 * F : 0; i < memory_rows * 2 * F; ++i)
    beyond += z[static_cast<std::size_t>(i)].bits != poison;
  CHECK(beyond == 0);
}

void check_layer(layer const& l, on_device::routing const& routing, bool save_z,
                 path const& by = forward) {
  CAPTURE(routing.tokens, routing.slots, l.D, l.F, l.R, l.S, save_z, by.tile);
  int const T = routing.tokens;
  if (too_large_here(std::int64_t{T} * (routing.slots + l.S), l.D, l.F)) return;
  auto const host = map_of(routing, by.tile);
  device_map const map(routing, host);
  auto const x = random_numbers(std::int64_t{T} * l.D, 1, 1, l.whole);
  auto const x_ = upload(x);

  device::expert_products<bf16> p;
  p.hidden = l.D;
  p.act = l.act;
  p.rows = map;
  p.x = x_.data();
  std::int64_t const routed_rows = p.rows.max_rows() + 128, shared_rows = T + 128;
  family const routed(l, l.F, l.R, routed_rows, 10), shared(l, l.S * l.F, 1, shared_rows, 20);
  if (l.R > 0) p.routed = routed.arguments(save_z);
  if (l.S > 0) p.shared = shared.arguments(save_z);
  by.up(p, nullptr);
  by.down(p, nullptr);
  device::runtime::synchronize(nullptr);

  if (l.R > 0)
    check_family(
        l, routed, x, host.rows(), routed_rows, save_z, by.pads,
        [&](std::int64_t r) { return host.row_token[static_cast<std::size_t>(r)]; },
        [&](std::int64_t r) {
          int e = 0;
          while (host.offsets[static_cast<std::size_t>(e) + 1] <= r) ++e;
          return e;
        });
  if (l.S > 0)
    check_family(
        l, shared, x, T, shared_rows, save_z, by.pads,
        [](std::int64_t r) { return static_cast<int>(r); }, [](std::int64_t) { return 0; });

  // The same bits again.
  auto const hidden = download(routed.hidden_), out = download(routed.out_);
  for (int again = on_device::order_varies() ? 3 : 1; again > 0; --again) {
    by.up(p, nullptr);
    by.down(p, nullptr);
  }
  CHECK(same_bits(hidden, download(routed.hidden_)));
  CHECK(same_bits(out, download(routed.out_)));
}

}  // namespace

TEST_CASE("hopper forward: shapes and routings") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  for (bool const save_z : {false, true}) {
    check_layer({64, 64, 2, 0}, random_routing(128, 1, 2, 1), save_z);
    check_layer({256, 256, 4, 1}, random_routing(300, 2, 4, 2), save_z);
    check_layer({72, 40, 3, 2}, random_routing(131, 2, 3, 3), save_z);  // tails everywhere
    check_layer({8, 8, 2, 1}, random_routing(5, 1, 2, 4), save_z);      // below one tile
    check_layer({320, 200, 8, 1}, random_routing(1, 3, 8, 5), save_z);  // one token
    check_layer({328, 136, 8, 3}, random_routing(257, 4, 8, 6, 2, 3),
                save_z);                                                            // empty experts
    check_layer({192, 392, 5, 0}, all_at(389, 5, 3), save_z);                       // one expert
    check_layer({136, 72, 6, 1}, random_routing(200, 3, 6, 7, 0, 0, 0.4), save_z);  // dropped
    check_layer({128, 64, 0, 2}, random_routing(150, 0, 0, 8), save_z);  // no routed experts
  }
}

TEST_CASE("hopper forward: no tokens") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({64, 64, 2, 1}, random_routing(0, 1, 2, 1), true);
}

TEST_CASE("hopper forward: every slot dropped") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({64, 64, 2, 1}, random_routing(70, 1, 2, 1, 0, 0, 1.1), true);
}

TEST_CASE("hopper forward: GEGLU") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({264, 264, 4, 1, fg::activation::geglu}, random_routing(300, 2, 4, 2), true);
}

TEST_CASE("hopper forward: ReGLU") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({72, 136, 4, 1, fg::activation::reglu}, random_routing(131, 2, 4, 2), true);
  check_layer({72, 136, 4, 1, {fg::activation::swiglu, 0.5f}}, random_routing(131, 2, 4, 2), true);
  check_layer({72, 136, 4, 1, fg::activation::reglu, true}, random_routing(131, 2, 4, 2), true);
}

TEST_CASE("hopper forward: whole numbers are exact") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({200, 136, 4, 1, fg::activation::swiglu, true}, random_routing(300, 2, 4, 9), true);
}

TEST_CASE("hopper forward: more tiles than multiprocessors", "[hardware]") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  check_layer({136, 392, 16, 1}, random_routing(3000, 4, 16, 11, 1), true);
}

TEST_CASE("hopper transposed: shapes and routings") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  auto const by = transposed;
  check_layer({64, 64, 2, 0}, random_routing(128, 1, 2, 1), false, by);
  check_layer({256, 256, 4, 1}, random_routing(300, 2, 4, 2), false, by);
  check_layer({72, 40, 3, 2}, random_routing(131, 2, 3, 3), false, by);
  check_layer({8, 8, 2, 1}, random_routing(5, 1, 2, 4), false, by);
  check_layer({320, 200, 8, 1}, random_routing(1, 3, 8, 5), false, by);
  check_layer({328, 136, 8, 3}, random_routing(257, 4, 8, 6, 2, 3), false, by);
  check_layer({192, 392, 5, 0}, all_at(789, 5, 3), false, by);  // several pieces
  check_layer({136, 72, 6, 1}, random_routing(200, 3, 6, 7, 0, 0, 0.4), false, by);
  check_layer({128, 64, 0, 2}, random_routing(150, 0, 0, 8), false, by);
  check_layer({64, 64, 2, 1}, random_routing(70, 1, 2, 1, 0, 0, 1.1), false, by);
  check_layer({136, 392, 40, 1}, random_routing(1500, 4, 40, 11, 1), false, by);
  check_layer({64, 64, 2, 1}, random_routing(0, 1, 2, 1), false, by);
  check_layer({200, 136, 4, 1, fg::activation::swiglu, true}, random_routing(300, 2, 4, 9), false,
              by);
  check_layer({264, 264, 4, 1, fg::activation::geglu}, random_routing(300, 2, 4, 2), false, by);
}
