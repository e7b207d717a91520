// Networks whose embedding and head have one table: the outputs of two equal ones, and the sum of their
// gradients.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <finegrain/io/weights.hpp>
#include <finegrain/model/frozen.hpp>
#include <finegrain/model/generate.hpp>
#include <finegrain/train/trainer.hpp>
#include <numeric>

#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"
#include "compared.hpp"
#include "executors.hpp"

namespace fg = finegrain;

namespace {

constexpr int V = 37, D = 13;
constexpr fg::config moe{.hidden = D, .width = 7, .routed = 5, .top_k = 2, .shared = 1};
constexpr auto blocks = fg::residual(fg::rmsnorm<D>{} | fg::attention<D, 3, 1, 6>{}) |
                        fg::residual(fg::rmsnorm<D>{} | fg::mixture<moe>{}) | fg::rmsnorm<D>{};
using tied = decltype(fg::tied(fg::embedding<V, D>{}, blocks));
using apart = decltype(fg::embedding<V, D>{} | blocks | fg::head<D, V>{});

/// Weights of the same names, and for a head of its own the table.
template <class To, class From>
void copy_weights(From const& from, To& to) {
  for (auto const& entry : to.entries()) {
    bool const head = entry.name == "head.weight";
    auto const w = from.weight(head ? "embedding.table" : entry.name);
    std::copy_n(w.data, w.size(), to.weight(entry.name).data);
  }
}

/// Cross-entropy of the tokens behind; of the last there is none.
template <class X>
struct next_token {
  std::vector<std::int32_t> targets;
  explicit next_token(fg::id_list ids) : targets(ids.begin() + 1, ids.end()) {
    targets.push_back(-1);
  }
  using S = typename X::scalar;
  double operator()(X const& on, std::int64_t first, fg::matrix<S const> y,
                    fg::matrix<S> dy) const {
    return cross_entropy(on, y, std::span(targets).subspan(std::size_t(first), std::size_t(y.rows)),
                         1 / double(targets.size()), dy);
  }
};

}  // namespace

TEMPLATE_TEST_CASE(
    "a tied network has the outputs of two equal tables, and the sum of their gradients", "",
    EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tied, TestType> one({.deviation = 0.4, .seed = 3});
  fg::network<apart, TestType> two;
  copy_weights(one, two);
  std::vector<std::int32_t> ids(V);  // each once, so that sums have one order
  for (std::int32_t t = 0; t < V; ++t) ids[std::size_t(t)] = (t * 5 + 3) % V;
  ids.pop_back();
  auto const T = std::ssize(ids);
  fg::batch const b{.tokens = T, .ids = ids};
  std::vector<S> y(std::size_t(T * V)), z = y, dy = y;
  one.infer(b, {}, {y.data(), T, V});
  two.infer(b, {}, {z.data(), T, V});
  CHECK(y == z);
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = S(fg::random_normal(7, i));
  one.forward(b, {}, {y.data(), T, V});
  two.forward(b, {}, {z.data(), T, V});
  CHECK(y == z);

  auto const check = [&](S before) {
    for (auto const& entry : one.entries()) {
      auto const got = one.gradient(entry.name), right = two.gradient(entry.name);
      auto const of_head = two.gradient("head.weight");
      INFO(entry.name);
      bool const table = entry.name == "embedding.table";
      for (std::int64_t i = 0; i < got.size(); ++i)
        REQUIRE(got.data[i] ==
                (table ? before + of_head.data[i] + right.data[i] : before + right.data[i]));
    }
  };
  one.backward({dy.data(), T, V});
  two.backward({dy.data(), T, V});
  check(0);
  one.backward({dy.data(), T, V});  // overwrites what stands there
  check(0);
  for (auto& g : one.gradient()) g = S(NAN);
  one.backward({dy.data(), T, V});
  check(0);
  next_token<TestType> const loss(ids);
  for (auto& g : one.gradient()) g = S(NAN);
  CHECK(one.learn(b, {}, loss) == two.learn(b, {}, loss));
  check(0);
}

TEMPLATE_TEST_CASE("a tied network adds to its gradients, or overwrites them, as any other", "",
                   EXECUTORS) {
  fg::network<tied, TestType> net({.deviation = 0.4, .seed = 3});
  auto const ids = some_ids<V>(50);
  fg::batch const b{.tokens = 50, .ids = ids};
  next_token<TestType> const loss(ids);
  net.learn(b, {}, loss);
  std::vector const once(net.gradient().begin(), net.gradient().end());
  net.learn(b, {}, loss);
  CHECK(std::equal(once.begin(), once.end(), net.gradient().begin()));
  net.learn(b, {}, loss, {}, fg::gradients::accumulate);
  std::vector const twice(net.gradient().begin(), net.gradient().end());
  auto doubled = once;
  for (auto& g : doubled) g *= 2;
  CHECK(off(doubled, twice) < 1e-5);
}

TEMPLATE_TEST_CASE("without tokens the gradient of a tied table is zero", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tied, TestType> net({.deviation = 0.4});
  auto const ids = some_ids<V>(5);
  net.learn({.tokens = 5, .ids = ids}, {}, next_token<TestType>(ids));
  auto const none = [](TestType const&, std::int64_t, fg::matrix<S const>, fg::matrix<S>) {
    return 0.0;
  };
  net.learn({.tokens = 0}, {}, none);
  for (S g : net.gradient()) REQUIRE(g == 0);
}

TEST_CASE("the cpu's tied network is the specification's, by chunks too and in mixed precision") {
  fg::network<tied, fg::reference> exact({.deviation = 0.4, .seed = 3});
  fg::thread_pool pool(3);
  for (auto [precision, near] : {std::pair{fg::format::f32, 2e-5}, {fg::format::bf16, 0.05}}) {
    fg::network<tied, fg::cpu> net(fg::cpu{pool, precision});
    for (std::size_t i = 0; i < net.parameters().size(); ++i)
      exact.parameters()[i] = double(net.parameters()[i] = float(exact.parameters()[i]));
    constexpr std::int64_t chunk = fg::chunk_rows<fg::cpu>(V);
    for (std::int64_t T : {std::int64_t{1}, std::int64_t{61}, 2 * chunk + 100}) {
      INFO(T << " tokens, mixed: " << (precision == fg::format::bf16));
      auto const ids = some_ids<V>(T);
      std::vector<std::int64_t> starts;
      for (std::int64_t t = 0; t < T; t += 50) starts.push_back(t);
      starts.push_back(T);
      fg::batch const b{.tokens = T, .ids = ids, .starts = starts};
      next_token<fg::cpu> const loss(ids);
      double const right = exact.learn(b, {}, next_token<fg::reference>(ids));
      CHECK(net.learn(b, {}, loss) == Approx(right).epsilon(near).margin(near));
      CHECK(net.score(b, {}, loss) == Approx(right).epsilon(near).margin(near));
      if (T == 1) continue;  // its one target is left out
      for (auto const& entry : net.entries()) {
        INFO(entry.name);
        auto const g = net.gradient(entry.name);
        auto const e = exact.gradient(entry.name);
        double wrong = 0, all = 0;
        for (std::int64_t i = 0; i < g.size(); ++i) {
          wrong += (double(g.data[i]) - e.data[i]) * (double(g.data[i]) - e.data[i]);
          all += e.data[i] * e.data[i];
        }
        CHECK(std::sqrt(wrong / all) < near);
      }
    }
  }
}

TEMPLATE_TEST_CASE_SIG("a frozen tied network has the bits of two frozen tables", "",
                       ((fg::format F, fg::format Rest), F, Rest),
                       (fg::format::f32, fg::format::f32), (fg::format::bf16, fg::format::bf16),
                       (fg::format::fp8, fg::format::fp8), (fg::format::int8, fg::format::int8),
                       (fg::format::int4, fg::format::f32)) {
  fg::network<tied, fg::cpu> one({.deviation = 0.4, .seed = 3});
  fg::network<apart, fg::cpu> two;
  copy_weights(one, two);
  auto frozen_one = fg::quantize<F, Rest>(one);
  auto frozen_two = fg::quantize<F, Rest>(two);
  CHECK(frozen_one.weight_bytes() == frozen_two.weight_bytes());
  auto const ids = some_ids<V>(29);
  std::vector<float> y(29 * V), z = y, x = y;
  one(ids, {x.data(), 29, V});
  frozen_one(ids, {y.data(), 29, V});
  frozen_two(ids, {z.data(), 29, V});
  CHECK(y == z);
  CHECK(off(x, y) < (F == fg::format::int4 || F == fg::format::fp8 ? 0.6 : 0.1));
  if (F == fg::format::f32) CHECK(x == y);
}

TEST_CASE("a table that is frozen as it is stands once") {
  fg::network<tied, fg::reference> net({.deviation = 0.4, .seed = 3});
  auto frozen = fg::quantize<fg::format::bf16>(net);  // of which the reference has no form
  CHECK(frozen.weight_bytes() == fg::weights_size<tied>() * 8);
  CHECK(frozen.weights().b.weight.data == frozen.weights().a.a.table.data);
  auto const ids = some_ids<V>(9);
  std::vector<double> y(9 * V), z = y;
  net(ids, {y.data(), 9, V});
  frozen(ids, {z.data(), 9, V});
  CHECK(y == z);
}

TEST_CASE("a tied decoder learns, goes on from a file, and continues a text") {
  using network = fg::network<tiny::tied_decoder, fg::cpu>;
  folder const here;
  tiny::text const text(68);
  fg::training const how{.routing = {.balance = {.expert = 0.01}}, .bias = {.speed = 0.001}};
  network net({.deviation = 0.1, .seed = 1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}, how};
  for (int i = 0; i < 60; ++i) train.step(text.inputs(), text.targets());
  train.save(here / "run");
  for (int i = 60; i < 119; ++i) train.step(text.inputs(), text.targets());
  auto const last = train.step(text.inputs(), text.targets());
  CHECK(last.loss < 0.1);

  network other;
  fg::trainer again{other, fg::adamw{.lr = 1e-2f}, how};
  again.load(here / "run");
  for (int i = 60; i < 119; ++i) again.step(text.inputs(), text.targets());
  CHECK(again.step(text.inputs(), text.targets()).loss == last.loss);
  CHECK(std::equal(net.parameters().begin(), net.parameters().end(), other.parameters().begin()));

  fg::network<tiny::decoder, fg::cpu> untied;
  fg::trainer refuses{untied, fg::adamw{.lr = 1e-2f}, how};
  CHECK_THROWS_AS(refuses.load(here / "run"), fg::mismatch);
  CHECK_THROWS_WITH(fg::load_weights(untied, here / "run"),
                    ContainsSubstring("head.weight, here head.weight, is missing"));

  auto const continued = [&](auto const& model) {
    std::vector<std::int32_t> ids;
    fg::generate(model, text.inputs().first(40), 20, {},
                 [&](std::int32_t id) { ids.push_back(id); });
    return ids;
  };
  std::vector<std::int32_t> const right(text.targets().begin() + 39, text.targets().begin() + 59);
  CHECK(continued(net) == right);
  CHECK(continued(fg::quantize<fg::format::bf16>(net)) == right);
  CHECK(continued(fg::quantize<fg::format::int8>(net)) == right);
}

TEST_CASE("a group holds the table for both ends") {
  fg::network<tiny::tied_decoder, fg::cpu> net({.deviation = 0.1, .seed = 1});
  auto const table = net.weight("embedding.table");
  std::vector const before(table.data, table.data + table.size());
  fg::training how;
  how.groups = {{"embedding.*", 0}};
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}, how};
  tiny::text const text(30);
  train.step(text.inputs(), text.targets());
  CHECK(std::equal(before.begin(), before.end(), net.weight("embedding.table").data));
}
