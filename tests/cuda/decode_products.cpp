// Products of few tokens against plain loops in double, with tails, pads, empty experts and poison.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/cuda/coded.hpp>
#include <finegrain/cuda/decode/products.hpp>
#include <finegrain/cuda/hopper/few_rows.hpp>
#include <finegrain/reference/experts.hpp>
#include <type_traits>

#include "../catch.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;
using fg::bf16;
using numbers = std::vector<bf16>;

struct shape {
  int D, F, SF, R, k, T, tile;
  double skew = 0, drop = 0;
  int empty = 0;
};

/// Numbers in (-scale, scale), or of -1, 0, 1: their products' sums are exact.
numbers draw(std::int64_t size, std::uint64_t seed, float scale) {
  numbers v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i) {
    double const u = fg::random_uniform(seed, i);
    v[i] = bf16(scale == 0 ? std::floor(static_cast<float>(3 * u)) - 1
                           : scale * static_cast<float>(2 * u - 1));
  }
  return v;
}
double at(numbers const& v, std::int64_t i) {
  return static_cast<double>(static_cast<float>(v[static_cast<std::size_t>(i)]));
}
double dot(numbers const& a, std::int64_t i, std::vector<double> const& b, std::int64_t j,
           int size) {
  double sum = 0;
  for (int n = 0; n < size; ++n) sum += at(a, i + n) * b[static_cast<std::size_t>(j + n)];
  return sum;
}

/// Compares and tells the first one that differs; NaN does.
void compare(char const* what, numbers const& got, std::vector<double> const& want,
             double tolerance) {
  INFO(what);
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    auto const v = static_cast<double>(static_cast<float>(got[i]));
    if (std::abs(v - want[i]) <= tolerance * (1 + std::abs(want[i]))) continue;
    if (wrong++ == 0) first = i;
  }
  if (wrong > 0)
    FAIL(wrong << " of " << want.size() << " differ, first " << first << ": "
               << static_cast<float>(got[first]) << " for " << want[first]);
  CHECK(true);
}

/// Experts' matrices (experts, rows, columns) on the device, and their values.
template <fg::format F>
struct weights {
  using number = std::conditional_t<F == fg::format::bf16, bf16, std::uint8_t>;

  weights(int experts, int rows, int columns, std::uint64_t seed, float scale) {
    std::int64_t const size = std::int64_t{experts} * rows * columns;
    if constexpr (F == fg::format::bf16) {
      auto const drawn = draw(size, seed, scale);
      for (std::int64_t i = 0; i < size; ++i) values.push_back(at(drawn, i));
      numbers_ = upload(drawn);
    } else {
      bool const blocks = F == fg::format::fp8;
      std::int64_t const high = blocks ? (rows + 127) / 128 : rows;
      std::int64_t const wide = blocks ? (columns + 127) / 128 : 1;
      auto scales = draw(experts * high * wide, seed + 1, scale / (blocks ? 256 : 64));
      std::int64_t const pitch = fg::device::code_pitch(columns);
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(experts * rows * pitch));
      for (std::int64_t i = 0; i < size; ++i) {
        auto code = static_cast<std::uint8_t>(fg::random_word(seed, static_cast<std::uint64_t>(i)));
        if (blocks && (code & 127) == 127) --code;
        auto const place = i % columns;
        auto const byte = blocks ? place : place / 4 * 4 + place % 2 * 2 + place / 2 % 2;
        auto* const row = codes.data() + i / columns * pitch;
        row[byte] = static_cast<std::uint8_t>(row[byte] | (blocks ? code : code & 127));
        if (!blocks) row[byte ^ 1] = static_cast<std::uint8_t>(row[byte ^ 1] | (code & 128));
        std::int64_t const e = i / columns / rows, r = i / columns % rows, c = i % columns;
        std::int64_t const block = blocks ? (e * high + r / 128) * wide + c / 128 : e * high + r;
        values.push_back(at(scales, block) * (blocks ? e4m3(code) : signed_magnitude(code)));
      }
      numbers_ = upload(codes);
      scales_ = upload(scales);
    }
  }
  number* data() const { return numbers_.data(); }
  bf16* scales() const { return scales_.data(); }
  std::vector<double> values;

 private:
  static double signed_magnitude(int code) { return (code & 128 ? -1 : 1) * (code & 127); }
  static double e4m3(int code) {
    int const e = code >> 3 & 15, m = code & 7;
    return (code & 128 ? -1 : 1) * (e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10));
  }
  fg::device_buffer<number> numbers_;
  fg::device_buffer<bf16> scales_;
};

/// An expert family's weights on both sides, and its arrays on the device, poisoned.
template <fg::format F>
struct family {
  family(int D, int width, int experts, std::int64_t rows, std::uint64_t seed, float scale)
      : width(width),
        gate(experts, width, D, seed, scale),
        up(experts, width, D, seed + 10, scale),
        down(experts, D, width, seed + 20, scale),
        z(unwritten<bf16>(rows * 2 * width)),
        hidden(unwritten<bf16>(rows * width)),
        out(unwritten<bf16>(rows * D)) {}

  fg::device::expert_family<bf16> arguments() const {
    fg::device::expert_family<bf16> f;
    f.width = width;
    if constexpr (F == fg::format::bf16)
      f.gate = gate.data(), f.up = up.data(), f.down = down.data();
    f.z = z.data(), f.hidden = hidden.data(), f.out = out.data();
    return f;
  }
  fg::device::coded_family codes() const {
    fg::device::coded_family c;
    if constexpr (F != fg::format::bf16) {
      c.gate = gate.data(), c.up = up.data(), c.down = down.data();
      c.gate_scales = gate.scales(), c.up_scales = up.scales(), c.down_scales = down.scales();
    }
    return c;
  }
  int width;
  weights<F> gate, up, down;
  fg::device_buffer<bf16> z, hidden, out;
};

/// Who multiplies: decode_products, or few_rows, which saves no z.
enum class path { decode, hopper };

template <fg::format F>
struct products {
  using arguments = fg::device::expert_products<bf16>;
  using plain = fg::device::decode_products<bf16>;
  family<F> const &routed, &shared;
  path by = path::decode;

  void up_and_down(arguments const& p) const {
    if (by == path::hopper) {
      fg::device::few_rows<bf16>::up_forward(p, nullptr);
      fg::device::few_rows<bf16>::down_forward(p, nullptr);
    } else if constexpr (F == fg::format::bf16) {
      plain::up_forward(p, nullptr);
      plain::down_forward(p, nullptr);
    } else {
      using coded = fg::device::coded_experts<bf16, F>;
      coded::up_forward(p, routed.codes(), shared.codes(), nullptr);
      coded::down_forward(p, routed.codes(), shared.codes(), nullptr);
    }
  }
  void fused_down(arguments const& p, bf16 const* residual, bf16* y) const {
    if constexpr (F == fg::format::bf16)
      plain::fused_down(p, residual, y, nullptr);
    else
      fg::device::coded_experts<bf16, F>::down_combine(p, routed.codes(), shared.codes(), residual,
                                                       y, nullptr);
  }
};

template <fg::format Format>
void check_family(fg::glu act, int D, family<Format> const& f, std::vector<int> const& expert,
                  std::vector<int> const& token, numbers const& x, bool exact, bool saves_z) {
  auto const rows = static_cast<std::int64_t>(token.size());
  auto const F = std::int64_t{f.width};
  auto const z = download(f.z.data(), rows * 2 * F);
  auto const hidden = download(f.hidden.data(), rows * F);
  auto const out = download(f.out.data(), rows * D);
  std::vector<double> want_z, want_hidden, want_out;
  for (std::int64_t r = 0; r < rows; ++r) {
    auto const e = std::int64_t{expert[static_cast<std::size_t>(r)]};
    auto const t = std::int64_t{token[static_cast<std::size_t>(r)]};
    std::vector<double> both[2];
    for (std::int64_t i = 0; i < F; ++i) {
      both[0].push_back(t < 0 ? 0 : dot(x, t * D, f.gate.values, (e * F + i) * D, D));
      both[1].push_back(t < 0 ? 0 : dot(x, t * D, f.up.values, (e * F + i) * D, D));
    }
    for (auto const& half : both) want_z.insert(want_z.end(), half.begin(), half.end());
    for (std::size_t i = 0; i < static_cast<std::size_t>(F); ++i)
      want_hidden.push_back(fg::spec::gated_at(act, both[0][i], both[1][i]).value);
    // from the stored hidden, so that its rounding is not in doubt
    for (std::int64_t d = 0; d < D; ++d)
      want_out.push_back(dot(hidden, r * F, f.down.values, (e * D + d) * F, static_cast<int>(F)));
  }
  if (saves_z) compare("z", z, want_z, exact ? 0 : 0.005);
  compare("hidden", hidden, want_hidden, 0.01);
  compare("out", out, want_out, 0.005);
}

template <fg::format Format = fg::format::bf16>
void run(shape const& s, bool exact, fg::glu act = fg::activation::swiglu, path by = path::decode) {
  CAPTURE(s.D, s.F, s.SF, s.R, s.k, s.T, s.tile, s.skew, exact);
  auto const routing = s.skew < 0 ? all_at(s.T, s.R, s.R / 2)
                                  : random_routing(s.T, s.k, s.R, 7, s.skew, s.empty, s.drop);
  auto const map = map_of(routing, s.tile);
  device_map const there(routing, map);
  // exact: some 1 in 9 numbers, so that sums stay below 256
  float const scale = exact ? 0.0f : 1.0f;
  auto const x = draw(std::int64_t{s.T} * s.D, 1, scale);
  auto const x_device = upload(x);
  family<Format> const routed(s.D, s.F, s.R, map.rows(), 10, exact ? 0.0f : 0.1f);
  family<Format> const shared(s.D, s.SF, 1, s.T, 20, exact ? 0.0f : 0.1f);

  fg::device::expert_products<bf16> p;
  p.hidden = s.D;
  p.act = act;
  p.rows = there;
  p.routed = routed.arguments();
  p.shared = shared.arguments();
  p.x = x_device.data();
  products<Format> const run{routed, shared, by};
  bool const saves_z = by == path::decode;
  if (!saves_z) p.routed.z = p.shared.z = nullptr;
  run.up_and_down(p);

  std::vector<int> expert, all_tokens, zeros(static_cast<std::size_t>(s.T));
  for (std::size_t e = 0; e < static_cast<std::size_t>(s.R); ++e)
    expert.insert(expert.end(), static_cast<std::size_t>(map.offsets[e + 1] - map.offsets[e]),
                  static_cast<int>(e));
  for (int t = 0; t < s.T; ++t) all_tokens.push_back(t);
  check_family(act, s.D, routed, expert, map.row_token, x, exact, saves_z);
  if (s.SF > 0) check_family(act, s.D, shared, zeros, all_tokens, x, exact, saves_z);

  // Twice the same bits; without z, which is then left alone.
  auto const hidden = download(routed.hidden), out = download(routed.out);
  fg::device::runtime::fill(routed.hidden.data(), 0xff, routed.hidden.bytes(), nullptr);
  p.routed.z = p.shared.z = nullptr;
  run.up_and_down(p);
  CHECK(same_bits(download(routed.hidden), hidden));
  CHECK(same_bits(download(routed.out), out));

  if (s.T > fg::device::fused_tokens || by != path::decode) return;
  auto const residual = draw(std::int64_t{s.T} * s.D, 3, 1.0f);
  std::vector<float> weight;
  for (int t = 0; t < s.T; ++t) weight.push_back(0.25f * static_cast<float>(t + 1));
  auto const residual_device = upload(residual);
  auto const weight_device = upload(weight);
  auto const y_device = unwritten<bf16>(std::int64_t{s.T} * s.D);
  auto const shared_hidden = download(shared.hidden);
  for (bool const plain : {false, true}) {
    CAPTURE(plain);
    p.shared.weight = plain ? nullptr : weight_device.data();
    run.fused_down(p, plain ? nullptr : residual_device.data(), y_device.data());
    auto const y = download(y_device);
    std::vector<double> want;
    for (std::int64_t t = 0; t < s.T; ++t)
      for (std::int64_t d = 0; d < s.D; ++d) {
        double sum = plain ? 0 : at(residual, t * s.D + d);
        for (std::int64_t j = t * routing.slots; j < (t + 1) * routing.slots; ++j) {
          std::int64_t const row = map.slot_row[static_cast<std::size_t>(j)];
          if (row < 0) continue;
          std::int64_t const e = routing.expert[static_cast<std::size_t>(j)];
          sum += static_cast<double>(routing.weight[static_cast<std::size_t>(j)]) *
                 dot(hidden, row * s.F, routed.down.values, (e * s.D + d) * s.F, s.F);
        }
        if (s.SF > 0)
          sum += (plain ? 1 : static_cast<double>(weight[static_cast<std::size_t>(t)])) *
                 dot(shared_hidden, t * s.SF, shared.down.values, d * s.SF, s.SF);
        want.push_back(sum);
      }
    compare("y", y, want, 0.005);
    run.fused_down(p, plain ? nullptr : residual_device.data(), y_device.data());
    CHECK(same_bits(download(y_device), y));
  }
}

}  // namespace

TEST_CASE("products of few tokens are those of plain loops") {
  NEED_GPU();
  for (int const tile : {8, 16})
    for (int const T : {0, 1, 2, 7, 8, 33, 64}) {
      run({72, 40, 40, 6, 2, T, tile}, false);
      run({264, 136, 272, 9, 3, T, tile, 1.5, 0.2, 2}, false);
      run({8, 8, 0, 3, 1, T, tile}, true);
      run({64, 72, 64, 5, 2, T, tile, 0, 0, 2}, true, fg::activation::geglu);
      run({64, 40, 72, 5, 2, T, tile}, true, fg::activation::reglu);
      run({64, 40, 72, 5, 2, T, tile}, true, {fg::activation::swiglu, 0.5f});
    }
}
TEST_CASE("products of few tokens when one expert has all or none has any") {
  NEED_GPU();
  for (int const tile : {8, 16}) {
    run({128, 64, 128, 4, 1, 75, tile, -1}, false);
    run({128, 64, 0, 4, 2, 8, tile, 0, 1.0}, false);
    run({128, 64, 64, 4, 2, 5, tile, 0, 1.0}, false, fg::activation::geglu);
    run({72, 1000, 8, 3, 2, 6, tile}, false);
  }
}
TEST_CASE("products of few tokens of wide experts", "[hardware]") {
  NEED_GPU();
  run({2048, 1408, 2816, 16, 6, 1, 8}, false);
  run({2048, 704, 0, 12, 4, 8, 8}, false);
  run({1024, 512, 512, 12, 4, 40, 16}, false);
}
TEST_CASE("products of few rows with Hopper's instructions") {
  NEED_HOPPER(fg::device::few_rows<bf16>);
  auto const hopper = [](shape const& s, bool exact, fg::glu act = fg::activation::swiglu) {
    run(s, exact, act, path::hopper);
  };
  for (int const tile : {8, 16, 32, 64}) {
    for (int const T : {1, 7, 33, 64, 200}) {
      hopper({72, 40, 40, 6, 2, T, tile}, false);
      hopper({264, 136, 272, 9, 3, T, tile, 1.5, 0.2, 2}, false);
      hopper({8, 8, 0, 3, 1, T, tile}, true);
      hopper({64, 72, 64, 5, 2, T, tile, 0, 0, 2}, true, fg::activation::geglu);
    }
    hopper({64, 40, 72, 5, 2, 33, tile}, true, fg::activation::reglu);
    hopper({64, 40, 72, 5, 2, 33, tile}, true, {fg::activation::geglu, 0.5f});
    hopper({128, 64, 128, 4, 1, 75, tile, -1}, false);
    hopper({128, 64, 0, 4, 2, 8, tile, 0, 1.0}, false);
    hopper({72, 1000, 8, 3, 2, 6, tile}, false);
    hopper({1024, 512, 512, 12, 4, 40, tile}, false);
  }
  hopper({1024, 704, 1408, 4, 2, 70, 64}, false);
}
TEMPLATE_TEST_CASE_SIG("products of few tokens with coded weights", "", ((fg::format F), F),
                       fg::format::int8, fg::format::fp8) {
  NEED_GPU();
  for (int const tile : {8, 16})
    for (int const T : {0, 1, 8, 40}) {
      run<F>({72, 40, 40, 6, 2, T, tile}, false);
      run<F>({264, 136, 272, 9, 3, T, tile, 1.5, 0.2, 2}, false);
      run<F>({8, 8, 0, 3, 1, T, tile}, false, fg::activation::geglu);
      run<F>({40, 24, 8, 3, 1, T, tile}, false, fg::activation::reglu);
    }
  if (!on_device::emulated()) run<F>({1024, 704, 1408, 8, 4, 1, 8}, false);
}
