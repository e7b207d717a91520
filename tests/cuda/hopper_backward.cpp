// Backward's products on compute capability 9.0a, against plain loops.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/hopper/backward.hpp>
#include <finegrain/cuda/hopper/deal.hpp>
#include <finegrain/reference/experts.hpp>

#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>

#include "../catch.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;
using fg::activation, fg::bf16, fg::gradients;
using numbers = std::vector<bf16>;

double value(bf16 x) { return static_cast<float>(x); }
/// -2 .. 2: sums of products of such are exact in f32.
numbers integers(std::int64_t size, std::uint64_t seed) {
  numbers v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = bf16(std::floor(static_cast<float>(fg::random_uniform(seed, i)) * 5) - 2);
  return v;
}
numbers reals(std::int64_t size, std::uint64_t seed) {
  numbers v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = bf16(i % 17 == 3 ? 0 : static_cast<float>(fg::random_uniform(seed, i)) * 6 - 3);
  return v;
}

struct shape {
  int D, F, S;  // S F wide is the shared expert; S may be 0
  on_device::routing routing;
  fg::glu act = activation::swiglu;
  bool shared_weights = false;
};

/// A family on the device and on the host; `rows` with pads.
struct family {
  std::int64_t rows, experts, F, D;
  numbers gate, up, down, z;
  std::vector<float> weight;  // of rows
  device_buffer<bf16> d_gate, d_up, d_down, d_z, hidden, out, dz, dgate, dup, ddown;
  device_buffer<float> dot, d_weight;

  family(std::int64_t rows, std::int64_t capacity, std::int64_t experts, std::int64_t F,
         std::int64_t D, std::vector<float> weight, std::uint64_t seed)
      : rows(rows),
        experts(experts),
        F(F),
        D(D),
        gate(integers(experts * F * D, seed)),
        up(integers(experts * F * D, seed + 1)),
        down(integers(experts * F * D, seed + 2)),
        z(reals(rows * 2 * F, seed + 3)),
        weight(std::move(weight)) {
    d_gate = upload(gate), d_up = upload(up), d_down = upload(down);
    d_z = unwritten<bf16>(capacity * 2 * F);
    fg::device::runtime::copy(d_z.data(), z.data(), rows * 2 * F * 2, nullptr);
    hidden = unwritten<bf16>(capacity * F), out = unwritten<bf16>(capacity * D);
    dz = unwritten<bf16>(capacity * 2 * F);
    dot = unwritten<float>(capacity * fg::device::dot_parts(static_cast<int>(F)));
    dgate = unwritten<bf16>(experts * F * D), dup = unwritten<bf16>(experts * F * D);
    ddown = unwritten<bf16>(experts * F * D);
    d_weight = upload(this->weight);
  }
  fg::device::expert_family<bf16> arguments() const {
    return {static_cast<int>(F), d_gate.data(), d_up.data(), d_down.data(), d_z.data(),
            hidden.data(),       out.data(),    dz.data(),   dot.data(),    nullptr,
            dgate.data(),        dup.data(),    ddown.data()};
  }
};

/// Every number of `got`; the first wrong ones are told.
void compare(std::string const& what, std::vector<double> const& got,
             std::vector<double> const& want, std::vector<double> const& within) {
  std::size_t wrong = 0;
  std::string first;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::abs(got[i] - want[i]) <= within[i]) continue;
    if (++wrong <= 4)
      first += " [" + std::to_string(i) + "] " + std::to_string(got[i]) + " for " +
               std::to_string(want[i]) + ";";
  }
  INFO(what << ": " << wrong << " of " << want.size() << " wrong:" << first);
  CHECK(wrong == 0);
}
void compare_exactly(std::string const& what, numbers const& got, std::vector<double> const& want) {
  std::vector<double> numbers(got.size()), rounded(want.size()), zero(want.size());
  for (std::size_t i = 0; i < got.size(); ++i) numbers[i] = value(got[i]);
  for (std::size_t i = 0; i < want.size(); ++i) rounded[i] = fg::rounded_to_bf16(want[i]);
  compare(what, numbers, rounded, zero);
}

/// All four products of one family. Of each row: its expert, and its token, -1 for all zeros.
void check_family(std::string const& name, family& f, numbers const& x, numbers const& dy,
                  std::vector<int> const& expert, std::vector<int> const& token, fg::glu act,
                  std::function<void(int, gradients)> const& run) {
  auto const [D, F] = std::pair{f.D, f.F};
  auto const at = [](auto const& v, std::int64_t i) {
    return value(v[static_cast<std::size_t>(i)]);
  };
  auto const expert_of = [&](std::int64_t r) { return expert[static_cast<std::size_t>(r)]; };
  auto const token_of = [&](std::int64_t r) { return token[static_cast<std::size_t>(r)]; };
  auto const token_row = [&](numbers const& v, std::int64_t row, std::int64_t d) {
    return token_of(row) < 0 ? 0 : at(v, token_of(row) * D + d);
  };
  auto const size = [](std::int64_t n) { return static_cast<std::size_t>(n); };

  run(0, gradients::overwrite);
  {
    auto const parts = fg::device::dot_parts(static_cast<int>(F));
    auto const dz = download(f.dz), hidden = download(f.hidden);
    auto const dot = download(f.dot);
    std::vector<double> got, want, within, got_dot, want_dot(size(f.rows * parts)),
        within_dot(size(f.rows * parts));
    for (std::int64_t r = 0; r < f.rows; ++r)
      for (std::int64_t c = 0; c < F; ++c) {
        double g = 0;
        for (std::int64_t d = 0; d < D; ++d)
          g += token_row(dy, r, d) * at(f.down, (expert_of(r) * D + d) * F + c);
        double const z = at(f.z, r * 2 * F + c), u = at(f.z, r * 2 * F + F + c);
        auto const h = fg::spec::gated_at(act, z, u);
        double const w = f.weight.empty() ? 1 : static_cast<double>(f.weight[size(r)]);
        for (double v : {w * h.value, w * g * h.by_gate, w * g * h.by_up}) {
          want.push_back(v);
          within.push_back(std::abs(v) * 0.0041 + (std::abs(w * g * u) + std::abs(w * u)) * 2e-6);
        }
        for (double v : {at(hidden, r * F + c), at(dz, r * 2 * F + c), at(dz, r * 2 * F + F + c)})
          got.push_back(v);
        want_dot[size(r * parts + c / 128)] += g * h.value;
        within_dot[size(r * parts + c / 128)] += std::abs(g * h.value) * 1e-5 + 1e-30;
      }
    for (std::size_t i = 0; i < want_dot.size(); ++i)
      got_dot.push_back(static_cast<double>(dot[i]));
    compare(name + " down_backward's hidden and dz", got, want, within);
    compare(name + " down_backward's dot", got_dot, want_dot, within_dot);
    for (std::size_t i = size(f.rows * F); i < hidden.size(); ++i)
      REQUIRE(std::isnan(value(hidden[i])));  // nothing is written behind the rows
  }

  // The other products are linear: integers for what down_backward made, and equality.
  numbers dz = integers(f.rows * 2 * F, 11), hidden = integers(f.rows * F, 12);
  for (std::int64_t r = 0; r < f.rows; ++r) {
    if (token_of(r) >= 0) continue;
    std::fill_n(dz.begin() + r * 2 * F, 2 * F, bf16(0.f));
    std::fill_n(hidden.begin() + r * F, F, bf16(0.f));
  }
  fg::device::runtime::copy(f.dz.data(), dz.data(), f.rows * 2 * F * 2, nullptr);
  fg::device::runtime::copy(f.hidden.data(), hidden.data(), f.rows * F * 2, nullptr);

  std::vector<double> out(size(f.rows * D)), dgate(size(f.experts * F * D)), dup(dgate),
      ddown(dgate);
  for (std::int64_t r = 0; r < f.rows; ++r) {
    auto const e = expert_of(r);
    for (std::int64_t c = 0; c < F; ++c)
      for (std::int64_t d = 0; d < D; ++d) {
        double const g = at(dz, r * 2 * F + c), u = at(dz, r * 2 * F + F + c);
        auto const w = (e * F + c) * D + d;
        out[size(r * D + d)] += g * at(f.gate, w) + u * at(f.up, w);
        dgate[size(w)] += g * token_row(x, r, d);
        dup[size(w)] += u * token_row(x, r, d);
        ddown[size((e * D + d) * F + c)] += at(hidden, r * F + c) * token_row(dy, r, d);
      }
  }
  run(2, gradients::overwrite);
  compare_exactly(name + " up_backward", download(f.out.data(), f.rows * D), out);

  for (auto const mode : {gradients::overwrite, gradients::accumulate}) {
    numbers const prior = integers(f.experts * F * D, 17);
    std::string const how = mode == gradients::overwrite ? " over" : " onto";
    if (mode == gradients::accumulate) {
      for (auto* to : {&f.dgate, &f.dup, &f.ddown})
        fg::device::runtime::copy(to->data(), prior.data(), to->bytes(), nullptr);
      for (auto* to : {&dgate, &dup, &ddown})
        for (std::size_t i = 0; i < to->size(); ++i) (*to)[i] += value(prior[i]);
    }
    run(1, mode);
    run(3, mode);
    compare_exactly(name + " ddown" + how, download(f.ddown), ddown);
    compare_exactly(name + " dgate" + how, download(f.dgate), dgate);
    compare_exactly(name + " dup" + how, download(f.dup), dup);
  }
}

void check(shape const& s) {
  using hopper = fg::device::hopper_backward<bf16>;
  auto const& routing = s.routing;
  if (too_large_here(std::int64_t{routing.tokens} * (routing.slots + s.S), s.D, s.F)) return;
  auto const host = map_of(routing, 128);
  device_map const on_device(routing, host);
  fg::device::row_map const& map = on_device;
  std::int64_t const T = routing.tokens, R = routing.experts, D = s.D, F = s.F;
  numbers const x = integers(T * D, 1), dy = integers(T * D, 2);
  auto const d_x = upload(x), d_dy = upload(dy);

  family routed(host.rows(), map.max_rows(), R, F, D, host.row_weight, 100);
  for (std::int64_t r = 0; r < routed.rows; ++r)  // a pad's z is that of a token of zeros
    if (host.row_token[static_cast<std::size_t>(r)] < 0)
      std::fill_n(routed.z.begin() + r * 2 * F, 2 * F, bf16(0.f));
  fg::device::runtime::copy(routed.d_z.data(), routed.z.data(), routed.rows * 2 * F * 2, nullptr);
  std::vector<float> weights;
  if (s.shared_weights)
    for (int t = 0; t < T; ++t)
      weights.push_back(static_cast<float>(fg::random_uniform(5, static_cast<std::uint64_t>(t))));
  family shared(s.S > 0 ? T : 0, s.S > 0 ? T : 0, s.S > 0, s.S * F, D, weights, 200);

  fg::device::expert_products<bf16> p;
  p.hidden = s.D, p.act = s.act, p.rows = map, p.x = d_x.data(), p.dy = d_dy.data();
  p.routed = routed.arguments();
  if (s.S > 0) p.shared = shared.arguments();
  if (s.shared_weights) p.shared.weight = shared.d_weight.data();
  auto const run = [&](int which, gradients mode) {
    p.mode = mode;
    if (which == 0) hopper::down_backward(p, nullptr);
    if (which == 1) hopper::down_weights(p, nullptr);
    if (which == 2) hopper::up_backward(p, nullptr);
    if (which == 3) hopper::up_weights(p, nullptr);
  };
  std::vector<int> experts_of_rows;
  for (int e = 0; e < R; ++e)
    experts_of_rows.resize(static_cast<std::size_t>(host.offsets[static_cast<std::size_t>(e) + 1]),
                           e);
  check_family("routed", routed, x, dy, experts_of_rows, host.row_token, s.act, run);
  if (s.S > 0) {
    std::vector<int> tokens(static_cast<std::size_t>(T));
    std::iota(tokens.begin(), tokens.end(), 0);
    check_family("shared", shared, x, dy, std::vector<int>(tokens.size()), tokens, s.act, run);
  }
}

/// The bits of all that the products make.
std::vector<bf16> made(family const& f, std::int64_t rows) {
  std::vector<bf16> all;
  auto const add = [&](bf16 const* from, std::int64_t size) {
    auto const part = download(from, size);
    all.insert(all.end(), part.begin(), part.end());
  };
  add(f.hidden.data(), rows * f.F), add(f.dz.data(), rows * 2 * f.F), add(f.out.data(), rows * f.D);
  for (auto const* weights : {&f.dgate, &f.dup, &f.ddown}) add(weights->data(), weights->size());
  return all;
}

}  // namespace

TEST_CASE("tile_deal: each tile is taken once, and blocks have about as much to do", "[cuda]") {
  for (int blocks : {1, 5, 132})
    for (int shared : {0, 1, 4, 132, 300})
      for (int routed : {0, 3, 131, 1000})
        for (int cost : {1, 3, 10}) {  // of a shared tile, in routed ones
          int const total = shared + routed, head = (blocks - shared % blocks) * cost;
          std::vector<int> taken(static_cast<std::size_t>(total)), work;
          for (int b = 0; b < blocks; ++b) {
            fg::device::tile_deal const deal(blocks, b, shared, total, head);
            work.push_back(0);
            for (int i = deal.first(); i < total; i = deal.next(i)) {
              ++taken[static_cast<std::size_t>(i)];
              work.back() += i < shared ? cost : 1;
            }
          }
          CAPTURE(blocks, shared, routed, cost);
          CHECK(std::count(taken.begin(), taken.end(), 1) == total);
          auto const [least, most] = std::minmax_element(work.begin(), work.end());
          CHECK(*most - *least <= (routed >= head ? 1 : cost));
        }
}

TEST_CASE("hopper backward: products equal plain loops", "[cuda]") {
  NEED_HOPPER(fg::device::hopper_backward<bf16>);
  SECTION("one tile") { check({128, 128, 0, all_at(128, 1, 0)}); }
  SECTION("tails everywhere") { check({72, 40, 2, random_routing(37, 2, 4, 3)}); }
  SECTION("ReLU") { check({72, 136, 1, random_routing(37, 2, 4, 3), activation::reglu, true}); }
  SECTION("a limit") {
    check({72, 136, 1, random_routing(37, 2, 4, 3), {activation::swiglu, 0.5f}, true});
  }
  SECTION("one token") { check({72, 40, 1, random_routing(1, 1, 3, 3)}); }
  SECTION("empty experts, several tiles, GELU, weights of shared rows") {
    check({264, 200, 2, random_routing(300, 3, 8, 4, 1.0, 2), activation::geglu, true});
  }
  SECTION("all tokens at one expert") { check({136, 264, 1, all_at(700, 3, 1)}); }
  SECTION("dropped slots, K deeper than the buffers") {
    check({520, 328, 1, random_routing(150, 4, 6, 5, 2.0, 1, 0.3)});
  }
}

TEST_CASE("hopper backward: without tokens gradients are zeros", "[cuda]") {
  NEED_HOPPER(fg::device::hopper_backward<bf16>);
  check({72, 40, 1, random_routing(0, 2, 4, 3)});
}

TEST_CASE("hopper backward: the same bits each time", "[hardware]") {
  using hopper = fg::device::hopper_backward<bf16>;
  NEED_HOPPER(hopper);
  int const T = 3000, D = 512, F = 384, R = 24;
  auto const routing = random_routing(T, 6, R, 9, 1.0, 3);
  auto const host = map_of(routing, 128);
  device_map const on_device(routing, host);
  fg::device::row_map const& map = on_device;
  auto const x = upload(reals(T * D, 1)), dy = upload(reals(T * D, 2));
  family routed(host.rows(), map.max_rows(), R, F, D, host.row_weight, 100);
  family shared(T, T, 1, 2 * F, D, {}, 200);
  fg::device::expert_products<bf16> p;
  p.hidden = D, p.rows = map, p.x = x.data(), p.dy = dy.data();
  p.routed = routed.arguments(), p.shared = shared.arguments();
  std::vector<bf16> first;
  for (int i = 0; i < 10; ++i) {
    hopper::down_backward(p, nullptr);
    hopper::down_weights(p, nullptr);
    hopper::up_backward(p, nullptr);
    hopper::up_weights(p, nullptr);
    auto all = made(routed, host.rows()), more = made(shared, T);
    all.insert(all.end(), more.begin(), more.end());
    if (i == 0) first = all;
    CHECK(same_bits(all, first));
  }
}
