// The reference's mixture layer: the laws that a DeepSeekMoE layer obeys.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "layer.hpp"

namespace {

using namespace under_test;
constexpr int D = 5;
constexpr fg::config small{.hidden = D, .width = 3, .routed = 6, .top_k = 2, .shared = 1};
constexpr fg::config v3{.hidden = D,
                        .width = 3,
                        .routed = 6,
                        .top_k = 2,
                        .shared = 2,
                        .score = fg::score::sigmoid,
                        .renormalise = true,
                        .scale = 2.5,
                        .groups = 3,
                        .group_limit = 2,
                        .group_score = fg::group_score::top2_sum,
                        .bias = true};

void add(numbers const& from, numbers& to, double factor = 1) {
  REQUIRE(from.size() == to.size());
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += factor * from[i];
}
void copy(fg::matrix<double> from, fg::matrix<double> to) {
  REQUIRE(from.size() == to.size());
  std::copy_n(from.data, from.size(), to.data);
}
/// Gives `to` the weights of one expert.
template <class From, class To>
void copy_expert(From const& from, To const& to) {
  copy(from.gate, to.gate), copy(from.up, to.up), copy(from.down, to.down);
}

TEST_CASE("with K = R the layer is the dense sum of all experts, each times its score") {
  constexpr fg::config c{.hidden = D, .width = 3, .routed = 4, .top_k = 4};
  layer<fg::mixture<c>> moe;
  layer<fg::mlp<D, 3>> expert;
  numbers const x = random_numbers(3 * D, 2);
  numbers logits(12), sum(3 * D, 0);
  linear_forward(on, view(x, 3, D), moe.weights().router, view(logits, 3, 4));
  for (int i = 0; i < 4; ++i) {
    copy_expert(fg::spec::expert_of<double>(moe.weights(), i), expert.weights());
    numbers const y = expert.forward(x);
    for (int t = 0; t < 3; ++t) {
      double total = 0;
      for (int j = 0; j < 4; ++j) total += std::exp(logits[std::size_t(4 * t + j)]);
      double const weight = std::exp(logits[std::size_t(4 * t + i)]) / total;
      for (std::size_t d = 0; d < D; ++d)
        sum[std::size_t(t * D) + d] += weight * y[std::size_t(t * D) + d];
    }
  }
  CHECK(largest_difference(moe.forward(x), sum) < 1e-13);
}

constexpr fg::config one{.hidden = D, .width = 3, .routed = 1, .top_k = 1};

TEST_CASE("one routed expert, whose weight is 1, is a feed-forward block, bit for bit") {
  layer<fg::mixture<one>> moe;
  layer<fg::mlp<D, 3>> block;
  copy_expert(fg::spec::expert_of<double>(moe.weights(), 0), block.weights());
  numbers const x = random_numbers(4 * D, 2), dy = random_numbers(4 * D, 3);
  CHECK(same(moe.train(x, dy), block.train(x, dy)));
  CHECK(largest_difference(moe.dx, block.dx) < 1e-14);
  CHECK(largest_difference({moe.gradients().down.data, moe.gradients().down.data + 3 * D},
                           {block.gradients().down.data, block.gradients().down.data + 3 * D}) <
        1e-14);
  for (int d = 0; d < D; ++d) CHECK(moe.gradients().router(0, d) == 0);
}

TEST_CASE("a shared expert is an expert that every token is always routed to, with weight 1") {
  constexpr fg::config c{.hidden = D, .width = 3, .routed = 4, .top_k = 1, .shared = 1};
  layer<fg::shared_experts<c>> shared;
  layer<fg::routed_experts<one>> routed;
  copy_expert(shared.weights(), fg::spec::expert_of<double>(routed.weights(), 0));
  numbers const x = random_numbers(4 * D, 2), dy = random_numbers(4 * D, 3);
  CHECK(same(shared.train(x, dy), routed.train(x, dy)));
  CHECK(largest_difference(shared.dx, routed.dx) < 1e-14);
}

TEST_CASE("a mixture is its shared experts plus its routed experts") {
  layer<fg::mixture<v3>> moe;
  layer<fg::shared_experts<v3>> shared;
  layer<fg::routed_experts<v3>> routed;
  std::copy_n(moe.w.begin(), shared.w.size(), shared.w.begin());
  std::copy_n(moe.w.begin() + std::int64_t(shared.w.size()), routed.w.size(), routed.w.begin());
  numbers const x = random_numbers(4 * D, 2);
  numbers sum = shared.forward(x);
  add(routed.forward(x), sum);
  CHECK(same(moe.forward(x), sum));
}

/// C's experts cut into two, a copy of each router row and half of each expert's width a slice.
template <fg::config C>
auto segmented(layer<fg::routed_experts<C>>& whole) {
  constexpr int F = C.width / 2;
  layer<fg::routed_experts<C.segmented(2)>> fine;
  auto const from = whole.weights();
  auto const to = fine.weights();
  for (int i = 0; i < C.routed; ++i)
    for (int half = 0; half < 2; ++half) {
      int const slice = 2 * i + half;
      copy(from.router.middle_rows(i, 1), to.router.middle_rows(slice, 1));
      copy(from.gate[i].middle_rows(half * F, F), to.gate[slice]);
      copy(from.up[i].middle_rows(half * F, F), to.up[slice]);
      for (int d = 0; d < D; ++d)
        for (int f = 0; f < F; ++f) to.down[slice](d, f) = from.down[i](d, half * F + f);
    }
  return fine;
}

TEST_CASE("fine-grained segmentation of a layer leaves its output, but for the softmax's halves") {
  constexpr fg::config c{.hidden = D, .width = 4, .routed = 5, .top_k = 2};
  layer<fg::routed_experts<c>> whole;
  auto fine = segmented<c>(whole);
  numbers const x = random_numbers(6 * D, 2);
  numbers halves = fine.forward(x);
  add(numbers(halves), halves);  // every score is shared between two slices
  CHECK(largest_difference(halves, whole.forward(x)) < 1e-13);

  constexpr auto sigmoid = [](fg::config o) {
    o.score = fg::score::sigmoid;
    return o;
  };
  layer<fg::routed_experts<sigmoid(c)>> alone;
  alone.w = whole.w;
  CHECK(largest_difference(segmented<sigmoid(c)>(alone).forward(x), alone.forward(x)) < 1e-13);
}

TEST_CASE("a layer sees tokens one by one: a batch split in two has the bits of the whole") {
  layer<fg::mixture<v3>> moe;
  numbers const a = random_numbers(3 * D, 2), b = random_numbers(4 * D, 3);
  CHECK(same(moe.forward(joined(a, b)), joined(moe.forward(a), moe.forward(b))));
  CHECK(same(moe.forward(joined(b, a)), joined(moe.forward(b), moe.forward(a))));
}

TEST_CASE("permuting the tokens permutes outputs and dx, and leaves the weights' gradients") {
  layer<fg::mixture<v3>> moe;
  numbers const x = random_numbers(4 * D, 2), dy = random_numbers(4 * D, 3);
  auto const turned = [](numbers const& m) { return joined(rows(m, D, 3, 1), rows(m, D, 0, 3)); };
  numbers const y = moe.train(x, dy), dx = moe.dx, dw = moe.all_gradients();
  CHECK(same(moe.train(turned(x), turned(dy)), turned(y)));
  CHECK(same(moe.dx, turned(dx)));
  CHECK(largest_difference(moe.all_gradients(), dw) < 1e-13);
}

TEST_CASE("relabelling the experts changes nothing but the labels") {
  layer<fg::routed_experts<small>> moe, other;
  auto const from = moe.weights();
  auto const to = other.weights();
  int const label[] = {4, 2, 0, 5, 1, 3};
  for (int i = 0; i < 6; ++i) {
    copy(from.router.middle_rows(i, 1), to.router.middle_rows(label[i], 1));
    copy_expert(fg::spec::expert_of<double>(from, i), fg::spec::expert_of<double>(to, label[i]));
  }
  numbers const x = random_numbers(5 * D, 2), dy = random_numbers(5 * D, 3);
  CHECK(largest_difference(moe.train(x, dy), other.train(x, dy)) < 1e-14);
  CHECK(largest_difference(moe.dx, other.dx) < 1e-14);
  for (int i = 0; i < 6; ++i)
    CHECK(moe.gradients().up[i](1, 2) == Approx(other.gradients().up[label[i]](1, 2)));
}

TEST_CASE("a token of NaN, or of infinities, spoils its own row alone") {
  layer<fg::mixture<v3>> moe;
  numbers const x = random_numbers(3 * D, 2), y = moe.forward(x);
  for (double bad : {poison, infinity, -infinity}) {
    numbers spoilt = x;
    spoilt[D + 1] = bad;
    numbers const z = moe.forward(spoilt);
    CHECK(same(rows(y, D, 0, 1), rows(z, D, 0, 1)));
    CHECK(same(rows(y, D, 2, 1), rows(z, D, 2, 1)));
  }
}

TEST_CASE("experts without tokens have a gradient of exactly 0, or keep what they had") {
  layer<fg::routed_experts<small>> moe;
  numbers const x = random_numbers(D, 2), dy = random_numbers(D, 3);  // one token, two experts
  for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
    bool const overwrite = mode == fg::gradients::overwrite;
    moe.train(x, dy, {}, mode, overwrite ? poison : 8);
    int idle = 0;
    for (int i = 0; i < 6; ++i) {
      bool untouched = true;
      for (auto m : {moe.gradients().gate[i], moe.gradients().up[i], moe.gradients().down[i]})
        for (std::int64_t j = 0; j < m.size(); ++j) {
          CHECK(std::isfinite(m.data[j]));
          untouched &= m.data[j] == (overwrite ? 0 : 8);
        }
      idle += untouched;
    }
    CHECK(idle == 4);
  }
}

TEST_CASE("accumulating adds exactly one more gradient") {
  layer<fg::mixture<v3>> moe;
  numbers const x = random_numbers(4 * D, 2), dy = random_numbers(4 * D, 3);
  moe.train(x, dy);
  numbers sum = moe.all_gradients(), dx = moe.dx;
  add(numbers(sum.size(), 3), sum);
  moe.train(x, dy, {}, fg::gradients::accumulate, 3);
  CHECK(largest_difference(moe.all_gradients(), sum) < 1e-13);
  CHECK(same(moe.dx, dx));
}

TEST_CASE("the selection bias has a gradient of 0") {
  layer<fg::routed_experts<v3>> moe;
  moe.train(random_numbers(2 * D, 2), random_numbers(2 * D, 3));
  for (int i = 0; i < 6; ++i) CHECK(moe.gradients().bias(0, i) == 0);
}

TEST_CASE("a layer takes a batch without tokens") {
  layer<fg::mixture<v3>> moe;
  CHECK(moe.train({}, {}, {.routing = {.balance = {.expert = 1}}}).empty());
  for (double g : moe.all_gradients()) CHECK(g == 0);
}

TEST_CASE("a shared gate weighs the shared experts' sum with sigmoid(x . gate)") {
  constexpr fg::config c{
      .hidden = D, .width = 3, .routed = 2, .top_k = 1, .shared = 2, .shared_gate = true};
  layer<fg::shared_experts<c>> gated;
  layer<fg::mlp<D, 6>> block;
  copy_expert(gated.weights(), block.weights());
  numbers const x = random_numbers(3 * D, 2), y = gated.forward(x), raw = block.forward(x);
  for (std::size_t t = 0; t < 3; ++t) {
    double const z = fg::spec::dot(x.data() + t * D, gated.weights().shared_gate.data, D);
    for (std::size_t d = 0; d < D; ++d)
      CHECK(y[t * D + d] == Approx(raw[t * D + d] / (1 + std::exp(-z))));
  }
}

// ---- requests and reports -------------------------------------------------------------------------

TEST_CASE("without its shared experts a layer is its routed experts, forward and backward") {
  constexpr fg::config c{
      .hidden = D, .width = 3, .routed = 6, .top_k = 2, .shared = 2, .shared_gate = true};
  layer<fg::mixture<c>> moe;
  layer<fg::routed_experts<c>> routed;
  copy(moe.weights().b.router, routed.weights().router);
  for (int i = 0; i < 6; ++i)
    copy_expert(fg::spec::expert_of<double>(moe.weights().b, i),
                fg::spec::expert_of<double>(routed.weights(), i));
  numbers const x = random_numbers(3 * D, 2), dy = random_numbers(3 * D, 3);
  fg::batch const off{.routing = {.shared = false}};
  CHECK(moe.train(x, dy, off) == routed.train(x, dy));
  CHECK(moe.dx == routed.dx);
  auto const d = moe.gradients().a;
  for (auto m : {d.gate, d.up, d.down, d.shared_gate})
    for (std::int64_t i = 0; i < m.size(); ++i) CHECK(m.data[i] == 0);
  moe.train(x, dy, off, fg::gradients::accumulate, 5);
  CHECK(moe.gradients().a.gate(0, 0) == 5);
  CHECK(moe.gradients().a.shared_gate(0, 0) == 5);
}

TEST_CASE("a request for k experts is what a layer configured so computes") {
  constexpr auto with_k = [](int k) {
    fg::config c = small;
    c.top_k = k;
    return c;
  };
  layer<fg::mixture<small>> moe;
  layer<fg::mixture<with_k(1)>> fewer;
  layer<fg::mixture<with_k(3)>> more;
  fewer.w = more.w = moe.w;
  numbers const x = random_numbers(3 * D, 2), dy = random_numbers(3 * D, 3);
  CHECK(same(moe.forward(x, {.routing = {.top_k = 3}}), more.forward(x)));
  CHECK(same(moe.train(x, dy, {.routing = {.top_k = 1, .balance = {.expert = 0.3}}}),
             fewer.train(x, dy, {.routing = {.balance = {.expert = 0.3}}})));
  CHECK(same(moe.all_gradients(), fewer.all_gradients()));
  CHECK_THROWS_AS(moe.train(x, dy, {.routing = {.top_k = 3}}), fg::invalid_argument);
}

TEST_CASE("every router reports once, in the order of the forward pass") {
  layer<decltype(fg::mixture<small>{} | fg::residual(fg::mixture<v3>{}))> net;
  fg::routing_log log;
  log.layers.resize(2);
  net.forward(random_numbers(7 * D, 2), {.log = &log}, true);
  CHECK(log.next == 2);
  for (auto const& report : log.layers) {
    std::int64_t sent = 0;
    double mean = 0;
    for (std::int64_t n : report.load) sent += n;
    for (double p : report.mean_score) mean += p;
    CHECK(sent == 7 * 2);
    CHECK(mean == Approx(1));
    CHECK(report.balance_loss == 0);
  }
}

TEST_CASE("the balance loss moves the router's gradient and no expert's") {
  layer<fg::routed_experts<small>> moe;
  numbers const x = random_numbers(4 * D, 2), dy = random_numbers(4 * D, 3);
  moe.train(x, dy);
  auto const before = moe.dw;
  moe.train(x, dy, {.routing = {.balance = {.expert = 1}}});
  CHECK(before[0] != moe.dw[0]);
  for (auto const& entry : fg::list_weights<fg::routed_experts<small>>())
    if (entry.name != "router")
      CHECK(std::equal(before.begin() + entry.offset,
                       before.begin() + entry.offset + entry.rows * entry.cols,
                       moe.dw.begin() + entry.offset));
}

TEST_CASE("a layer in float is the layer in double, rounded") {
  using X = fg::basic_reference<float>;
  using plan = fg::plan<X, fg::routed_experts<small>>;
  layer<fg::routed_experts<small>> exact;
  numbers const x = random_numbers(3 * D, 2), y = exact.forward(x);
  std::vector<float> const w(exact.w.begin(), exact.w.end()), in(x.begin(), x.end());
  std::vector<float> out(y.size());
  fg::extent const e{3, 1, false};
  auto const saved_memory = poisoned(fg::memory_bytes<plan::saved>(e));
  auto const scratch_memory = poisoned(fg::memory_bytes<plan::scratch>(e));
  fg::arena memory(saved_memory.data(), saved_memory.size());
  X const single;
  fg::batch const b{.tokens = 3};
  plan::forward({single, b, {scratch_memory.data(), scratch_memory.size()}, e},
                fg::bind_weights<fg::routed_experts<small>, float const>(w.data()),
                plan::saved(memory, e), {in.data(), 3, D}, {out.data(), 3, D});
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(double(out[i]) == Approx(y[i]).margin(1e-5));
}

}  // namespace
