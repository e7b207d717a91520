// The router on the device: scores, the choice and weights, losses, report and gradients, against
// the specification in double from the device's own logits (in f32 where rounding decides).
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/route.hpp>

#include "../catch.hpp"
#include "../family.hpp"
#include "routed.hpp"

namespace {

using namespace on_device;
using fg::config, fg::routing_request;
using kernels = fg::device::route<bf16>;
using fg::device::routing_rules, fg::device::balance_terms;

constexpr float nan32 = std::numeric_limits<float>::quiet_NaN();
constexpr float inf32 = std::numeric_limits<float>::infinity();

/// The specification's router in S, filled with what the device wrote.
template <class S>
struct specified {
  config c;
  fg::batch b;
  fg::buffer<> memory;
  fg::arena arena;
  fg::routing<S> r;
  fg::router_scratch<S> scratch;
  std::vector<float> bias;

  specified(config const& c, fg::batch const& b, owned_state const& from)
      : c(c),
        b(b),
        memory(std::int64_t{1} << 23),
        arena(memory.data(), memory.size()),
        r(arena, {b.tokens, 1, true}, c),
        scratch(arena, {b.tokens, 1, true}, c) {
    auto const logits = from.get_logits(), scores = from.get_scores(), weights = from.get_weights();
    auto const experts = from.get_experts();
    for (std::int64_t t = 0; t < b.tokens; ++t) {
      for (int e = 0; e < c.routed; ++e) {
        r.logits(t, e) = S(logits[std::size_t(t * c.routed + e)]);
        r.scores(t, e) = S(scores[std::size_t(t * c.routed + e)]);
      }
      for (int slot = 0; slot < from.k; ++slot) {
        r.experts(t, slot) = experts[std::size_t(t * from.k + slot)];
        r.weights(t, slot) = S(weights[std::size_t(t * from.k + slot)]);
      }
    }
    *r.seed = 0;
  }
};

/// Logits, the bias and all that is asked; what the choice of the device should be.
struct choice {
  config c;
  routing_request request;
  std::vector<float> logits;
  std::vector<bf16> bias, table;
  std::vector<std::int32_t> ids;

  void check(std::int64_t T) const {
    int const R = c.routed, k = chosen(c, request);
    owned_state const state(c, request, T);
    fg::device::runtime::copy(state.logits.data(), logits.data(), T * R * 4, nullptr);
    auto const bias_there = upload(bias), table_there = upload(table);
    auto const ids_there = upload(ids);
    fg::device::router_numbers<bf16> w;
    w.bias.first = bias_there.data(), w.table.first = table_there.data();
    routing_rules const rules(c, request);
    with_choice(R, [&](auto code) {
      code.choose(rules, w, ids_there.data(), state.state(), state.rows.map,
                  state.rows.block_counts.data(), nullptr);
    });
    auto const scores = state.get_scores(), weights = state.get_weights();
    auto const experts = state.get_experts();
    auto const best = download(state.best, T * k);
    char const* const wrong = state.rows.wrong(experts, weights);
    INFO("R " << R << " k " << k << " T " << T << (wrong ? wrong : ""));
    CHECK(wrong == nullptr);

    fg::buffer<> memory(1 << 20);
    fg::arena arena(memory.data(), memory.size());
    fg::router_scratch<float> const scratch(arena, {}, c);
    std::vector<double> exact(scores.size());
    std::vector<std::int32_t> expected(experts.size(), -1), expected_best = expected;
    std::vector<float> expected_weights(weights.size());
    std::vector<float> biases, rows(logits);
    if (c.uniform) std::fill(rows.begin(), rows.end(), 0.0f);
    for (bf16 b : bias) biases.push_back(float(b));
    for (std::int64_t t = 0; t < T; ++t) {
      float const *const l = &rows[std::size_t(t * R)], *const s = &scores[std::size_t(t * R)];
      std::vector<double> wide(l, l + R);
      fg::spec::score_forward(c, wide.data());
      std::copy(wide.begin(), wide.end(), exact.begin() + t * R);
      auto* const mine = &expected[std::size_t(t * k)];
      if (c.selection == fg::selection::hash) {
        auto const wide_table = doubles(table);
        look_up(c, k, fg::matrix<double const>(wide_table.data(), c.vocabulary, c.top_k),
                ids[std::size_t(t)], mine);
      } else {
        fg::spec::choose(c, request, c.by_logits ? l : s, biases.data(), scratch, mine);
      }
      fg::detail::rank_first(s, R, k, &expected_best[std::size_t(t * k)]);
      fg::weigh_forward(c, k, l, s, mine, &expected_weights[std::size_t(t * k)]);
    }
    bool const rounds = c.precision == fg::precision::bf16;
    CHECK(far_off(scores, exact, rounds ? 0.005 : 4e-6, 1e-37) == "");
    CHECK(experts == expected);
    CHECK(best == expected_best);
    // (e to a power is not the same to the last bit)
    CHECK(far_off(weights, expected_weights,
                  rounds || c.precision == fg::precision::bf16_logits ? 0.005 : 4e-6, 1e-37) == "");
  }
};

std::vector<float> some_logits(std::int64_t count, std::uint64_t seed, int kind) {
  float const few[] = {0.0f, -0.0f, 0.5f, 0.5f, 1.0f, nan32, -inf32, inf32, 0.25f, -0.25f};
  std::vector<float> made = random_floats(count, seed, 2);
  for (std::int64_t i = 0; i < count && kind > 0; ++i)
    if (kind > 1 || fg::random_word(seed, std::uint64_t(i)) % 8 == 0)
      made[std::size_t(i)] =
          few[fg::random_word(seed + 1, std::uint64_t(i)) % (kind == 3 ? 10 : 5)];
  return made;
}

TEST_CASE("the choice is the specification's: ties, NaN, infinities, groups, masks") {
  NEED_GPU();
  std::vector<config> configs;
  for (auto [R, k] : std::vector<std::pair<int, int>>{
           {1, 1}, {5, 2}, {12, 12}, {60, 4}, {64, 6}, {160, 6}, {256, 8}, {512, 10}, {1024, 64}}) {
    config c{.hidden = 8, .width = 8, .routed = R, .top_k = k};
    configs.push_back(c);
    c.bias = true, c.score = fg::score::sigmoid;
    configs.push_back(c);
    c.renormalise = true, c.scale = 2.5f, c.score = fg::score::sqrt_softplus;
    configs.push_back(c);
    c.by_logits = true, c.score = fg::score::softmax, c.epsilon = 0;
    configs.push_back(c);
    c.precision = fg::precision::bf16, c.by_logits = c.bias = false;
    c.score = fg::score::sigmoid, c.epsilon = 1e-20f, c.floor = 6.1e-5f;
    configs.push_back(c);
  }
  for (auto by :
       {fg::group_score::max, fg::group_score::top2_sum, fg::group_score::top_share_sum}) {
    config c{.hidden = 8, .width = 8, .routed = 256, .top_k = 8, .renormalise = true};
    c.bias = true, c.groups = 8, c.group_limit = 4, c.group_score = by;
    c.score = fg::score::sigmoid;
    configs.push_back(c);
    c.routed = 12, c.top_k = 4, c.groups = 3, c.group_limit = 2;
    configs.push_back(c);
    c.routed = 160, c.top_k = 6, c.groups = 40, c.group_limit = 3;
    configs.push_back(c);
  }
  for (config const& c : configs)
    for (std::int64_t T : {1, 64, 65, 300})
      for (int kind = 0; kind < 4; ++kind) {
        if (T * c.routed > 20'000 || (c.groups > 8 && T > 64))
          continue;  // the specification is slow
        int const room = c.routed / c.groups * c.group_limit;
        choice one{c, {.mask_best = std::min(kind, room - c.top_k)}, {}, {}, {}, {}};
        if (c.top_k > 2 && kind == 1) one.request.top_k = c.top_k - 1;
        one.logits = some_logits(T * c.routed, std::uint64_t(kind + 7), kind);
        for (int e = 0; e < c.routed; ++e)
          one.bias.emplace_back(kind == 0 ? 0.01f * float(e % 7)
                                          : float(fg::random_word(9, std::uint64_t(e)) % 3));
        one.check(T);
      }
  CHECK(configs.size() > 40);
}

TEST_CASE("hash layers look experts up, whatever the table holds") {
  NEED_GPU();
  for (bool uniform : {false, true}) {
    config c{.hidden = 8, .width = 8, .routed = 60, .top_k = 6};
    c = c.by_id(13);
    c.uniform = uniform;
    choice one{c, {}, some_logits(70 * 60, 3, 0), {}, {}, {}};
    for (int i = 0; i < 13 * 6; ++i)
      one.table.emplace_back(i == 20   ? nan32
                             : i == 21 ? -3.0f
                             : i == 22 ? 1e30f
                             : i == 23 ? 8e15f
                             : i == 24 ? 7.5f
                                       : float(fg::random_word(5, std::uint64_t(i)) % 200));
    for (int i = 30; i < 36; ++i) one.table[std::size_t(i)] = bf16(59.0f);
    for (std::int32_t t = 0; t < 70; ++t) one.ids.push_back(t % 13);
    one.check(70);
  }
}

TEST_CASE("logits are products in f32, and do not depend on other tokens") {
  NEED_GPU();
  struct shape {
    int T, R, D;
  };
  for (auto s : std::vector<shape>{{1, 64, 2048},
                                   {3, 5, 8},
                                   {17, 60, 72},
                                   {256, 64, 2048},
                                   {257, 65, 40},
                                   {300, 256, 7168},
                                   {1000, 130, 264},
                                   {2205, 250, 72}})
    for (auto p : {fg::precision::f32, fg::precision::f64, fg::precision::bf16_logits}) {
      if (emulated() && s.R * s.D > 200000) continue;
      config c{.hidden = s.D, .width = 8, .routed = s.R, .top_k = 1};
      c.precision = p;
      auto const x = random_bf16(s.T * s.D, 1), w = random_bf16(s.R * s.D, 2, 0.02);
      auto const xs = upload(x), ws = upload(w);
      auto const logits = unwritten<float>(s.T * s.R), one = unwritten<float>(s.R);
      routing_rules const rules(c, {});
      kernels::logits(rules, ws.data(), xs.data(), logits.data(), s.T, nullptr);
      auto const got = download(logits, s.T * s.R);
      auto const wx = doubles(x), ww = doubles(w);
      std::vector<double> exact;
      double largest = 0;
      for (int t = 0; t < s.T; ++t)
        for (int e = 0; e < s.R; ++e) {
          double const sum =
              fg::spec::dot(&wx[std::size_t(t * s.D)], &ww[std::size_t(e * s.D)], s.D);
          exact.push_back(sum);
          largest = std::max(largest, std::abs(sum));
        }
      bool const rounds = p == fg::precision::bf16_logits;
      INFO("T " << s.T << " R " << s.R << " D " << s.D);
      CHECK(far_off(got, exact, rounds ? 0.005 : 1e-7,
                    p == fg::precision::f64 ? 1e-12 : 2e-6 * largest) == "");
      kernels::logits(rules, ws.data(), xs.data() + std::int64_t{s.T - 1} * s.D, one.data(), 1,
                      nullptr);
      CHECK(same_bits(download(one, s.R), std::vector<float>(got.end() - s.R, got.end())));
    }
}

/// Losses, report and the gradients of logits of one kind of router.
void check_backward(config const& c, fg::balance_losses const& losses, std::int64_t T,
                    bool sequences) {
  family::tokens const tokens(T);
  routing_request request;
  request.balance = losses;
  request.devices = c.routed % 2 == 0 ? 2 : 1;
  fg::batch b = tokens.batch(request);
  if (!sequences) b.starts = {};
  int const R = c.routed, k = c.top_k, parts = 3;
  owned_state const state(c, request, T, 16);
  std::vector<float> logits = random_floats(T * R, 4);
  fg::device::runtime::copy(state.logits.data(), logits.data(), T * R * 4, nullptr);
  auto const bias = random_bf16(R, 5, 0.1), table = random_bf16(family::vocabulary * k, 6, 20);
  auto const bias_there = upload(bias), table_there = upload(table);
  auto const ids = upload(tokens.ids);
  auto const starts = upload(tokens.starts);
  fg::device::router_numbers<bf16> w;
  w.bias.first = bias_there.data(), w.table.first = table_there.data();
  routing_rules const rules(c, request);
  balance_terms terms(c, request);
  fg::routing_log earlier{{fg::routing_report(R)}}, log = earlier;  // an earlier batch's counts
  for (int e = 0; e < R; ++e) earlier.layers[0].load[std::size_t(e)] = 3 * e;
  auto const earlier_there = upload(earlier.layers[0].load);
  earlier.layers[0].tokens = terms.earlier_tokens = 17;
  terms.earlier = earlier_there.data();
  b.routing.earlier = &earlier;
  b.log = &log;
  auto const& map = state.rows.map;
  with_choice(R, [&](auto code) {
    code.choose(rules, w, ids.data(), state.state(), map, state.rows.block_counts.data(), nullptr);
  });
  fg::device::sequence_starts s;
  if (sequences) s = {starts.data(), int(tokens.starts.size()) - 1};
  auto const factors = unwritten<float>(std::max<std::int64_t>(T, 1) * R),
             importance = unwritten<float>(R);
  fg::device::balance_factors const f{factors.data(), importance.data()};
  kernels::balance(rules, terms, state.state(), map, s, f, nullptr);

  // the report
  auto const numbers = unwritten<double>(fg::device::router_report::numbers(R)),
             partials = unwritten<double>(fg::device::router_report::partials(R));
  fg::device::router_report const made(numbers.data(), R);
  kernels::report(rules, terms, w.bias, state.state(), map, s, f, made, partials.data(), nullptr);
  specified<double> exact(c, b, state);
  fg::basic_reference<double> const on;
  fg::balance_forward(on, c, b, exact.r, exact.scratch.balance);
  fg::router_weights<double> none;
  std::vector<double> wide_bias = doubles(bias);
  none.bias = {wide_bias.data(), 1, R};
  fg::report_routing(c, b, exact.r, fg::router_weights<double const>(none), exact.scratch.balance,
                     log);
  auto const& report = log.layers[0];
  auto const got = download(made.totals, 3);
  CHECK(download(made.load, R) == report.load);
  CHECK(download(made.dropped, R) == report.dropped);
  CHECK(download(made.bias, R) == report.bias);
  CHECK(far_off(download(made.mean_score, R), report.mean_score, 1e-5, 1e-9) == "");
  CHECK(got[0] == Approx(report.balance_loss).epsilon(1e-4).margin(1e-9));
  CHECK(got[1] == Approx(report.entropy).epsilon(1e-4).margin(1e-6));
  CHECK(got[2] == Approx(report.devices));
  if (c.uniform) return;

  // the gradients of logits
  std::int64_t const rows = map.max_rows();
  auto const dots = random_floats(rows * parts, 8);
  auto const dots_there = upload(dots);
  auto const dlogits = unwritten<float>(T * R);
  kernels::backward(rules, terms, {dots_there.data(), parts}, state.state(), map, s, f,
                    dlogits.data(), nullptr);
  auto const slot_row = download(map.slot_row, T * k);
  auto const& r = exact.r;
  auto const& t = exact.scratch;
  for (std::int64_t i = 0; i < T; ++i)
    for (int slot = 0; slot < k; ++slot) {
      t.dweights(i, slot) = 0;
      for (int p = 0; p < parts; ++p)
        t.dweights(i, slot) += dots[std::size_t(slot_row[std::size_t(i * k + slot)] * parts + p)];
    }
  fg::balance_weights_backward(c, b, r, t.dweights);
  std::vector<double> expected;
  for (std::int64_t i = 0; i < T; ++i) {
    double* const ds = t.dlogits.row(i);
    std::fill_n(ds, R, 0.0);
    fg::weigh_backward(c, k, r.scores.row(i), r.experts.row(i), t.dweights.row(i), ds);
    fg::balance_scores_backward(c, b, r, i, ds);
    fg::spec::score_backward(c, r.scores.row(i), ds);
    fg::weigh_logits_backward(c, k, r.logits.row(i), r.experts.row(i), t.dweights.row(i), ds);
    fg::balance_logits_backward(c, b, r, i, t.balance.best, t.logits, ds);
    expected.insert(expected.end(), ds, ds + R);
  }
  // (rounding to bf16 is done in f32 there and here)
  double const near = c.precision == fg::precision::bf16 ? 0.02 : 1e-4;
  CHECK(far_off(download(dlogits, T * R), expected, near, near * 0.1) == "");
}

TEST_CASE("losses, report and gradients are the specification's for each kind of router") {
  NEED_GPU();
  int kinds = 0;
  auto const all = [&](config const& c) {
    bool const by_batch =
        c.selection == fg::selection::expert_choice || c.selection == fg::selection::sinkhorn;
    if (by_batch) return;  // kinds.cpp
    ++kinds;
    for (std::int64_t T : {1, 61, 200})
      for (bool sequences : {false, true}) {
        std::vector<fg::balance_losses> losses = family::losses();
        losses.push_back({});
        for (auto const& loss : losses) {
          if (c.uniform && loss != fg::balance_losses{}) continue;
          INFO("kind " << kinds << " T " << T << " sequences " << sequences << " losses "
                       << loss.expert << ' ' << loss.device << ' ' << loss.communication << ' '
                       << loss.sequence << ' ' << loss.z << ' ' << loss.importance);
          check_backward(c, loss, T, sequences);
        }
      }
  };
  fg::for_each(family::exact(), [&]<config C>(fg::at<C>) { all(C); });
  fg::for_each(family::rounded(), [&]<config C>(fg::at<C>) { all(C); });
  CHECK(kinds == 20);
}

TEST_CASE("the gradients of the router's and the shared gate's weights") {
  NEED_GPU();
  struct shape {
    int T, R, D;
    bool gate;
  };
  for (auto s : std::vector<shape>{{0, 5, 8, true},
                                   {1, 6, 72, false},
                                   {100, 64, 264, true},
                                   {777, 60, 128, true},
                                   {1000, 256, 520, false},
                                   {40, 0, 64, true}})
    for (auto mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      int const columns = s.R + s.gate;
      auto const x = random_bf16(s.T * s.D, 1), before = random_bf16(columns * s.D, 3);
      auto const dlogits = random_floats(s.T * s.R, 2),
                 dgate = random_floats(std::max(s.T, 1), 4);  // memory, whatever T
      auto const xs = upload(x);
      auto const ds = upload(dlogits), gs = upload(dgate);
      auto const out = upload(before);
      auto const partials =
          unwritten<float>(fg::device::router_splits::partials(s.T, columns, s.D));
      kernels::weights_backward(s.D, s.R, xs.data(), ds.data(), s.gate ? gs.data() : nullptr,
                                out.data(), out.data() + s.R * s.D, mode, partials.data(), s.T,
                                nullptr);
      auto const wx = doubles(x), wb = doubles(before);
      std::vector<double> expected;
      for (int e = 0; e < columns; ++e)
        for (int d = 0; d < s.D; ++d) {
          double sum = mode == fg::gradients::accumulate ? wb[std::size_t(e * s.D + d)] : 0;
          for (int t = 0; t < s.T; ++t)
            sum += wx[std::size_t(t * s.D + d)] *
                   (e < s.R ? dlogits[std::size_t(t * s.R + e)] : dgate[std::size_t(t)]);
          expected.push_back(sum);
        }
      INFO("T " << s.T << " R " << s.R << " D " << s.D);
      CHECK(far_off(download(out, columns * s.D), expected, 0.0042, 1e-3) == "");
    }
}

TEST_CASE("the shared experts' weight, and its gradient") {
  NEED_GPU();
  for (int T : {1, 100})
    for (int D : {8, 72, 2048}) {
      config c{.hidden = D, .width = 8, .routed = 4, .top_k = 1, .shared = 1};
      c.shared_gate = true, c.shared_scale = 0.5f;
      auto const x = random_bf16(T * D, 1), gate = random_bf16(D, 2, 0.05);
      auto const xs = upload(x), gs = upload(gate);
      auto const weight = unwritten<float>(T), dgate = unwritten<float>(T);
      auto const dots = random_floats(T * 2, 3);
      auto const ds = upload(dots);
      routing_rules const rules(c, {});
      kernels::shared_weight(rules, gs.data(), xs.data(), weight.data(), T, nullptr);
      kernels::shared_backward(rules, {ds.data(), 2}, weight.data(), dgate.data(), T, nullptr);
      auto const wx = doubles(x), wg = doubles(gate);
      std::vector<double> expected, gradient;
      for (int t = 0; t < T; ++t) {
        double const s = fg::detail::logistic(fg::spec::dot(&wx[std::size_t(t * D)], wg.data(), D));
        expected.push_back(0.5 * s);
        gradient.push_back((double(dots[std::size_t(2 * t)]) + dots[std::size_t(2 * t + 1)]) * 0.5 *
                           s * (1 - s));
      }
      CHECK(far_off(download(weight, T), expected, 1e-5, 0) == "");
      CHECK(far_off(download(dgate, T), gradient, 1e-4, 1e-6) == "");
    }
}

TEST_CASE("a router's pass leaves the same bits each time", "[hardware]") {
  NEED_GPU();
  for (std::int64_t T : {7, 513, 3000}) {
    config c{.hidden = 264, .width = 8, .routed = 96, .top_k = 6, .renormalise = true};
    c.groups = 8, c.group_limit = 4, c.group_score = fg::group_score::top2_sum;
    routing_request request;
    request.balance.expert = request.balance.importance = request.balance.z = 0.1;
    auto const x = random_bf16(T * c.hidden, 1), router = random_bf16(c.routed * c.hidden, 2, 0.1);
    auto const xs = upload(x), ws = upload(router);
    auto const dots = upload(random_floats((T * 6 + 96 * 128) * 2, 3));
    routing_rules const rules(c, request);
    balance_terms const terms(c, request);
    std::vector<float> first;
    for (int pass = 0; pass < 5; ++pass) {
      owned_state const state(c, request, T);
      auto const& map = state.rows.map;
      auto const factors = unwritten<float>(T * c.routed), importance = unwritten<float>(c.routed),
                 dlogits = unwritten<float>(T * c.routed),
                 partials =
                     unwritten<float>(fg::device::router_splits::partials(T, c.routed, c.hidden));
      auto const drouter = unwritten<bf16>(c.routed * c.hidden);
      fg::device::balance_factors const f{factors.data(), importance.data()};
      fg::device::router_numbers<bf16> w;
      w.router = ws.data();
      with_choice(c.routed, [&](auto code) {
        code.forward(rules, w, xs.data(), nullptr, state.state(), map,
                     state.rows.block_counts.data(), nullptr);
      });
      kernels::balance(rules, terms, state.state(), map, {}, f, nullptr);
      kernels::backward(rules, terms, {dots.data(), 2}, state.state(), map, {}, f, dlogits.data(),
                        nullptr);
      kernels::weights_backward(c.hidden, c.routed, xs.data(), dlogits.data(), nullptr,
                                drouter.data(), nullptr, fg::gradients::overwrite, partials.data(),
                                T, nullptr);
      std::vector<float> all = state.get_weights();
      for (float d : download(dlogits, T * c.routed)) all.push_back(d);
      for (bf16 d : download(drouter, c.routed * c.hidden)) all.push_back(float(d));
      for (int row : download(map.slot_row, T * 6)) all.push_back(float(row));
      if (pass == 0) first = all;
      CHECK(same_bits(all, first));
      CHECK(std::none_of(all.begin(), all.end(), [](float v) { return std::isnan(v); }));
    }
  }
}

}  // namespace
