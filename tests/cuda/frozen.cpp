// Frozen layers on the device against the specification with the weights that their codes mean.
// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <finegrain/cpu/cpu.hpp>
#include <finegrain/expr/describe.hpp>
#include <finegrain/io/frozen.hpp>
#include <optional>

#include "../catch.hpp"
#include "../cpu/codes.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

using namespace under_test;

namespace {

using fg::format;

/// What a network's codes mean, by the rules of the CPU's.
template <fg::Expr E, fg::format F, fg::format Rest = F>
numbers decoded(numbers w) {
  for (auto const& entry : fg::list_weights<E>()) {
    std::string const last = entry.name.substr(entry.name.rfind('.') + 1);
    auto const is_one_of = [&](std::initializer_list<char const*> names) {
      return std::find(names.begin(), names.end(), last) != names.end();
    };
    float* const first = w.data() + entry.offset;
    if (is_one_of({"gate", "up", "down"})) keep<F>(first, entry.rows, entry.cols);
    if (is_one_of({"weight", "query", "key", "value", "output", "q_proj", "q_a", "q_b", "kv_a"}))
      keep<Rest>(first, entry.rows, entry.cols);
  }
  return w;
}

/// Weights that bf16 holds, of about the size that layers begin with.
template <fg::Expr E>
numbers drawn(std::uint64_t seed) {
  numbers w(static_cast<std::size_t>(fg::weights_size<E>()));
  for (auto const& entry : fg::list_weights<E>()) {
    numbers const fresh = random_numbers(entry.rows * entry.cols, ++seed,
                                         1 / std::sqrt(static_cast<double>(entry.cols)));
    std::copy(fresh.begin(), fresh.end(), w.begin() + entry.offset);
  }
  return rounded(w);
}

template <fg::Expr E>
struct device_network : fg::network<E, fg::cuda> {
  explicit device_network(numbers const& w) {
    fg::place<fg::cuda>::store(this->on(), as_bf16(w), this->parameters());
  }
};

/// A network's outputs, in memory that nobody wrote.
template <class Network>
numbers run(Network const& net, numbers const& x, fg::batch b = {}) {
  constexpr int in = Network::in, out = Network::out;
  if constexpr (in > 0) b.tokens = static_cast<std::int64_t>(x.size()) / in;
  auto const from = upload(as_bf16(x));
  auto const to = unwritten<bf16>(b.tokens * out);
  auto const memory = unwritten<std::byte>(Network::workspace_bytes(net.extent_of(b.tokens)));
  net.infer(b, {from.data(), b.tokens, in}, {to.data(), b.tokens, out},
            {memory.data(), static_cast<std::size_t>(memory.size())});
  return as_numbers(download(to));
}

template <fg::Expr E, fg::format F, fg::format Rest = F>
void compare(std::vector<std::int64_t> const& sizes, fg::batch const& b = {}, bool alike = false) {
  numbers const w = drawn<E>(7);
  device_network<E> net(w);
  auto const frozen = fg::quantize<F, Rest>(net);
  exact_layer<E> exact;
  exact.set_weights(decoded<E, F, Rest>(w));
  for (std::int64_t const T : sizes) {
    if (on_device::emulated() && T > 70) continue;
    numbers x = rounded(random_numbers(T * net.in, 11));
    if (alike)  // every token at the same experts
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = x[i % std::size_t{net.in}];
    numbers const y = run(frozen, x, b);
    CAPTURE(fg::describe(E{}), T);
    auto const& expected = exact.forward(x, b);
    double const error = off(expected, y);
    if (!(error < 0.01))
      for (std::size_t i = 0, shown = 0; i < y.size() && shown < 4; ++i)
        if (!(std::abs(expected[i] - double(y[i])) < 0.02 + 0.02 * std::abs(expected[i]))) {
          UNSCOPED_INFO("y[" << i << "] " << y[i] << " for " << expected[i]);
          ++shown;
        }
    CHECK(error < 0.01);
    if (on_device::order_varies()) CHECK(same(run(frozen, x, b), y));
  }
}

constexpr fg::config small{.hidden = 72, .width = 40, .routed = 6, .top_k = 2, .shared = 2};
constexpr fg::config gated{
    .hidden = 264, .width = 136, .routed = 9, .top_k = 3, .shared = 1, .shared_gate = true};
constexpr fg::config sparse{.hidden = 128, .width = 96, .routed = 40, .top_k = 1};

}  // namespace

TEMPLATE_TEST_CASE_SIG("a frozen layer on the device computes with what its codes mean", "",
                       ((fg::format F), F), format::int8, format::int8_block, format::fp8,
                       format::int4) {
  NEED_GPU();
  compare<fg::mixture<small>, F>({1, 3, 7, 20, 60, 200, 700});
  compare<fg::mixture<gated>, F>({1, 5, 16, 65, 150, 513});
  compare<fg::mixture<sparse>, F>({1, 30, 300, 2600});
}
TEMPLATE_TEST_CASE_SIG("frozen: all tokens at the same experts; parts of a layer; requests", "",
                       ((fg::format F), F), format::int8, format::int8_block, format::fp8,
                       format::int4) {
  NEED_GPU();
  compare<fg::mixture<small>, F>({2, 8, 45, 130, 400}, {}, true);
  compare<fg::shared_experts<small>, F>({1, 40, 200});
  compare<fg::routed_experts<gated>, F>({1, 40, 200});
  fg::batch b;
  b.routing.top_k = 1, b.routing.shared = false;
  compare<fg::mixture<small>, F>({1, 9, 100}, b);
  constexpr fg::config geglu{
      .hidden = 64, .width = 200, .routed = 4, .top_k = 1, .act = fg::activation::geglu};
  compare<fg::mixture<geglu>, F>({1, 50, 500});
  compare<fg::mixture<layers::relu>, F>({1, 50, 300});
  compare<fg::mixture<layers::limited>, F>({1, 50, 300});
}
TEMPLATE_TEST_CASE_SIG("frozen: the layer with its norm and residual, several of them", "",
                       ((fg::format F), F), format::int8, format::fp8, format::int4) {
  NEED_GPU();
  constexpr auto block = fg::residual(fg::rmsnorm<72>{} | fg::mixture<small>{});
  compare<std::remove_const_t<decltype(block)>, F>({1, 12, 90});
  constexpr auto two = fg::repeat<2>(fg::residual(fg::rmsnorm<72>{} | fg::mixture<small>{}));
  numbers const w = drawn<std::remove_const_t<decltype(two)>>(3);
  device_network<std::remove_const_t<decltype(two)>> const net(w);
  numbers const x = rounded(random_numbers(30 * 72, 5));
  numbers const y = run(net, x);
  CHECK(off({y.begin(), y.end()}, run(fg::quantize<F>(net), x)) < (F == format::int4 ? 0.3 : 0.1));
}
TEMPLATE_TEST_CASE_SIG("frozen products, mlp and attention compute with what their codes mean", "",
                       ((fg::format F), F), format::int8, format::int8_block, format::fp8,
                       format::int4) {
  NEED_GPU();
  std::vector<std::int64_t> const sizes = {1, 3, 12, 64, 65, 200};
  compare<fg::linear<72, 40>, F>(sizes);
  compare<fg::linear<264, 136>, F>(sizes);
  compare<fg::head<608, 203>, F>({1, 17, 65});
  compare<fg::mlp<72, 40>, F>(sizes);
  compare<fg::mlp<264, 136, fg::activation::geglu>, F>({1, 9, 64, 65, 150});
  compare<fg::attention<72, 3, 1, 24>, F>({1, 20, 65, 130});
  constexpr auto block = fg::residual(fg::rmsnorm<64>{} | fg::attention<64, 4, 2, 40>{});
  compare<std::remove_const_t<decltype(block)>, F>({2, 64, 70});
  compare<fg::attention<64, 4, 2, 40, fg::attention_form{.bias = true}>, F>({2, 70});
  compare<fg::attention<64, 4, 2, 40, fg::attention_form{.norm = fg::head_norm::each}>, F>({2, 70});
}
TEMPLATE_TEST_CASE_SIG("frozen latent attention, its kv_b in bf16; with a cache", "",
                       ((fg::format F), F), format::int8, format::int8_block, format::fp8,
                       format::int4) {
  NEED_GPU();
  using straight =
      fg::latent_attention<64, 3, fg::latent{.kv_rank = 40, .nope = 16, .rope = 8, .value = 24}>;
  using compressed = fg::latent_attention<
      72, 5, fg::latent{.q_rank = 32, .kv_rank = 72, .nope = 24, .rope = 16, .value = 16}>;
  compare<straight, F>({1, 20, 64, 65});
  compare<compressed, F>({3, 70});
  numbers const w = drawn<compressed>(7), x = rounded(random_numbers(80 * 72, 11));
  device_network<compressed> const net(w);
  auto frozen = fg::quantize<F>(net);
  exact_layer<compressed> exact;
  exact.set_weights(decoded<compressed, F>(w));
  auto cache = frozen.make_cache(80);
  auto const from = upload(as_bf16(x));
  auto const to = unwritten<bf16>(80 * 72);
  frozen.infer({.tokens = 66}, {from.data(), 66, 72}, {to.data(), 66, 72}, &cache);
  frozen.infer({.tokens = 1}, {from.data() + 66 * 72, 1, 72}, {to.data() + 66 * 72, 1, 72}, &cache);
  frozen.infer({.tokens = 13}, {from.data() + 67 * 72, 13, 72}, {to.data() + 67 * 72, 13, 72},
               &cache);
  CHECK(off(exact.forward(x, {}), as_numbers(download(to))) < 0.012);
}
TEMPLATE_TEST_CASE_SIG("frozen: experts in one format and the rest in another", "",
                       ((fg::format F, fg::format Rest), F, Rest), (format::int4, format::int8),
                       (format::int8, format::int4), (format::fp8, format::bf16),
                       (format::bf16, format::fp8), (format::int4, format::int8_block)) {
  NEED_GPU();
  using E = fg::then<fg::residual_of<fg::then<fg::rmsnorm<72>, fg::mixture<small>>>,
                     fg::then<fg::mlp<72, 104>, fg::head<72, 96>>>;
  numbers const w = drawn<E>(7), x = rounded(random_numbers(70 * 72, 11));
  numbers const some(x.begin(), x.begin() + 5 * 72);
  device_network<E> net(w);
  auto const both = fg::quantize<F, Rest>(net);
  constexpr auto own = [](format f) { return f == format::bf16; };
  exact_layer<E> exact;
  auto of = w;  // what is not in codes stays
  if constexpr (!own(F) && !own(Rest)) of = decoded<E, F, Rest>(w);
  if constexpr (own(F) || own(Rest)) {
    constexpr format coded = own(F) ? Rest : F;
    of = decoded<E, coded>(w);
    for (auto const& entry : fg::list_weights<E>())
      if ((entry.name.ends_with("weight") ? own(Rest) : own(F)))
        std::copy_n(w.begin() + entry.offset, entry.rows * entry.cols, of.begin() + entry.offset);
  }
  exact.set_weights(of);
  CHECK(off(exact.forward(some, {}), run(both, some)) < 0.01);
  CHECK(off(exact.forward(x, {}), run(both, x)) < 0.01);
  CHECK(off(exact.forward(some, {}), run(net, some)) > 0.01);  // codes do matter
}
TEMPLATE_TEST_CASE_SIG("frozen: a whole decoder", "", ((fg::format F, fg::format Rest), F, Rest),
                       (format::int4, format::int4), (format::int4, format::int8),
                       (format::int8_block, format::fp8)) {
  NEED_GPU();
  using E = tiny::decoder;
  numbers const w = drawn<E>(4);
  device_network<E> const net(w);
  auto const frozen = fg::quantize<F, Rest>(net);
  exact_layer<E> exact;
  exact.set_weights(decoded<E, F, Rest>(w));
  tiny::text const text(80);
  for (std::int64_t const T : on_device::sizes_here({5, 80})) {
    CAPTURE(T);
    fg::batch const b{.tokens = T, .ids = text.inputs().first(std::size_t(T))};
    CHECK(off(exact.forward({}, b), run(frozen, {}, b)) < 0.02);
    CHECK(off(exact.forward({}, b), run(net, {}, b)) > 0.02);  // codes do matter
  }
}
TEST_CASE("frozen: int4's codes and scales are the CPU's, bit for bit") {
  NEED_GPU();
  for (auto [out, in] : {std::array<std::int64_t, 2>{300, 200}, {40, 64}, {17, 128}, {33, 456}}) {
    CAPTURE(out, in);
    numbers w = random_numbers(in * out, 3, 0.1);
    for (std::int64_t i = 0; i < in * out; ++i) {
      std::int64_t const block = i / in * 5 + i % in / 32 * 3, of_four = i / in * 7 + i % in / 128;
      float& x = w[std::size_t(i)];
      x *= std::ldexp(1.0f, of_four % 11 == 0 ? -120 : int(of_four % 11) - 5) /
           float(1 + block % 19);
      if (block % 13 == 0) x = 0;
      if (block % 17 == 1) x = std::copysign(0.25f, x);
    }
    w = rounded(w);
    w[std::size_t(in + 40)] = std::numeric_limits<float>::infinity();
    w[std::size_t(2 * in + 7)] = 0x1p115f;
    fg::arena counting;
    static_cast<void>(fg::device::coded_matrix(counting, format::int4, out, in));
    auto const memory = unwritten<std::byte>(counting.used());
    fg::arena arena(memory.data(), memory.size());
    fg::device::coded_matrix const coded(arena, format::int4, out, in);
    fg::device::coded_linear<bf16, format::int4>::pack(upload(as_bf16(w)).data(), coded, nullptr);
    auto const bytes =
        download(coded.codes, (out + 15) / 16 * fg::device::panel_bytes(format::int4, in));
    int wrong = 0;
    for (std::int64_t r = 0; r < out; ++r) {
      std::vector<float> const scales = int4_scales(w.data() + r * in, in);
      for (std::int64_t c = 0; c < in; ++c) {
        std::int64_t const g = r % 8, half = r / 8 % 2, part = c / 32 % 2;
        std::uint8_t const* const step = bytes.data() +
                                         r / 16 * fg::device::panel_bytes(format::int4, in) +
                                         c / 64 * fg::device::panel_step(format::int4);
        std::uint16_t got;
        std::memcpy(&got, step + 512 + (4 * g + 2 * part + half) * 2, sizeof got);
        float const scale = scales[std::size_t(c / 32)], x = w[std::size_t(r * in + c)];
        wrong += std::isnan(scale) ? !std::isnan(float(std::bit_cast<bf16>(got)))
                                   : got != std::bit_cast<std::uint16_t>(bf16(scale));
        if (std::isnan(scale)) continue;
        std::uint32_t word;
        std::memcpy(&word, step + (4 * g + c % 32 / 8) * 16 + half * 8 + part * 4, sizeof word);
        wrong += (word >> (c % 8 / 2 * 4 + c % 2 * 16) & 15) !=
                 nearest_code<format::int4>(scale == 0 ? 0 : x / scale);
      }
    }
    CHECK(wrong == 0);
  }
}
TEMPLATE_TEST_CASE_SIG("frozen: a product with codes, added to columns of a wider matrix", "",
                       ((fg::format F), F), format::int8, format::int8_block, format::fp8,
                       format::int4) {
  NEED_GPU();
  using codes = fg::device::coded_linear<bf16, F>;
  constexpr std::int64_t in = 200, out = 300, wide = 336, left = 24;
  numbers w = rounded(random_numbers(in * out, 3, 0.1));
  fg::device::blas const library;
  fg::arena counting;
  static_cast<void>(fg::device::coded_matrix(counting, F, out, in));
  auto const memory = unwritten<std::byte>(counting.used());
  fg::arena arena(memory.data(), memory.size());
  fg::device::coded_matrix const coded(arena, F, out, in);
  codes::pack(upload(as_bf16(w)).data(), coded, nullptr);
  keep<F>(w.data(), out, in);
  for (std::int64_t const T : on_device::sizes_here({7, 64, 100})) {
    CAPTURE(T);
    numbers const x = rounded(random_numbers(T * 2 * in, 5)),
                  y = rounded(random_numbers(T * wide, 6));
    auto const from = upload(as_bf16(x));
    std::vector<double> expected(y.begin(), y.end());
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t i = 0; i < in; ++i)
          expected[std::size_t(t * wide + left + o)] +=
              double(x[std::size_t(t * 2 * in + in + i)]) * double(w[std::size_t(o * in + i)]);
    numbers first;
    for (std::int64_t const rows : {128, 300, 304}) {  // of the weight that are made at a time
      auto const to = upload(as_bf16(y));
      auto const scratch = unwritten<bf16>(rows * in);
      codes::forward(library, {from.data() + in, T, in, 2 * in}, coded, fg::gradients::accumulate,
                     {to.data() + left, T, out, wide}, {scratch.data(), rows, in}, nullptr);
      numbers const got = as_numbers(download(to));
      CHECK(off(expected, got) < 0.01);
      for (std::int64_t t = 0; t < T; ++t)  // nothing beside them is written
        for (std::int64_t c = 0; c < wide; ++c)
          if (c < left || c >= left + out)
            REQUIRE(got[std::size_t(t * wide + c)] == y[std::size_t(t * wide + c)]);
    }
  }
}
TEST_CASE("frozen: a token has the same bits alone and among 64; a cache changes none") {
  NEED_GPU();
  using attends = fg::residual_of<fg::then<fg::rmsnorm<64>, fg::attention<64, 4, 2, 16>>>;
  using rest = fg::then<fg::mlp<64, 104>, fg::head<64, 51>>;
  numbers const x = rounded(random_numbers(64 * 64, 5));
  auto const in_pieces = [&]<fg::Expr E>(E, std::vector<std::int64_t> const& sizes) {
    device_network<E> const net(drawn<E>(3));
    auto frozen = fg::quantize<format::int4, format::int8>(net);
    std::optional<fg::cache_of<fg::cuda>> cache;
    if (fg::cache_width(E{}) > 0) cache = frozen.make_cache(64);
    auto const from = upload(as_bf16(x));
    auto const to = unwritten<bf16>(64 * net.out);
    std::int64_t at = 0;
    for (std::int64_t const some : sizes) {
      frozen.infer({.tokens = some}, {from.data() + at * 64, some, 64},
                   {to.data() + at * net.out, some, net.out}, cache ? &*cache : nullptr);
      at += some;
    }
    CHECK(at == 64);
    CHECK(same(as_numbers(download(to)), run(frozen, x)));
  };
  in_pieces(rest{}, {1, 9, 33, 1, 4, 16});
  in_pieces(fg::then<attends, rest>{}, {20, 17, 27});  // fewer tokens share out a cache's keys
}
TEST_CASE("frozen: rows that codes are to meet start on borders of 16 bytes") {
  NEED_GPU();
  device_network<fg::linear<64, 8>> const net(drawn<fg::linear<64, 8>>(3));
  auto frozen = fg::quantize<format::int8>(net);
  auto const x = upload(as_bf16(numbers(200)));
  auto const y = unwritten<bf16>(16);
  CHECK_THROWS_WITH(frozen({x.data() + 1, 1, 64}, {y.data(), 1, 8}),
                    ContainsSubstring("borders of 16 bytes"));
  CHECK_THROWS_WITH(frozen({x.data(), 2, 64, 65}, {y.data(), 2, 8}),
                    ContainsSubstring("borders of 16 bytes"));
}
TEST_CASE("a frozen router keeps what 16 bits round away of its biases") {
  NEED_GPU();
  static constexpr fg::config c{.hidden = 72,
                                .width = 40,
                                .routed = 16,
                                .top_k = 2,
                                .score = fg::score::sigmoid,
                                .bias = true};
  using E = fg::mixture<c>;
  auto const with_rests = [](float rest) {
    numbers w = drawn<E>(9);
    for (auto const& entry : fg::list_weights<E>())
      if (entry.role == fg::role::selection_bias)
        for (std::int64_t e = 0; e < c.routed; ++e) {
          std::int64_t const at = entry.offset + e;
          w[std::size_t(at)] = 64;  // whose neighbour in bf16 is 64.5
          w[std::size_t(at + fg::detail::padded(c.routed))] = rest / float(1 + e);
        }
    return w;
  };
  numbers const x = rounded(random_numbers(200 * c.hidden, 3));
  device_network<E> const net(rounded(with_rests(0.2f)));
  numbers const y = run(net, x);
  std::vector<double> const expected(y.begin(), y.end());
  CHECK(off(expected, run(device_network<E>(with_rests(0)), x)) > 0.1);  // they matter
  CHECK(off(expected, run(fg::quantize<format::int8>(net), x)) < 0.05);
}
TEST_CASE("frozen in fp8, with activations in fp8 too where the executor says so") {
  NEED_GPU();
  constexpr fg::config c{.hidden = 264, .width = 200, .routed = 4, .top_k = 2, .shared = 1};
  using E = fg::mixture<c>;
  numbers const w = drawn<E>(7);
  device_network<E> net(w);
  auto frozen = fg::quantize<format::fp8>(net);
  exact_layer<E> exact;
  exact.set_weights(decoded<E, format::fp8>(w));
  for (std::int64_t const T : on_device::sizes_here({1, 40, 200, 1000})) {
    CAPTURE(T);
    numbers const x = rounded(random_numbers(T * 264, 11));
    frozen.on().activations = format::bf16;
    numbers const y = run(frozen, x);
    frozen.on().activations = format::fp8;
    numbers const z = run(frozen, x);
    auto const& expected = exact.forward(x, {});
    CHECK(off(expected, z) < 0.08);
    CHECK(same(run(frozen, x), z));
    if (T < 190 || !fg::device::fp8_products<bf16>::available()) {  // few tokens: nothing else
      CHECK(same(y, z));
    } else {
      CHECK(off(expected, z) > 3 * off(expected, y));
    }
  }
}
TEST_CASE("frozen in bf16 or f32 a network on the device is what it was") {
  NEED_GPU();
  using E = fg::mixture<small>;
  auto net = std::make_unique<device_network<E>>(drawn<E>(3));
  numbers const x = rounded(random_numbers(50 * 72, 5));
  numbers const y = run(*net, x);
  auto const copy = fg::quantize<format::bf16>(*net);
  auto const other = fg::quantize<format::f32>(*net);
  auto const codes = fg::quantize<format::int8>(*net);
  numbers const z = run(codes, x);
  fg::device::runtime::fill(net->parameters().data(), 0xff,
                            std::int64_t(net->parameters().size_bytes()), nullptr);
  net.reset();
  CHECK(same(run(copy, x), y));
  CHECK(same(run(other, x), y));
  CHECK(same(run(codes, x), z));
}
TEST_CASE("frozen: weights of the device that are not finite are not quantised") {
  NEED_GPU();
  using E = fg::mixture<small>;
  numbers w = drawn<E>(3);
  std::int64_t at = 0;
  for (auto const& entry : fg::list_weights<E>())
    if (entry.name == "experts.3.gate") at = entry.offset + 5;
  w[std::size_t(at)] = infinity;
  device_network<E> const net(w);
  CHECK_THROWS_WITH(fg::quantize<format::int4>(net),
                    ContainsSubstring("\"experts.3.gate\" has a weight that is not finite"));
  CHECK_NOTHROW(fg::quantize<format::bf16>(net));
}
TEMPLATE_TEST_CASE_SIG("frozen: packed weights come back out of a file", "",
                       ((fg::format F, fg::format Rest), F, Rest), (format::int4, format::int8),
                       (format::fp8, format::int8_block), (format::bf16, format::bf16)) {
  NEED_GPU();
  using E = fg::then<fg::mixture<small>, fg::then<fg::rmsnorm<72>, fg::head<72, 96>>>;
  using frozen = fg::frozen<E, fg::cuda, fg::formats(F, Rest)>;
  folder const here;
  device_network<E> const net(drawn<E>(7));
  frozen const made(net);
  fg::save_weights(made, here / "w");
  auto const read = fg::load_weights<frozen>(here / "w");
  for (auto const [at, bytes] : frozen::arrays())
    CHECK(same_bits(download(made.packed().data() + at, bytes),
                    download(read.packed().data() + at, bytes)));
  numbers const x = rounded(random_numbers(5 * 72, 11));
  CHECK(same(run(read, x), run(made, x)));
  using of_host = fg::frozen<E, fg::cpu, fg::formats(F, Rest)>;
  CHECK_THROWS_WITH(
      fg::load_weights<of_host>(here / "w"),
      ContainsSubstring("the executor: \"cuda, numbers of bf16\" in the file, \"cpu\" here"));
  using other = fg::frozen<E, fg::cuda, fg::formats(F, format::fp8)>;
  CHECK_THROWS_WITH(fg::load_weights<other>(here / "w"),
                    ContainsSubstring("the rest: \"" + fg::packed_form<fg::cuda>::text<Rest>() +
                                      "\" in the file, \"fp8\" here"));
}
TEMPLATE_TEST_CASE("frozen: packed weights say the network's numbers, whatever the formats", "",
                   bf16, fg::fp16, float) {
  using E = fg::rmsnorm<72>;  // of the network's numbers in every format
  auto const facts = []<class T, format F>(T, std::integral_constant<format, F>) {
    std::string text;
    for (auto const& fact :
         fg::detail::packed_facts<fg::frozen<E, fg::basic_cuda<T>, fg::formats(F)>>())
      text += fact.value + "; ";
    return text;
  };
  auto const check = [&](auto form) {
    std::string const mine = facts(TestType(), form);
    CHECK((mine == facts(bf16(), form)) == std::is_same_v<TestType, bf16>);
    CHECK((mine == facts(fg::fp16(), form)) == std::is_same_v<TestType, fg::fp16>);
    CHECK((mine == facts(float(), form)) == std::is_same_v<TestType, float>);
  };
  check(std::integral_constant<format, format::int4>());
  check(std::integral_constant<format, format::fp8>());
  check(std::integral_constant<format, format::bf16>());
  check(std::integral_constant<format, format::f32>());
}
TEST_CASE("codes on the device take the bytes that their formats say") {
  constexpr fg::config c{.hidden = 2048, .width = 1408, .routed = 64, .top_k = 6, .shared = 2};
  constexpr double n = double(fg::weights_size<fg::mixture<c>>());
  constexpr auto bytes = []<fg::format F>(std::integral_constant<fg::format, F>) {
    return double(fg::frozen<fg::mixture<c>, fg::cuda, F>::weight_bytes());
  };
  static_assert(bytes(std::integral_constant<format, format::int8>()) < 1.01 * n);
  static_assert(bytes(std::integral_constant<format, format::fp8>()) < 1.01 * n);
  static_assert(bytes(std::integral_constant<format, format::int8_block>()) < 1.07 * n);
  static_assert(bytes(std::integral_constant<format, format::int4>()) < 0.57 * n);
  CHECK(bytes(std::integral_constant<format, format::bf16>()) < 2.01 * n);

  using dense =
      fg::then<fg::attention<2048, 16>, fg::then<fg::mlp<2048, 10944>, fg::head<2048, 102400>>>;
  using E = fg::then<fg::mixture<c>, dense>;
  constexpr double m = double(fg::weights_size<dense>()), k = 2048.0 * 102400 + 4 * 2048.0 * 2048;
  static_assert(fg::frozen<E, fg::cuda, format::int4>::weight_bytes() < 0.57 * (m + n));
  static_assert(fg::frozen<E, fg::cuda, fg::formats(format::int4, format::int8)>::weight_bytes() <
                0.57 * (m + n - k) + 1.01 * k);
  static_assert(fg::frozen<E, fg::cuda, fg::formats(format::int4, format::bf16)>::weight_bytes() >
                2.00 * k);
  // A head's weight is made in pieces of 32 MB.
  using head = fg::head<2048, 102400>;
  constexpr auto scratch = [](std::int64_t tokens, format f) {
    return fg::scratch_bytes<fg::cuda, head>({.tokens = tokens, .frozen = f});
  };
  static_assert(scratch(64, format::int8) == 0);
  static_assert(scratch(65, format::int8) == 32 << 20);
  static_assert(scratch(4096, format::bf16) == 0);
}
