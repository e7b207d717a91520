// Gradients of every stage and composition against differences, and that a wrong one is found.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/reference/reference.hpp>
#include <finegrain/train/gradient_check.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "../catch.hpp"

namespace {

namespace fg = finegrain;
constexpr int D = 6;

/// Stages that the library does not have, with one weight for each channel.
struct channels : fg::stage<D> {
  template <class T>
  struct weights {
    fg::matrix<T> a;  // (1, D)
    template <class Bind>
    constexpr explicit weights(Bind& bind) : a(bind.matrix("a", 1, D, fg::role::gain)) {}
  };
};
/// y = a x^3. As a planted error, backward forgets the 3.
template <bool Right>
struct cube : channels {
  static constexpr char const* name = "cube";
};
/// y = step(x): it jumps at 0, and its gradient is 0 elsewhere.
struct step : fg::stage<D> {};
/// Backward leaves dx as it was.
struct forgetful : fg::stage<D> {};
/// y = a x, and backward overwrites the gradient of a whatever it is told, or adds to that of x.
enum class fault { none, overwrites, adds_to_dx };
template <fault Fault>
struct factor : channels {
  static constexpr char const* name = "factor";
};

}  // namespace

template <bool Right>
struct finegrain::plan<fg::reference, cube<Right>> {
  using saved = nothing;
  using scratch = nothing;
  using pass = finegrain::pass<reference>;
  template <class W>
  static void forward(pass, W const& w, saved const&, matrix<double const> x, matrix<double> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int d = 0; d < D; ++d) y(t, d) = w.a(0, d) * x(t, d) * x(t, d) * x(t, d);
  }
  template <class W, class V>
  static void backward(pass p, W const& w, saved const&, matrix<double const> x,
                       matrix<double const> dy, V const& dw, matrix<double> dx) {
    spec::begin(p.gradients, dw.a);
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int d = 0; d < D; ++d) {
        dw.a(0, d) += dy(t, d) * x(t, d) * x(t, d) * x(t, d);
        dx(t, d) = (Right ? 3 : 1) * dy(t, d) * w.a(0, d) * x(t, d) * x(t, d);
      }
  }
};
template <fault Fault>
struct finegrain::plan<fg::reference, factor<Fault>> {
  using saved = nothing;
  using scratch = nothing;
  using pass = finegrain::pass<reference>;
  template <class W>
  static void forward(pass, W const& w, saved const&, matrix<double const> x, matrix<double> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int d = 0; d < D; ++d) y(t, d) = w.a(0, d) * x(t, d);
  }
  template <class W, class V>
  static void backward(pass p, W const& w, saved const&, matrix<double const> x,
                       matrix<double const> dy, V const& dw, matrix<double> dx) {
    spec::begin(Fault == fault::overwrites ? gradients::overwrite : p.gradients, dw.a);
    double const more = Fault == fault::adds_to_dx && p.gradients == gradients::accumulate ? 1 : 0;
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int d = 0; d < D; ++d) {
        dw.a(0, d) += dy(t, d) * x(t, d);
        dx(t, d) = dy(t, d) * w.a(0, d) + more;
      }
  }
};
template <>
struct finegrain::plan<fg::reference, step> {
  using saved = nothing;
  using scratch = nothing;
  using pass = finegrain::pass<reference>;
  template <class W>
  static void forward(pass, W const&, saved const&, matrix<double const> x, matrix<double> y) {
    for (std::int64_t t = 0; t < x.rows; ++t)
      for (int d = 0; d < D; ++d) y(t, d) = x(t, d) > 0 ? 1 : 0;
  }
  template <class W, class V>
  static void backward(pass, W const&, saved const&, matrix<double const>, matrix<double const>,
                       V const&, matrix<double> dx) {
    spec::clear(dx);
  }
};
template <>
struct finegrain::plan<fg::reference, forgetful> : finegrain::plan<fg::reference, step> {
  template <class W, class V>
  static void backward(pass, W const&, saved const&, matrix<double const>, matrix<double const>,
                       V const&, matrix<double>) {}
};

namespace {

struct block : fg::named {
  static constexpr auto expr = fg::residual(fg::rmsnorm<D>{} | cube<true>{}) | fg::linear<D, D>{};
};

/// A network whose gains and selection biases are not all 1 and 0 either.
template <fg::Expr E>
fg::network<E, fg::reference> random_network(std::uint64_t seed) {
  fg::network<E, fg::reference> net({.deviation = 0.5, .seed = seed});
  for (auto const& entry : fg::list_weights<E>())
    for (std::int64_t i = 0; entry.role != fg::role::projection && i < entry.cols; ++i)
      net.parameters()[std::size_t(entry.offset + i)] +=
          0.2 * fg::random_normal(seed + 1, std::uint64_t(entry.offset + i));
  return net;
}

constexpr std::int64_t T = 7;
constexpr std::int64_t starts[] = {0, 3, 3, 4, T};  // one sequence is empty
constexpr std::int32_t token_ids[] = {2, 0, 2, 4, 1, 2, 0};

struct total {
  std::int64_t partials = 0, skipped = 0;
};

template <fg::Expr E>
void agree(total& sum, E, int seeds, fg::routing_request request = {}, double eps = 1e-5) {
  for (int seed = 0; seed < seeds; ++seed) {
    auto net = random_network<E>(std::uint64_t(seed));
    fg::batch const b{.tokens = T, .ids = token_ids, .starts = starts, .routing = request};
    fg::buffer<double> x(T * net.in);
    for (std::int64_t i = 0; i < x.size(); ++i)
      x[i] = fg::random_normal(std::uint64_t(seed) + 99, std::uint64_t(i));
    auto const report = fg::check_gradients(net, b, {x.data(), T, net.in},
                                            {.eps = eps, .seed = std::uint64_t(seed)});
    INFO(report.where << ": backward says " << report.gradient << ", differences say "
                      << report.difference);
    CHECK(report.finding == "");
    CHECK(report.worst < 1e-7);
    CHECK(report.partials > 0);
    sum.partials += report.partials;
    sum.skipped += report.skipped;
  }
}

constexpr fg::config plain{.hidden = D, .width = 3, .routed = 6, .top_k = 2};
constexpr auto with = [](auto change) {
  fg::config c = plain;
  change(c);
  return c;
};
constexpr auto normalised = with([](fg::config& c) { c.renormalise = true; });
constexpr auto v1 = with([](fg::config& c) { c.shared = 2, c.top_k = 3; });
constexpr auto v2 =
    with([](fg::config& c) { c.shared = 1, c.groups = 3, c.group_limit = 2, c.scale = 4; });
constexpr auto v3 = with([](fg::config& c) {
  c.shared = 1, c.score = fg::score::sigmoid, c.renormalise = true, c.scale = 2.5, c.groups = 3;
  c.group_limit = 2, c.group_score = fg::group_score::top2_sum, c.bias = true;
});
constexpr auto v4 = with([](fg::config& c) {
  c.shared = 1, c.score = fg::score::sqrt_softplus, c.renormalise = true, c.scale = 1.5,
  c.bias = true;
});
constexpr auto qwen = with([](fg::config& c) { c.shared = 2, c.shared_gate = true; });
constexpr auto raw_sigmoid = with([](fg::config& c) {
  c.score = fg::score::sigmoid, c.top_k = 1, c.act = fg::activation::geglu;
});
constexpr auto raw_root = with([](fg::config& c) {
  c.score = fg::score::sqrt_softplus, c.shared = 1, c.shared_gate = true,
  c.act = fg::activation::geglu;
});
constexpr auto all = with([](fg::config& c) { c.top_k = 6, c.renormalise = true; });
constexpr fg::attention_form normed_heads{
    .bias = true,
    .norm = fg::head_norm::each,
    .epsilon = 1e-2,
    .yarn = {.factor = 4, .original = 8, .fast = 2, .mscale_all = 0.5f}};
constexpr fg::attention_form normed_whole{.norm = fg::head_norm::all, .rotary = 2, .epsilon = 1e-3};

TEST_CASE("backward agrees with differences in 100,000 partials of every stage and composition") {
  total sum;
  agree(sum, fg::rmsnorm<D>{}, 30);
  agree(sum, fg::linear<D, 4>{}, 30);
  agree(sum, fg::head<D, 9>{}, 10);
  agree(sum, fg::embedding<5, D>{}, 10);
  agree(sum, fg::mlp<D, 4>{}, 30);
  agree(sum, fg::mlp<D, 4, fg::activation::geglu>{}, 30);
  agree(sum, fg::mlp<D, 4, fg::activation::reglu>{}, 30);
  agree(sum, fg::mlp<D, 4, fg::glu{fg::activation::swiglu, 0.5f}>{}, 30);
  agree(sum, fg::attention<D, 3, 3, 2>{}, 30);
  agree(sum, fg::attention<D, 4, 2, 4>{}, 30);
  agree(sum, fg::attention<D, 4, 1, 2>{}, 30);
  agree(sum, fg::attention<D, 4, 2, 4, fg::attention_form{.bias = true, .theta = 1e6}>{}, 30);
  agree(sum, fg::attention<D, 4, 2, 4, fg::attention_form{.rotary = 2, .adjacent = true}>{}, 30);
  agree(sum, fg::attention<D, 4, 2, 4, normed_heads>{}, 30);
  agree(sum, fg::attention<D, 4, 2, 4, normed_whole>{}, 30);
  agree(sum, fg::residual(fg::rmsnorm<D, 1e-2>{} | fg::attention<D, 2, 1, 4, normed_heads>{}), 20);
  agree(sum, fg::shared_experts<qwen>{}, 30);

  agree(sum, fg::mixture<plain>{}, 10);
  agree(sum, fg::mixture<normalised>{}, 10);
  agree(sum, fg::mixture<v1>{}, 10);
  agree(sum, fg::mixture<v2>{}, 10);
  agree(sum, fg::mixture<v3>{}, 10);
  agree(sum, fg::mixture<v4>{}, 10);
  agree(sum, fg::mixture<qwen>{}, 10);
  agree(sum, fg::mixture<raw_sigmoid>{}, 10);
  agree(sum, fg::mixture<raw_root>{}, 10);
  agree(sum, fg::mixture<all>{}, 10);

  agree(sum, fg::mixture<v1>{}, 10, {.balance = {.expert = 0.8}});
  agree(sum, fg::mixture<v3>{}, 10, {.balance = {.expert = 0.8}});
  agree(sum, fg::mixture<v4>{}, 10, {.balance = {.expert = 0.8}});
  agree(sum, fg::mixture<v3>{}, 10, {.top_k = 1, .mask_best = 2, .balance = {.expert = 0.8}});
  agree(sum, fg::mixture<qwen>{}, 10, {.shared = false});

  agree(sum, block{}, 20);
  agree(sum, (fg::rmsnorm<D>{} + fg::mlp<D, 3>{}) | fg::repeat<2>(fg::linear<D, D>{}), 20);
  agree(sum,
        fg::embedding<5, D>{} |
            fg::repeat<2>(fg::residual(fg::rmsnorm<D>{} | fg::attention<D, 2, 1, 4>{}) |
                          fg::residual(fg::rmsnorm<D>{} | fg::mixture<v3>{})) |
            fg::rmsnorm<D>{} | fg::head<D, 5>{},
        12, {.balance = {.expert = 0.5}}, 2e-6);  // norms of small embeddings bend sharply
  agree(sum, fg::tied(fg::embedding<5, D>{}, fg::residual(fg::mlp<D, 3>{}) | fg::linear<D, D>{}),
        20);

  CHECK(sum.partials >= 100'000);
  CHECK(sum.skipped < sum.partials / 100);
}

template <fg::Expr E>
fg::gradient_report check_one(E, double x0 = 1.25) {
  fg::network<E, fg::reference> net({.deviation = 0.5});
  std::vector<double> x(2 * D, x0);
  return fg::check_gradients(net, {.tokens = 2}, {x.data(), 2, D});
}

TEST_CASE("a wrong gradient is found and named") {
  auto const report = check_one(fg::linear<D, D>{} | cube<false>{});
  CHECK(report.worst > 0.1);
  CHECK(check_one(fg::linear<D, D>{} | cube<true>{}).worst < 1e-7);

  auto const alone = check_one(cube<false>{});
  CHECK(alone.where.substr(0, 2) == "x[");
  CHECK(alone.gradient == Approx(alone.difference / 3));
}

TEST_CASE("a backward that does not add to gradients when it is told to is found, in a sentence") {
  CHECK(check_one(factor<fault::none>{}).worst < 1e-7);
  CHECK(check_one(factor<fault::none>{}).finding == "");
  auto const report = check_one(fg::linear<D, D>{} | factor<fault::overwrites>{});
  CHECK(std::isinf(report.worst));
  CHECK(report.where == "factor.a[0]");
  CHECK(report.difference == Approx(2 * report.gradient));
  CHECK_THAT(report.finding, ContainsSubstring("told to add") && ContainsSubstring("factor.a[0]") &&
                                 ContainsSubstring("twice the gradient"));
  auto const other = check_one(factor<fault::adds_to_dx>{});
  CHECK(other.where == "x[0]");
  CHECK_THAT(other.finding, ContainsSubstring("written, not added"));
}

TEST_CASE("a forward that is not finite is the weight's error, not the loss's") {
  auto const report = check_one(fg::linear<D, D>{}, std::numeric_limits<double>::quiet_NaN());
  CHECK(report.finding == "");
  CHECK(report.where == "weight[0]");
  CHECK(std::isinf(report.worst));
}

TEST_CASE("a gradient that backward did not write is an infinite error") {
  CHECK(std::isinf(check_one(forgetful{}).worst));
}

TEST_CASE("a number at which the function jumps is skipped and counted") {
  auto const report = check_one(step{}, 0.0);
  CHECK(report.skipped == 2 * D);
  CHECK(report.partials == 0);
  CHECK(check_one(step{}, 1.0).partials == 2 * D);
}

TEST_CASE("the check leaves weights and x as they were") {
  fg::network<fg::mlp<D, 4>, fg::reference> net;
  std::vector<double> const before(net.parameters().begin(), net.parameters().end());
  std::vector<double> const x(3 * D, 0.5), same = x;
  fg::check_gradients(net, {.tokens = 3}, {x.data(), 3, D}, {.every = 2});
  CHECK(std::equal(before.begin(), before.end(), net.parameters().begin()));
  CHECK(x == same);
}

TEST_CASE("a loss that throws at any time leaves weights as they were") {
  fg::network<fg::linear<2, 2>, fg::reference> net;
  std::vector<double> const before(net.parameters().begin(), net.parameters().end());
  std::vector<double> const x(2, 0.5);
  int calls = 0, last = 0;
  auto const loss = [&](fg::reference const&, std::int64_t, fg::matrix<double const> y,
                        fg::matrix<double> dy) {
    if (++calls == last) throw std::runtime_error("enough");
    if (dy.data) std::fill_n(dy.data, dy.rows * dy.cols, 1.0);
    return std::accumulate(y.data, y.data + y.rows * y.cols, 0.0);
  };
  fg::check_gradients(net, {.tokens = 1}, {x.data(), 1, 2}, loss);
  int const asked = std::exchange(calls, 0);
  REQUIRE(asked > 2 * 4);
  for (last = 1; last <= asked; ++last, calls = 0) {
    CAPTURE(last);
    CHECK_THROWS_AS(fg::check_gradients(net, {.tokens = 1}, {x.data(), 1, 2}, loss),
                    std::runtime_error);
    CHECK(std::equal(before.begin(), before.end(), net.parameters().begin()));
  }
}

TEST_CASE("a batch without tokens has gradients of exactly 0") {
  fg::network<decltype(block{} | fg::attention<D, 3>{} | fg::mixture<v3>{}), fg::reference> net;
  auto const report = fg::check_gradients(net, {.tokens = 0, .routing = {.balance = {.expert = 1}}},
                                          {nullptr, 0, D});
  CHECK(report.worst == 0);
  CHECK(report.partials > 0);
}

}  // namespace
