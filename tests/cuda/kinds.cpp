// Routers of rarer kinds on the device: choices from equal scores are the specification's, and layers
// that have them, values, gradients and reports.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <finegrain/finegrain.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "device_layer.hpp"
#include "graph.hpp"
#include "routed.hpp"
#include "rules.hpp"

void under_test::by_place::choose(finegrain::batch const&, finegrain::matrix<double const> scores,
                                  finegrain::matrix<std::int32_t> experts) const {
  for (std::int64_t t = 0; t < experts.rows; ++t)
    for (int slot = 0; slot < experts.cols; ++slot)
      experts(t, slot) = (t % 5 == 0 || t % 7 == 0) && slot > 0
                             ? finegrain::no_expert
                             : static_cast<std::int32_t>((t + 3 * slot) % scores.cols);
}

namespace {

using namespace under_test;
using fg::config, fg::routing_request;
using on_device::owned_state, on_device::unwritten, on_device::upload, on_device::download;
using kinds = fg::device::kinds<bf16>;

constexpr float nan32 = std::numeric_limits<float>::quiet_NaN();

/// Logits with many ties (kind 1), and NaN and infinities among them (2).
std::vector<float> some_logits(std::int64_t count, std::uint64_t seed, int kind) {
  float const few[] = {0.0f, -0.0f, 0.5f, 1.0f, -0.25f, nan32, infinity, -infinity};
  std::vector<float> made = on_device::random_floats(count, seed, 2);
  for (std::int64_t i = 0; i < count && kind > 0; ++i)
    if (fg::random_word(seed, std::uint64_t(i)) % 4 != 0)
      made[std::size_t(i)] = few[fg::random_word(seed + 1, std::uint64_t(i)) % (kind == 2 ? 8 : 5)];
  return made;
}

/// A choice from logits: what the device makes of it, and what plan/assign.hpp makes of its scores.
struct chosen_slots {
  config c;
  fg::batch b;
  fg::extent e;
  fg::buffer<> memory{std::int64_t{1} << 24};
  fg::arena arena{memory.data(), memory.size()};
  fg::routing<float> r;  // the specification's
  fg::assign_scratch<float> t;
  fg::device_buffer<std::int64_t> starts;
  fg::device_buffer<std::byte> scratch_memory;
  fg::device::kind_scratch<bf16> scratch;
  fg::device_buffer<std::uint64_t> seed = unwritten<std::uint64_t>(1);

  chosen_slots(config const& c, fg::batch const& b)
      : c(c), b(b), e{b.tokens, 1, true}, r(arena, e, c), t(arena, e, c) {
    starts = upload(std::vector<std::int64_t>(b.starts.begin(), b.starts.end()));
    fg::arena counting;
    static_cast<void>(fg::device::kind_scratch<bf16>(counting, e, c));
    scratch_memory = unwritten<std::byte>(counting.peak());
    fg::arena there(scratch_memory.data(), scratch_memory.size());
    scratch = fg::device::kind_scratch<bf16>(there, e, c);
    *r.seed = fg::random_word(77, 3);
  }
  /// Runs the device with a request on logits.
  void choose(owned_state const& state, routing_request const& request,
              std::vector<float> const& logits) {
    fg::device::runtime::copy(state.logits.data(), logits.data(), b.tokens * c.routed * 4, nullptr);
    fg::device::kind_state saved;
    saved.seed = seed.data();
    kinds::keep_seed(77, nullptr, 3, saved, nullptr);
    fg::device::sequence_starts s;
    if (!b.starts.empty()) s = {starts.data(), int(b.sequences())};
    fg::device::routing_rules const rules(c, request);
    fg::device::router_kinds const asked(c, request, e);
    auto chosen = state.state();
    kinds::prepare(rules, asked, chosen, scratch, e.tokens, nullptr);
    if (asked.sinkhorn) chosen.keys = scratch.keys;
    on_device::with_choice(c.routed, [&](auto code) {
      code.choose(rules, {}, nullptr, chosen, state.rows.map, state.rows.block_counts.data(),
                  nullptr);
    });
    kinds::drop(rules, asked, chosen, saved, s, state.rows.map, state.rows.block_counts.data(),
                nullptr);
  }
  /// The specification begins where the device was.
  void take(owned_state const& state) {
    auto const scores = state.get_scores(), weights = state.get_weights();
    auto const experts = state.get_experts();
    for (std::int64_t i = 0; i < b.tokens; ++i) {
      for (int n = 0; n < c.routed; ++n) r.scores(i, n) = scores[std::size_t(i * c.routed + n)];
      for (int slot = 0; slot < state.k; ++slot) {
        r.experts(i, slot) = experts[std::size_t(i * state.k + slot)];
        r.weights(i, slot) = weights[std::size_t(i * state.k + slot)];
      }
    }
  }
  void check(owned_state const& state) const {
    auto const experts = state.get_experts();
    auto const weights = state.get_weights();
    int wrong_experts = 0, wrong_weights = 0;
    for (std::int64_t i = 0; i < b.tokens; ++i)
      for (int slot = 0; slot < state.k; ++slot) {
        std::size_t const n = std::size_t(i * state.k + slot);
        wrong_experts += experts[n] != r.experts(i, slot);
        wrong_weights += !(weights[n] == r.weights(i, slot) ||
                           (std::isnan(weights[n]) && std::isnan(r.weights(i, slot))));
      }
    CHECK(wrong_experts == 0);
    CHECK(wrong_weights == 0);
    char const* const wrong = state.rows.wrong(experts, weights);
    INFO((wrong ? wrong : ""));
    CHECK(wrong == nullptr);
  }
};

constexpr config shape(int R, int k) { return {.hidden = 8, .width = 8, .routed = R, .top_k = k}; }

TEST_CASE("experts take the tokens that the specification's take") {
  NEED_GPU();
  for (auto [R, k] : std::vector<std::pair<int, int>>{{1, 1}, {5, 2}, {64, 6}, {33, 33}})
    for (std::int64_t T : on_device::sizes_here({1, 2, 64, 300, 1031}))
      for (int kind : {0, 1, 2}) {
        config c = shape(R, k);
        c.selection = fg::selection::expert_choice, c.score = fg::score::sigmoid, c.scale = 2;
        routing_request request;
        if (k > 2) request.top_k = k - 1;
        INFO("R " << R << " k " << k << " T " << T << " kind " << kind);
        chosen_slots it(c, {.tokens = T});
        owned_state const state(c, request, T);
        it.choose(state, request, some_logits(T * R, 5, kind));
        it.take(state);
        fg::choose_tokens(fg::basic_reference<float>{}, c, chosen(c, request), it.r, it.t);
        for (std::int64_t t = 0; t < T; ++t)
          fg::weigh_forward(c, R, it.r.logits.row(t), it.r.scores.row(t), it.r.experts.row(t),
                            it.r.weights.row(t));
        it.check(state);
      }
}

TEST_CASE("full experts and devices drop the slots that the specification's drop") {
  NEED_GPU();
  family::tokens const tokens(600);
  std::vector<std::int64_t> starts{0, 0, 7, 130, 131, 131, 400, 600};
  for (auto [R, k] : std::vector<std::pair<int, int>>{{6, 2}, {64, 6}, {20, 1}, {12, 12}})
    for (int kind : {0, 1, 2})
      for (routing_request request : {routing_request{.capacity = 0.7},
                                      {.capacity = 0.7, .drop = fg::drop::last},
                                      {.capacity = 0.01},
                                      {.devices = 2, .device_capacity = 0.8},
                                      {.devices = 2, .device_capacity = 0.7, .exempt = 0.5},
                                      {.devices = 2, .device_capacity = 0.7, .exempt = 1},
                                      {.devices = 2,
                                      .capacity = 0.9,
                                      .drop = fg::drop::last,
                                      .device_capacity = 0.9,
                                      .exempt = 0.3}})
        for (bool chance : {false, true}) {
          config c = shape(R, k);
          if (chance && k != 2) continue;
          c.chance_second = chance, c.renormalise = k > 1, c.scale = 1.5f;
          INFO("R " << R << " k " << k << " kind " << kind << " capacity " << request.capacity
                    << ", of devices " << request.device_capacity << " exempt " << request.exempt
                    << " chance " << chance);
          fg::batch b{.tokens = 600, .starts = starts, .routing = request};
          chosen_slots it(c, b);
          std::vector<float> const logits = some_logits(600 * R, 9, kind);
          config plain = c;
          plain.chance_second = false;
          owned_state const before(plain, {}, 600), state(c, request, 600);
          chosen_slots without(plain, {.tokens = 600});
          without.choose(before, {}, logits);
          it.take(before);
          fg::drop_slots(fg::basic_reference<float>{}, c, b, it.r, it.t);
          it.choose(state, request, logits);
          it.check(state);
        }
}

TEST_CASE("Sinkhorn's keys are the specification's") {
  NEED_GPU();
  for (int R : {1, 6, 64, 300, 1024})
    for (std::int64_t T : on_device::sizes_here({1, 33, 500})) {
      config c = shape(R, 1);
      c.selection = fg::selection::sinkhorn;
      INFO("R " << R << " T " << T);
      chosen_slots it(c, {.tokens = T});
      owned_state const state(c, {}, T);
      std::vector<float> const logits = on_device::random_floats(T * R, 3, 1.5);
      it.choose(state, {}, logits);
      fg::buffer<> memory(std::int64_t{1} << 25);
      fg::arena arena(memory.data(), memory.size());
      fg::routing<double> const exact(arena, it.e, c);
      for (std::int64_t i = 0; i < T * R; ++i) exact.logits.data[i] = logits[std::size_t(i)];
      fg::assign_scratch<double> const t(arena, it.e, c);
      auto const keys = fg::sinkhorn_keys(exact, t);
      CHECK(on_device::far_off(download(it.scratch.keys, T * R),
                               std::vector<double>(keys.data, keys.data + T * R), 1e-4, 0) == "");
      CHECK(state.rows.wrong(state.get_experts(), state.get_weights()) == nullptr);
    }
}

// ---- layers -------------------------------------------------------------------------------------

constexpr config base{.hidden = 64, .width = 24, .routed = 6, .top_k = 2, .shared = 1};
template <class Change>
constexpr config with(Change change) {
  config c = base;
  change(c);
  return fg::checked(c);
}

template <config C>
void check_layer(std::int64_t T, std::uint64_t seed, routing_request const& request) {
  family::tokens const tokens(T);
  for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
    comparison const got = compare<fg::mixture<C>>(T, seed, tokens.batch(request, C.jitter), mode);
    INFO(fg::describe(fg::mixture<C>{}));
    INFO(T << " tokens, adding " << (mode == fg::gradients::accumulate) << ", capacity "
           << request.capacity << ", of devices " << request.device_capacity << ", load "
           << request.balance.load << ", worst " << got.worst);
    CHECK(got.y < 0.01);
    CHECK(got.dx < 0.02);
    CHECK(got.dw < (T > 1 ? 0.03 : 0.1));  // of few numbers, which nearly cancel
  }
}

TEST_CASE("layers that drop slots are the specification's, with losses") {
  NEED_GPU();
  constexpr auto grouped = [](config& c) { c.groups = 3, c.group_limit = 2; };
  constexpr auto sigmoid = fg::profiles::deepseek_v3_hf(with(grouped));
  std::uint64_t seed = 1;
  for (routing_request request :
       {routing_request{.balance = {.expert = 0.5, .importance = 0.5}, .capacity = 0.7},
        {.balance = {.sequence = 0.5, .z = 0.5}, .capacity = 0.7, .drop = fg::drop::last},
        {.balance = {.device = 0.2, .communication = 0.5, .importance = 0.5},
        .devices = 3,
        .device_capacity = 0.6,
        .exempt = 0.5},
        {.balance = {.communication = 0.5, .over = fg::window::sequence},
        .devices = 3,
        .capacity = 0.8}})
    for (std::int64_t T : on_device::sizes_here({1, 61, 300})) {
      check_layer<base>(T, seed += 100, request);
      check_layer<sigmoid>(T, seed += 100, request);
      check_layer<fg::profiles::gshard_top2(base)>(T, seed += 100, request);
      check_layer<fg::profiles::switch_top1(base)>(T, seed += 100, request);
    }
}

TEST_CASE("noise with jitter and cosines together, and the load loss") {
  NEED_GPU();
  constexpr auto noisy = with([](config& c) { c.by_logits = c.noisy = true; });
  constexpr auto noisy_cosine = with([](config& c) {
    c.noisy = c.jitter = c.shared_gate = true, c.cosine = 20, c.score = fg::score::sigmoid;
  });
  constexpr auto jittered = with(
      [](config& c) { c.jitter = c.shared_gate = true, c.precision = fg::precision::bf16_logits; });
  std::uint64_t seed = 50000;
  for (std::int64_t T : on_device::sizes_here({0, 1, 61, 300}))
    for (double load : {0.0, 0.5}) {
      check_layer<noisy>(T, seed += 100, {.balance = {.z = 0.1, .load = load}});
      check_layer<noisy_cosine>(T, seed += 100, {.balance = {.expert = 0.1, .load = load}});
      if (load == 0) check_layer<jittered>(T, seed += 100, {});
    }
}

TEST_CASE("experts that choose, and tokens that Sinkhorn has balanced") {
  NEED_GPU();
  constexpr auto by_expert =
      with([](config& c) { c.selection = fg::selection::expert_choice, c.routed = 40; });
  constexpr auto balanced =
      with([](config& c) { c.selection = fg::selection::sinkhorn, c.routed = 40; });
  std::uint64_t seed = 90000;
  for (std::int64_t T : on_device::sizes_here({0, 1, 3, 61, 300}))
    for (int k : {0, 1}) {
      check_layer<by_expert>(T, seed += 100, {.top_k = k, .balance = {.expert = 0.1}});
      check_layer<balanced>(T, seed += 100, {.top_k = k, .balance = {.expert = 0.1}});
    }
}

TEST_CASE("shared experts with a scale and no gate") {
  NEED_GPU();
  constexpr auto scaled = with([](config& c) { c.shared_scale = 0.5f; });
  for (std::int64_t T : on_device::sizes_here({0, 1, 3, 61, 300}))
    check_layer<scaled>(T, 170000 + 100 * T, {});
}

TEST_CASE("rules of a user's own run on the device") {
  NEED_GPU();
  by_place const place;
  squared const square;
  constexpr auto raw = with([](config& c) { c.selection = fg::selection::rule, c.routed = 7; });
  constexpr auto divided = with([](config& c) {
    c.selection = fg::selection::rule, c.routed = 7, c.renormalise = true, c.epsilon = 0;
  });
  constexpr auto sigmoid = with([](config& c) {
    c.selection = fg::selection::rule, c.routed = 7, c.renormalise = true;
    c.score = fg::score::sigmoid;
  });
  std::uint64_t seed = 130000;
  for (std::int64_t T : on_device::sizes_here({0, 1, 61, 300})) {
    routing_request request{.balance = {.expert = 0.1, .rule = &square}, .rule = &place};
    check_layer<raw>(T, seed += 100, request);
    check_layer<divided>(T, seed += 100, request);
    check_layer<sigmoid>(T, seed += 100, request);
    request.capacity = 0.8;
    check_layer<sigmoid>(T, seed += 100, request);
    request.balance.over = fg::window::sequence;
    check_layer<raw>(T, seed += 100, request);
    request.balance.over = fg::window::batch;
    request.rule = nullptr;
    check_layer<base>(T, seed += 100, request);
  }
}

TEST_CASE("experts and weights come with the batch, and their gradients go back") {
  NEED_GPU();
  constexpr config c{.hidden = 64,
                     .width = 24,
                     .routed = 7,
                     .top_k = 3,
                     .shared = 1,
                     .selection = fg::selection::given};
  using E = fg::mixture<c>;
  for (std::int64_t T : on_device::sizes_here({0, 1, 5, 61, 300, 700})) {
    INFO("T " << T);
    // What is no expert, or twice there, is not used; the specification is not told of it.
    std::vector<std::int32_t> ids, used;
    std::vector<float> weights;
    for (std::int64_t n = 0; n < 3 * T; ++n) {
      auto const t = n / 3;
      ids.push_back(t % 5 == 4   ? -1
                    : t % 7 == 3 ? static_cast<std::int32_t>(n % 3 == 0 ? 2 : 7 * (n % 3 - 1) + 2)
                                 : static_cast<std::int32_t>((t + 2 * (n % 3)) % 7));
      used.push_back(t % 7 == 3 && t % 5 != 4 && n % 3 > 0 ? -1 : ids.back());
      weights.push_back(
          used.back() < 0 ? nan32 : float(fg::random_uniform(9, static_cast<std::uint64_t>(n))));
    }
    auto const device_ids = upload(ids);
    auto const device_weights = upload(weights);
    auto const found = unwritten<float>(3 * T);
    std::vector<float> expected(weights.size(), nan32);
    std::vector<fg::given_choice> const there{
        {{device_ids.data(), T, 3}, {device_weights.data(), T, 3}, {found.data(), T, 3}}},
        here{{{used.data(), T, 3}, {weights.data(), T, 3}, {expected.data(), T, 3}}};

    auto const x = rounded(random_numbers(T * 64, 2)), dy = rounded(random_numbers(T * 64, 3));
    device_layer<E> layer;
    layer.train(x, dy, {.given = there});

    fg::network<E, fg::reference> exact({.deviation = 0});
    auto const w = rounded(random_numbers(fg::weights_size<E>(), 1, 0.3));
    std::copy(w.begin(), w.end(), exact.parameters().begin());
    std::vector<double> const in(x.begin(), x.end()), dout(dy.begin(), dy.end());
    std::vector<double> y(in.size()), dx(in.size());
    exact.forward({.tokens = T, .given = here}, {in.data(), T, 64}, {y.data(), T, 64});
    exact.backward({dout.data(), T, 64}, {dx.data(), T, 64});
    CHECK(off(y, layer.read_y()) < 0.01);
    CHECK(off(dx, layer.read_dx()) < 0.01);
    auto const g = exact.gradient();
    CHECK(off({g.begin(), g.end()}, layer.read_dw()) < 0.01);
    CHECK(off({expected.begin(), expected.end()}, download(found)) < 0.01);
    for (std::size_t n = 0; n < used.size(); ++n)
      if (used[n] < 0) CHECK(download(found)[n] == 0);
  }

  fg::network<E, fg::cuda> net;
  std::int32_t const experts[] = {0, 1, 2};
  float const ones[] = {1, 1, 1};
  std::vector<fg::given_choice> const of_host{{{experts, 1, 3}, {ones, 1, 3}}};
  auto const x = unwritten<bf16>(64), y = unwritten<bf16>(64);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 1, .given = of_host}, {x.data(), 1, 64}, {y.data(), 1, 64}),
      Catch::Contains("memory of the device"));
}

TEST_CASE("a balance rule of a user's own looks at each sequence") {
  NEED_GPU();
  squared const square;
  constexpr auto sigmoid = with([](config& c) { c.score = fg::score::sigmoid; });
  std::uint64_t seed = 150000;
  for (std::int64_t T : {0, 1, 61}) {
    routing_request request{.balance = {.over = fg::window::sequence, .rule = &square}};
    check_layer<base>(T, seed += 100, request);
    request.balance.expert = 0.1, request.balance.sequence = 0.2, request.capacity = 0.8;
    check_layer<sigmoid>(T, seed += 100, request);
  }
}

template <config C>
void check_report(routing_request request, std::int64_t T = 200) {
  using E = fg::mixture<C>;
  family::tokens const tokens(T);
  device_layer<E> fast;
  exact_layer<E> exact;
  numbers const w = rounded(random_numbers(fg::weights_size<E>(), 3, 0.1)),
                x = rounded(random_numbers(T * C.hidden, 4));
  fast.set_weights(w), exact.set_weights(w);
  auto ours = fg::network<E, fg::cuda>::make_log(), theirs = ours;
  fg::batch b = tokens.batch(request, C.jitter);
  b.log = &theirs;
  exact.forward(x, b, true);
  b.log = &ours;
  fast.forward(x, b, true);
  auto const &g = ours.layers[0], &e = theirs.layers[0];
  INFO(fg::describe(E{}));
  CHECK(g.load == e.load);
  CHECK(g.dropped == e.dropped);
  CHECK(g.bias == e.bias);
  CHECK(g.tokens == e.tokens);
  CHECK(g.devices == Approx(e.devices));
  CHECK(g.entropy == Approx(e.entropy).epsilon(1e-4));
  CHECK(g.balance_loss == Approx(e.balance_loss).epsilon(1e-3));
  for (std::size_t i = 0; i < g.load.size(); ++i) {
    CHECK(g.mean_score[i] == Approx(e.mean_score[i]).epsilon(1e-3));
    CHECK(g.quantile[i] == Approx(e.quantile[i]).epsilon(1e-4).margin(1e-5));
  }
}

TEST_CASE("reports have what was dropped, biases and quantiles") {
  NEED_GPU();
  routing_request const all{
      .balance = {.expert = 1, .device = 2, .sequence = 3, .z = 0.1, .importance = 1},
      .devices = 3,
      .capacity = 0.8,
      .quantiles = true};
  constexpr auto grouped = [](config& c) { c.groups = 3, c.group_limit = 2; };
  check_report<base>(all);
  check_report<fg::profiles::deepseek_v3_hf(with(grouped))>(all);
  check_report<fg::profiles::deepseek_v4(base)>(all);
  check_report<with([](config& c) { c.by_logits = c.bias = true; })>(all);
  check_report<with([](config& c) { c.selection = fg::selection::expert_choice; })>(
      {.balance = {.expert = 1}, .devices = 3});
  check_report<with([](config& c) { c.noisy = true; })>({.balance = {.load = 0.5}});
  squared const square;
  check_report<base>({.balance = {.rule = &square}});
  check_report<base>({.balance = {.over = fg::window::sequence, .rule = &square}});
}

TEST_CASE("random numbers are the seed's and the router's, and not another's") {
  NEED_GPU();
  constexpr auto random = with([](config& c) { c.jitter = c.noisy = c.chance_second = true; });
  using E = fg::mixture<random>;
  device_layer<E> layer;
  numbers const x = rounded(random_numbers(50 * random.hidden, 4));
  fg::batch b;
  b.routing.jitter = 0.1, b.routing.seed = 5;
  numbers const first = layer.forward(x, b, true);
  CHECK(same(first, layer.forward(x, b, true)));
  b.routing.seed = 6;
  CHECK(!same(first, layer.forward(x, b, true)));
}

/// Forward and backward of a network, captured and replayed, leave the bits that they leave at once.
template <config C>
void check_graph(routing_request const& request) {
  using E = fg::mixture<C>;
  constexpr std::int64_t T = 200, count = T * C.hidden;
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    fg::network<E, fg::cuda> net(fg::cuda(stream), {.deviation = 0.1});
    auto const x = upload(as_bf16(random_numbers(count, 1))),
               dy = upload(as_bf16(random_numbers(count, 2)));
    auto const y = unwritten<bf16>(count);
    auto const run = [&] {
      net.forward({.tokens = T, .routing = request}, {x.data(), T, C.hidden},
                  {y.data(), T, C.hidden});
      net.backward({dy.data(), T, C.hidden});
    };
    auto const all = [&] {
      numbers made = as_numbers(download(y));
      for (bf16 d : download(net.gradient())) made.push_back(float(d));
      return made;
    };
    run();
    numbers const first = all();
    graph const captured(stream, run);
    fg::device::runtime::fill(y.data(), 0xff, y.bytes(), stream);
    captured.replay(stream);
    INFO(fg::describe(E{}));
    CHECK(same(first, all()));
  }
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("passes of rarer routers can be captured in a graph") {
  NEED_GPU();
  check_graph<with([](config& c) { c.selection = fg::selection::sinkhorn; })>({});
  check_graph<with([](config& c) { c.selection = fg::selection::expert_choice; })>({});
  check_graph<with([](config& c) { c.noisy = c.jitter = true, c.cosine = 8; })>(
      {.balance = {.load = 0.1},
       .devices = 2,
       .capacity = 0.9,
       .device_capacity = 0.9,
       .exempt = 0.5,
       .jitter = 0.1});
}

TEST_CASE("selection biases move by steps that bf16 does not have, and stay so in files") {
  NEED_GPU();
  constexpr auto biased = fg::profiles::deepseek_v4(base);
  using E = fg::mixture<biased>;
  constexpr std::int64_t T = 100, count = T * biased.hidden;
  auto const x = upload(as_bf16(random_numbers(count, 1)));
  fg::matrix<bf16 const> const in{x.data(), T, biased.hidden};
  fg::network<E, fg::cuda> net({.deviation = 0.1}), other;
  std::vector<bf16> const ones(biased.routed, bf16(1.0f));
  fg::device::runtime::copy(net.weight("bias").data, ones.data(), biased.routed * 2, nullptr);
  fg::trainer train{net, fg::adamw{.lr = 0}, {.bias = {.speed = 0.001}}};
  for (int step = 0; step < 41; ++step) {
    double const norm = train.step(in, in).gradient_norm;
    CHECK((norm > 0 && std::isfinite(norm)));
  }
  auto const biases = [&](fg::network<E, fg::cuda>& of) {
    auto log = of.make_log();
    auto const y = unwritten<bf16>(count);
    of.infer({.tokens = T, .log = &log}, in, {y.data(), T, biased.hidden});
    return log.layers[0].bias;
  };
  auto const now = biases(net);
  for (double b : now) {  // an odd number of steps from 1, for no expert has 33.3 slots
    CHECK(std::abs(b - 1) > 0.0009);
    CHECK(b == Approx(1 + std::round((b - 1) / 0.001) * 0.001).margin(3e-5));
  }
  auto const file = std::filesystem::temp_directory_path() / "finegrain_device_biases";
  fg::save_weights(net, file.string());
  fg::load_weights(other, file.string());
  CHECK(biases(other) == now);
  std::filesystem::remove(file);
}

}  // namespace
