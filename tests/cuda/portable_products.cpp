// The portable products against plain loops in double, each from inputs of its own.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/cuda/portable/products.hpp>
#include <finegrain/cuda/tile/block_place.hpp>
#include <finegrain/reference/experts.hpp>
#include <functional>

#include "../catch.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;
using fg::activation, fg::bf16, fg::gradients;
using products = device::portable_products<bf16>;
using numbers = std::vector<double>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// An array on the device, between poison that must stay, and its numbers on the host.
struct array {
  numbers host;  // what bf16 has of them
  device_buffer<bf16> memory;
  static constexpr std::int64_t guard = 4096;

  array() = default;
  explicit array(std::int64_t size) : memory(unwritten<bf16>(size + guard)) {}
  array(std::int64_t size, std::function<double(std::int64_t)> const& number) : array(size) {
    std::vector<bf16> values;
    for (std::int64_t i = 0; i < size; ++i) {
      values.emplace_back(static_cast<float>(number(i)));
      host.push_back(static_cast<float>(values.back()));
    }
    device::runtime::copy(memory.data(), values.data(), size * 2, nullptr);
  }
  bf16* data() const { return memory.data(); }
};

/// All that a family's products read and write.
struct family {
  int width, experts;
  std::int64_t rows;                        // with pads
  std::vector<std::int32_t> expert, token;  // of each row; token -1: a pad
  std::vector<double> weight;
  array gate, up, down, z, hidden, dz;
  device_buffer<float> shared_weight;

  device::expert_family<bf16> arguments() const {
    device::expert_family<bf16> f;
    f.width = width;
    f.gate = gate.data(), f.up = up.data(), f.down = down.data();
    f.weight = shared_weight.data();
    return f;
  }
};

struct shape {
  int D, F, shared_F;
  bool integers = false;  // sums are exact: the results must be the nearest numbers
  fg::glu act = activation::swiglu;
};

class layer {
 public:
  layer(shape s, on_device::routing const& r, int tile)
      : s_(s),
        map_(map_of(r, tile)),
        on_device_(r, map_),
        x_(random(std::int64_t{r.tokens} * s.D)),
        dy_(random(std::int64_t{r.tokens} * s.D)) {
    auto& routed = families_[0];
    routed = make(s.F, r.experts, map_.row_token);
    for (int e = 0; e < r.experts; ++e)
      routed.expert.insert(routed.expert.end(), at(map_.offsets[at(e + 1)] - map_.offsets[at(e)]),
                           e);
    routed.weight.assign(map_.row_weight.begin(), map_.row_weight.end());
    auto& shared = families_[1];
    std::vector<std::int32_t> tokens;
    for (int t = 0; t < r.tokens; ++t) tokens.push_back(t);
    shared = make(s.shared_F, 1, tokens);
    std::vector<float> weights;
    for (int t = 0; t < r.tokens; ++t) {
      shared.expert.push_back(0);
      weights.push_back(s.shared_F % 16 ? 1 : 0.25f * static_cast<float>(t % 5));
      shared.weight.push_back(weights.back());
    }
    if (s.shared_F % 16 == 0) shared.shared_weight = upload(weights);
  }

  void up_forward() {
    array z[2], hidden[2];
    auto p = arguments();
    each(
        [&](int i, family const& f, auto& a) {
          a.z = (z[i] = array(f.rows * 2 * f.width)).data();
          a.hidden = (hidden[i] = array(f.rows * f.width)).data();
        },
        p);
    run(
        products::up_forward, p,
        [&] {
          each(
              [&](int i, family const& f, auto&) {
                numbers want_z =
                    product(f, x_, s_.D, 2 * f.width, [&](std::int64_t e, int n, int k) {
                      auto const& w = n < f.width ? f.gate : f.up;
                      return w.host[at((e * f.width + n % f.width) * s_.D + k)];
                    });
                numbers want(at(f.rows * f.width));
                for (std::int64_t row = 0; row < f.rows; ++row)
                  for (int c = 0; c < f.width; ++c)
                    want[at(row * f.width + c)] =
                        fg::spec::gated_at(s_.act, want_z[at(row * 2 * f.width + c)],
                                           want_z[at((row * 2 + 1) * f.width + c)])
                            .value;
                compare("z", z[i], want_z, s_.integers);
                compare("hidden", hidden[i], want, false);
              },
              p);
        },
        [&] { return bits(z[0], hidden[0], z[1], hidden[1]); });
    // Without z: hidden is the same.
    auto const before = bits(hidden[0], hidden[1]);
    p.routed.z = p.shared.z = nullptr;
    products::up_forward(p, nullptr);
    CHECK(bits(hidden[0], hidden[1]) == before);
  }

  void down_forward() {
    array out[2];
    auto p = arguments();
    each(
        [&](int i, family const& f, auto& a) {
          a.hidden = f.hidden.data();
          a.out = (out[i] = array(f.rows * s_.D)).data();
        },
        p);
    run(
        products::down_forward, p,
        [&] {
          each(
              [&](int i, family const& f, auto&) {
                compare("out", out[i],
                        product(
                            f, f.hidden, f.width, s_.D,
                            [&](std::int64_t e, int n, int k) {
                              return f.down.host[at((e * s_.D + n) * f.width + k)];
                            },
                            false),
                        s_.integers);
              },
              p);
        },
        [&] { return bits(out[0], out[1]); });
  }

  void down_backward() {
    array dz[2], hidden[2];
    device_buffer<float> dot[2];
    auto p = arguments();
    each(
        [&](int i, family const& f, auto& a) {
          a.z = f.z.data();
          a.dz = (dz[i] = array(f.rows * 2 * f.width)).data();
          a.hidden = (hidden[i] = array(f.rows * f.width)).data();
          a.dot = (dot[i] = unwritten<float>(f.rows * device::dot_parts(f.width) + 64)).data();
        },
        p);
    run(
        products::down_backward, p,
        [&] {
          each(
              [&](int i, family const& f, auto&) {
                numbers const g = product(f, dy_, s_.D, f.width, [&](std::int64_t e, int n, int k) {
                  return f.down.host[at((e * s_.D + k) * f.width + n)];
                });
                int const F = f.width, parts = device::dot_parts(F);
                numbers want_dz(at(f.rows * 2 * F)), want_hidden(at(f.rows * F)),
                    want_dot(at(f.rows * parts));
                for (std::int64_t row = 0; row < f.rows; ++row)
                  for (int c = 0; c < F && f.token[at(row)] >= 0; ++c) {
                    double const zg = f.z.host[at(row * 2 * F + c)],
                                 zu = f.z.host[at(row * 2 * F + F + c)];
                    double const gc = g[at(row * F + c)], w = f.weight[at(row)];
                    auto const h = fg::spec::gated_at(s_.act, zg, zu);
                    want_dz[at(row * 2 * F + c)] = w * gc * h.by_gate;
                    want_dz[at(row * 2 * F + F + c)] = w * gc * h.by_up;
                    want_hidden[at(row * F + c)] = w * h.value;
                    want_dot[at(row * parts + c / 128)] += gc * h.value;
                  }
                compare("dz", dz[i], want_dz, false);
                compare("hidden", hidden[i], want_hidden, false);
                auto const got = download(dot[i]);
                double largest = 0;
                for (double d : want_dot) largest = std::max(largest, std::abs(d));
                int wrong = 0;
                for (std::size_t j = 0; j < want_dot.size(); ++j)
                  if (!(std::abs(got[j] - want_dot[j]) <= 1e-4 * largest + 1e-6) && ++wrong < 4)
                    UNSCOPED_INFO("dot " << j << " is " << got[j] << ", not " << want_dot[j]);
                for (std::size_t j = want_dot.size(); j < got.size(); ++j)
                  wrong += !std::isnan(got[j]);
                CHECK(wrong == 0);
              },
              p);
        },
        [&] { return bits(dz[0], hidden[0], dz[1], hidden[1]); });
  }

  void up_backward() {
    array out[2];
    auto p = arguments();
    each(
        [&](int i, family const& f, auto& a) {
          a.dz = f.dz.data();
          a.out = (out[i] = array(f.rows * s_.D)).data();
        },
        p);
    run(
        products::up_backward, p,
        [&] {
          each(
              [&](int i, family const& f, auto&) {
                compare("out", out[i],
                        product(
                            f, f.dz, 2 * f.width, s_.D,
                            [&](std::int64_t e, int n, int k) {
                              auto const& w = k < f.width ? f.gate : f.up;
                              return w.host[at((e * f.width + k % f.width) * s_.D + n)];
                            },
                            false),
                        s_.integers);
              },
              p);
        },
        [&] { return bits(out[0], out[1]); });
  }

  void weights(gradients mode) {
    array dgate[2], dup[2], ddown[2];
    auto p = arguments();
    p.mode = mode;
    bool const add = mode == gradients::accumulate;
    auto const start = [&](array const& before) {
      if (!add) return array(static_cast<std::int64_t>(before.host.size()));
      return array(static_cast<std::int64_t>(before.host.size()),
                   [&](std::int64_t i) { return before.host[at(i)]; });
    };
    each(
        [&](int i, family const& f, auto& a) {
          a.hidden = f.hidden.data();
          a.dz = f.dz.data();
          a.dgate = (dgate[i] = start(f.gate)).data();
          a.dup = (dup[i] = start(f.up)).data();
          a.ddown = (ddown[i] = start(f.down)).data();
        },
        p);
    products::down_weights(p, nullptr);
    products::up_weights(p, nullptr);
    each(
        [&](int i, family const& f, auto&) {
          int const F = f.width, D = s_.D;
          numbers want[3] = {numbers(f.gate.host.size()), numbers(f.up.host.size()),
                             numbers(f.down.host.size())};
          if (add) want[0] = f.gate.host, want[1] = f.up.host, want[2] = f.down.host;
          for (std::int64_t row = 0; row < f.rows; ++row) {
            std::int64_t const e = f.expert[at(row)], t = f.token[at(row)];
            if (t < 0) continue;
            for (int c = 0; c < F; ++c)
              for (int d = 0; d < D; ++d) {
                double const x = x_.host[at(t * D + d)], dy = dy_.host[at(t * D + d)];
                want[0][at((e * F + c) * D + d)] += f.dz.host[at(row * 2 * F + c)] * x;
                want[1][at((e * F + c) * D + d)] += f.dz.host[at(row * 2 * F + F + c)] * x;
                want[2][at((e * D + d) * F + c)] += f.hidden.host[at(row * F + c)] * dy;
              }
          }
          compare("dgate", dgate[i], want[0], s_.integers);
          compare("dup", dup[i], want[1], s_.integers);
          compare("ddown", ddown[i], want[2], s_.integers);
        },
        p);
  }

  void all() {
    up_forward();
    down_forward();
    if (map_.tile == 128) {
      down_backward();
      up_backward();
      weights(gradients::overwrite);
      weights(gradients::accumulate);
    }
  }

 private:
  array random(
      std::int64_t size, double scale = 1,
      std::function<bool(std::int64_t)> const& absent = [](std::int64_t) { return false; }) {
    std::uint64_t const seed = ++seed_;
    return array(size, [&](std::int64_t i) {
      auto const n = static_cast<std::uint64_t>(i);
      if (absent(i)) return std::nan("");
      if (s_.integers) return static_cast<double>(fg::random_word(seed, n) % 5) - 2.0;
      return scale * fg::random_normal(seed, n);
    });
  }
  family make(int width, int experts, std::vector<std::int32_t> const& token) {
    auto const rows = static_cast<std::int64_t>(token.size());
    auto const weights = [&](int fan_in) {
      return random(std::int64_t{experts} * s_.D * width, 1 / std::sqrt(fan_in + 1.0));
    };
    auto const of_rows = [&](std::int64_t columns) {  // pads are not read: NaN
      return random(rows * columns, 1, [&](std::int64_t i) { return token[at(i / columns)] < 0; });
    };
    family f{width,
             experts,
             rows,
             {},
             token,
             {},
             weights(s_.D),
             weights(s_.D),
             weights(width),
             of_rows(2 * width),
             of_rows(width),
             of_rows(2 * width),
             {}};
    return f;
  }
  device::expert_products<bf16> arguments() const {
    device::expert_products<bf16> p;
    p.hidden = s_.D;
    p.act = s_.act;
    p.rows = on_device_;
    p.routed = families_[0].arguments();
    p.shared = families_[1].arguments();
    p.x = x_.data();
    p.dy = dy_.data();
    return p;
  }
  template <class Do>
  void each(Do const& act, device::expert_products<bf16>& p) {
    act(0, families_[0], p.routed);
    if (s_.shared_F > 0) act(1, families_[1], p.shared);
  }
  /// left (rows of tokens or of experts, K) times an expert's weight(e, n, k).
  template <class Weight>
  numbers product(family const& f, array const& left, int K, int N, Weight const& weight,
                  bool by_token = true) {
    numbers out(at(f.rows * N));
    for (std::int64_t row = 0; row < f.rows; ++row) {
      if (f.token[at(row)] < 0) continue;
      std::int64_t const from = by_token ? f.token[at(row)] : row;
      for (int n = 0; n < N; ++n) {
        double sum = 0;
        for (int k = 0; k < K; ++k)
          sum += left.host[at(from * K + k)] * weight(f.expert[at(row)], n, k);
        out[at(row * N + n)] = sum;
      }
    }
    return out;
  }
  static void compare(char const* name, array const& got, numbers const& want, bool exact) {
    INFO(name);
    auto const values = download(got.memory);
    double largest = 0;
    for (double w : want) largest = std::max(largest, std::abs(w));
    int wrong = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      double const g = static_cast<float>(values[i]), w = want[i];
      bool const right = exact ? g == static_cast<float>(bf16(static_cast<float>(w)))
                               : std::abs(g - w) <= std::abs(w) / 256 + 1e-4 * largest;
      if (!right && ++wrong < 4) UNSCOPED_INFO(name << "[" << i << "] is " << g << ", not " << w);
    }
    CHECK(wrong == 0);
    int written = 0;
    for (std::size_t i = want.size(); i < values.size(); ++i) written += values[i].bits != 0xffff;
    CHECK(written == 0);
  }
  template <class... Arrays>
  static std::vector<std::uint16_t> bits(Arrays const&... arrays) {
    std::vector<std::uint16_t> all;
    auto const append = [&](array const& a) {
      for (bf16 b : download(a.memory)) all.push_back(b.bits);
    };
    (append(arrays), ...);
    return all;
  }
  template <class Product, class Check, class Bits>
  static void run(Product const& product, device::expert_products<bf16> const& p,
                  Check const& check, Bits const& bits) {
    product(p, nullptr);
    check();
    auto const before = bits();
    product(p, nullptr);
    CHECK(bits() == before);
  }

  shape s_;
  host_map map_;
  device_map on_device_;
  std::uint64_t seed_ = 0;
  array x_, dy_;
  family families_[2];
};

}  // namespace

TEST_CASE("blocks take each tile of a matrix once") {
  for (int rows : {0, 1, 7, 8, 9, 20})
    for (int columns : {1, 2, 11}) {
      std::vector<int> taken(at(rows * columns));
      for (int block = 0; block < rows * columns; ++block) {
        for (auto const [row, column] :
             {device::place_of(block, rows, columns), device::place_of<4>(block, rows, columns)}) {
          REQUIRE((row >= 0 && row < rows && column >= 0 && column < columns));
          ++taken[at(row * columns + column)];
        }
      }
      CHECK(taken == std::vector<int>(taken.size(), 2));
    }
}

TEST_CASE("portable products of small layers") {
  NEED_GPU();
  for (int tile : {32, 64, 128}) DYNAMIC_SECTION("tile " << tile) {
      auto const check = [&](char const* name, shape s, on_device::routing const& r) {
        INFO(name);
        layer(s, r, tile).all();
      };
      check("even", {64, 64, 128}, random_routing(64, 2, 4, 1));
      check("tails", {72, 40, 56}, random_routing(37, 3, 5, 2, 1, 1, 0.2));
      check("integers", {72, 136, 24, true}, random_routing(150, 2, 5, 3));
      check("geglu", {40, 136, 16, false, activation::geglu}, random_routing(90, 2, 3, 4));
      check("reglu", {40, 72, 16, false, activation::reglu}, random_routing(50, 2, 3, 4));
      check("limited", {40, 136, 16, false, {activation::swiglu, 0.5f}},
            random_routing(90, 2, 3, 4));
      check("reglu of 0", {24, 40, 8, true, activation::reglu}, random_routing(50, 2, 3, 4));
      check("all at one", {136, 264, 0}, all_at(150, 3, 1));
      check("one token", {72, 40, 48}, random_routing(1, 2, 8, 5));
      check("no token", {72, 40, 48}, random_routing(0, 2, 4, 6));
      check("narrow", {8, 8, 8}, random_routing(5, 1, 2, 7));
    }
}

TEST_CASE("portable products of many tiles", "[hardware]") {
  NEED_GPU();
  for (int tile : {32, 64, 128}) {
    INFO("tile " << tile);
    layer({200, 328, 264, true}, random_routing(420, 2, 3, 8, 1), tile).all();
    layer({264, 296, 328}, random_routing(300, 2, 4, 9, 1), tile).all();
  }
}

TEST_CASE("portable products refuse other tiles") {
  NEED_GPU();
  auto const r = random_routing(4, 1, 2, 1);
  CHECK_THROWS_WITH(layer({8, 8, 0}, r, 16).up_forward(), "up_forward has no tiles of 16 rows");
  CHECK_THROWS_WITH(layer({8, 8, 0}, r, 64).up_backward(), "up_backward has no tiles of 64 rows");
}
