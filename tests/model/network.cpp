// A network's calls: what they refuse before anything is written, and what they promise.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/plan/timed.hpp>
#include <numeric>
#include <thread>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "block.hpp"

namespace fg = finegrain;
using namespace small;

namespace {

/// Attention before and behind a router that may refuse its rule's choice.
constexpr fg::config ruled{
    .hidden = 16, .width = 8, .routed = 4, .top_k = 2, .selection = fg::selection::rule};
struct ruled_block : fg::named {
  static constexpr auto expr =
      fg::attention<16, 2>{} | fg::mixture<ruled>{} | fg::attention<16, 2>{};
};
/// Sends every token to the same experts, which there may not be.
struct same_for_all : fg::routing_rule {
  std::int32_t first = 0;
  void choose(fg::batch const&, fg::matrix<double const>,
              fg::matrix<std::int32_t> experts) const override {
    for (std::int64_t t = 0; t < experts.rows; ++t)
      std::iota(experts.row(t), experts.row(t) + experts.cols, first);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("shapes that do not fit are refused with both shapes", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16), narrow(4, 15), short_(3, 16);
  CHECK_THROWS_WITH(net(x, narrow), "y is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net(x, short_), "y is 3 x 16; this call needs 4 x 16");
  CHECK_THROWS_WITH(net(narrow, y), "x is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net.infer({.tokens = 5}, x, y), "y is 4 x 16; this call needs 5 x 16");
  CHECK_THROWS_WITH(net.forward({}, x, y),
                    "x has 4 rows and the batch no tokens: say {.tokens = 4}");
  CHECK_THROWS_WITH(net.infer({.tokens = -1}, x, y), "a batch has 0 to 2147483647 tokens, not -1");
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, fg::matrix<S const>(nullptr, 4, 16), y),
                    "x has no memory");
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, fg::matrix<S const>(x.values.data(), 4, 16, 15), y),
                    "the rows of x are 15 numbers apart and 16 long");
  CHECK(y.untouched());
  net.forward({.tokens = 4}, x, y);
  CHECK_THROWS_WITH(net.backward(narrow), "dy is 4 x 15; this call needs 4 x 16");
  CHECK_THROWS_WITH(net.backward(y, short_), "dx is 3 x 16; this call needs 4 x 16");
  CHECK_NOTHROW(net.backward(y));
}

TEMPLATE_TEST_CASE("a backward leaves what its forward kept to the next", "", EXECUTORS) {
  using S = typename TestType::scalar;
  auto const each = [](auto net) {
    auto const x = numbers<S>::random(40, 16, 1), dy = numbers<S>::random(40, 16, 2),
               other = numbers<S>::random(40, 16, 3);
    numbers<S> y(40, 16), dx(40, 16), again(40, 16);
    fg::batch const b{.tokens = 40, .routing = {.balance = {.expert = 0.1, .z = 0.01}}};
    net.forward(b, x, y);
    net.backward(dy, dx);
    auto const first = copy(net.gradient());
    net.backward(other, again);
    CHECK(!(again == dx));
    net.backward(dy, again);
    CHECK(again == dx);
    CHECK(copy(net.gradient()) == first);
    net.backward(dy, again, fg::gradients::accumulate);
    CHECK(again == dx);
    double off = 0;
    for (std::size_t i = 0; i < first.size(); ++i)
      off = std::max(off, double(std::abs(net.gradient()[i] - 2 * first[i])));
    CHECK(off < 1e-4);
  };
  each(fg::network<block, TestType>());
  each(fg::network<fg::mixture<moe>, TestType>());
}

TEMPLATE_TEST_CASE("a network that was moved from says so, until it is given another", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net, other;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16), z(4, 16), dx(4, 16);
  net.forward({.tokens = 4}, x, y);
  fg::network<block, TestType> kept = std::move(net);
  kept(x, z);
  CHECK(y == z);
  auto const gone = [](auto&& call) {
    CHECK_THROWS_WITH(call(), "this network was moved from: its weights are another's now");
  };
  z = numbers<S>(4, 16);
  gone([&] { net(x, z); });
  gone([&] { net.forward({.tokens = 4}, x, z); });
  gone([&] { static_cast<void>(net.weights()); });
  gone([&] { static_cast<void>(net.entries()); });
  CHECK_THROWS_AS(net.backward(y, dx), fg::invalid_argument);
  CHECK_THROWS_AS(net.weight("rmsnorm.gain"), fg::invalid_argument);
  CHECK(z.untouched());
  CHECK(dx.untouched());
  net = std::move(other);
  net(x, z);
  CHECK(!z.untouched());
  net = std::move(kept);
  gone([&] { kept(x, dx); });
  gone([&] { other(x, dx); });
}

TEMPLATE_TEST_CASE("weights may be the caller's, wherever they are", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using network = fg::network<block, TestType>;
  network own({.deviation = 0.3});
  auto const count = own.parameters().size();
  auto const x = numbers<S>::random(37, 16, 1), dy = numbers<S>::random(37, 16, 2);
  numbers<S> y(37, 16), dx(37, 16), z(37, 16), dz(37, 16);
  own.forward({.tokens = 37}, x, y);
  own.backward(dy, dx);
  std::vector<S> memory(count + 3, S(7));
  for (std::size_t first : {0, 1, 3}) {
    std::span<S> const mine(memory.data() + first, count);
    std::ranges::copy(own.parameters(), mine.begin());
    auto const before = memory;
    network lent(mine), other(mine, lent.on());
    CHECK(lent.parameters().data() == mine.data());
    lent.forward({.tokens = 37}, x, z);
    lent.backward(dy, dz);
    CHECK(z == y);
    CHECK(dz == dx);
    CHECK(std::ranges::equal(lent.gradient(), own.gradient()));
    CHECK(memory == before);
    for (auto const& entry : own.entries()) {  // what one writes both read
      fg::matrix<S> const w = lent.weight(entry.name);
      CHECK(w.data == memory.data() + std::int64_t(first) + entry.offset);
      w(0, 0) += S(1);
    }
    lent(x, z);
    other(x, dz);
    CHECK(z == dz);
    CHECK(!(z == y));
    network const kept = std::move(lent);
    CHECK_THROWS_WITH(lent(x, z), "this network was moved from: its weights are another's now");
    CHECK(kept.parameters().data() == mine.data());
  }
  CHECK_THROWS_WITH(network(std::span(memory)), "the network has " + std::to_string(count) +
                                                    " weights; these are " +
                                                    std::to_string(count + 3) + " weights");
}

TEMPLATE_TEST_CASE("input and output may not share memory", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  std::vector<S> memory(8 * 16, S(1));
  fg::matrix<S> const x(memory.data(), 4, 16);
  CHECK_THROWS_WITH(net(x, x), "x and y share memory");
  fg::matrix<S> const row(memory.data(), 1, 16, 0);
  CHECK_THROWS_WITH(net(row, row), "x and y share memory");
  CHECK_THROWS_WITH(net(x, fg::matrix<S>(memory.data() + 63, 4, 16)), "x and y share memory");
  CHECK(memory == std::vector<S>(8 * 16, S(1)));
  CHECK_NOTHROW(net(x, fg::matrix<S>(memory.data() + 64, 4, 16)));
}

TEMPLATE_TEST_CASE("a batch whose sequences do not cover it is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  using list = std::vector<std::int64_t>;
  for (list const& starts : {list{0}, list{0, 3}, list{1, 4}, list{0, 3, 2, 4}, list{0, 5},
                             list{0, -1, 4}, list{0, 5, 4}}) {
    CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = starts}, x, y),
                      "the batch's sequence starts must rise from 0 to 4");
  }
  CHECK(y.untouched());
  CHECK_NOTHROW(net.infer({.tokens = 4, .starts = list{0, 2, 2, 4}}, x, y));
}

TEMPLATE_TEST_CASE("token ids that no row of the table has are refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tiny::decoder, TestType> net;
  for (std::int32_t bad : {-1, 32, 2'000'000'000}) {
    std::vector<std::int32_t> const ids{1, bad, 2};
    numbers<S> y(3, 32);
    CHECK_THROWS_WITH(net(ids, y), ContainsSubstring("token 1 has the id " + std::to_string(bad)));
    CHECK_THROWS_AS(net.forward({.tokens = 3, .ids = ids}, {}, y), fg::invalid_argument);
    CHECK_THROWS_AS(net.backward(y), fg::invalid_argument);  // there was no forward
    CHECK(y.untouched());
  }
  std::vector<std::int32_t> const ids{1, 2};
  numbers<S> y(3, 32);
  char const* const why = "the batch has 3 tokens and 2 token ids";
  CHECK_THROWS_WITH(net.infer({.tokens = 3, .ids = ids}, {}, y), why);
  // An executor with memory of its own copies them there, whether or not a stage reads them.
  fg::network<block, TestType> plain;
  auto const x = numbers<S>::random(3, 16, 1);
  numbers<S> z(3, 16);
  CHECK_THROWS_WITH(plain.infer({.tokens = 3, .ids = ids}, x, z), why);
}

TEMPLATE_TEST_CASE("numbers beside token ids are refused: nothing would read them", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tiny::decoder, TestType> net;
  std::vector<std::int32_t> const ids{1, 2};
  numbers<S> x(2, 16), y(2, 32);
  auto const why = "this network reads token ids: x must be empty, not 2 x 16";
  CHECK_THROWS_WITH(net.infer({.tokens = 2, .ids = ids}, x, y), why);
  CHECK_THROWS_WITH(net.forward({.tokens = 2, .ids = ids}, x, y), why);
  CHECK(y.untouched());
}

TEMPLATE_TEST_CASE("a caller's workspace that is too small or askew is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> const net({.deviation = 0.3});
  auto const x = numbers<S>::random(5, 16, 1);
  numbers<S> y(5, 16);
  std::int64_t const needed = net.workspace_bytes(net.extent_of(5));
  fg::buffer<> memory(needed + 64);
  std::memset(memory.data(), 0x5a, std::size_t(memory.size()));
  auto const span = [&](std::int64_t offset, std::int64_t bytes) {
    return std::span<std::byte>(memory.data() + offset, std::size_t(bytes));
  };
  fg::batch const b{.tokens = 5};
  CHECK_THROWS_WITH(net.infer(b, x, y, span(0, needed - 1)),
                    "the workspace holds " + std::to_string(needed - 1) + " bytes; 5 tokens need " +
                        std::to_string(needed));
  CHECK_THROWS_WITH(net.infer(b, x, y, span(8, needed)),
                    "the workspace must start on a border of 64 bytes");
  CHECK_THROWS_AS(net.infer(b, x, y, {}), fg::invalid_argument);
  CHECK(y.untouched());
  for (std::byte byte : span(0, memory.size())) REQUIRE(byte == std::byte(0x5a));

  net.infer(b, x, y, span(0, needed));
  for (std::byte byte : span(needed, 64)) CHECK(byte == std::byte(0x5a));
  fg::network<block, TestType> own({.deviation = 0.3});
  numbers<S> same(5, 16);
  own(x, same);
  CHECK(y == same);
}

TEMPLATE_TEST_CASE("weights and gradients are found by their names", "", EXECUTORS) {
  fg::network<tiny::decoder, TestType> net({.deviation = 0.3});
  auto const table = net.weight("embedding.table");
  CHECK(table.rows == 32);
  CHECK(table.cols == 16);
  CHECK(table.data == net.weights().a.a.a.table.data);
  for (auto const& entry : fg::list_weights<tiny::decoder>())
    CHECK(net.weight(entry.name).data == net.parameters().data() + entry.offset);
  auto const before = net.writer();
  CHECK(std::as_const(net).weight("embedding.table").data == table.data);  // to be read alone
  CHECK(net.writer() == before);
  CHECK_THROWS_AS(std::as_const(net).weight("embeding"), fg::invalid_argument);
  CHECK_THROWS_WITH(
      net.weight("embeding"),
      "the network has no weight named \"embeding\"; the nearest name is \"embedding.table\"");
  CHECK_THROWS_WITH(net.gradient("embedding.table"),
                    "there are no gradients yet: call forward first, or reserve(tokens, true)");
  net.reserve(1, true);
  CHECK(net.gradient("head.weight").rows == 32);
}

TEMPLATE_TEST_CASE("several threads may infer at a time, each in memory of its own", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::thread_pool pool(2);
  fg::network<block, TestType> net({.deviation = 0.3}, TestType{pool});
  auto const x = numbers<S>::random(33, 16, 1);
  numbers<S> right(33, 16);
  net(x, right);
  std::vector<numbers<S>> results(4, numbers<S>(33, 16));
  std::vector<std::thread> threads;
  for (auto& y : results)
    threads.emplace_back([&net, &x, &y] {
      fg::buffer<> const memory(net.workspace_bytes(net.extent_of(33)));
      for (int i = 0; i < 5; ++i)
        std::as_const(net).infer({.tokens = 33}, x, y, {memory.data(), std::size_t(memory.size())});
    });
  for (auto& thread : threads) thread.join();
  for (auto const& y : results) CHECK(y == right);
}

TEMPLATE_TEST_CASE("a cache takes as many sequences as it is for, up to their ends", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = net.make_cache(6);
  std::int64_t const starts[] = {0, 2, 4};
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = starts}, x, y, &cache),
                    "the cache and the batch differ in their number of sequences: 1 and 2");
  net.infer({.tokens = 4}, x, y, &cache);
  CHECK(cache.lengths[0] == 4);
  numbers<S> more(4, 16);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4}, x, more, &cache),
      "the cache has room for 6 tokens of a sequence; sequence 0 has 4, and 4 more do "
      "not fit");
  CHECK(more.untouched());
  CHECK(cache.lengths[0] == 4);
}

TEMPLATE_TEST_CASE("a sequence of a cache goes on from where it went back to, with the same bits",
                   "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1), guess = numbers<S>::random(2, 16, 2);
  numbers<S> whole(4, 16), first(2, 16), guessed(2, 16), rest(2, 16);
  auto straight = net.make_cache(4), cache = net.make_cache(4);
  net.infer({.tokens = 4}, x, whole, &straight);
  fg::matrix<S const> const in = x;
  net.infer({.tokens = 2}, in.middle_rows(0, 2), first, &cache);
  net.infer({.tokens = 2}, guess, guessed, &cache);
  cache.reset(0, 2);
  net.infer({.tokens = 2}, in.middle_rows(2, 2), rest, &cache);
  fg::matrix<S const> const all = whole, last = rest;
  for (std::int64_t t = 0; t < 2; ++t)
    CHECK(std::equal(last.row(t), last.row(t) + 16, all.row(t + 2)));
}

TEMPLATE_TEST_CASE("what a cache was asked to copy is copied once, though a pass throws", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<ruled_block, TestType> net({.deviation = 0.5});
  auto const x = numbers<S>::random(3, 16, 1);
  numbers<S> whole(3, 16), y(2, 16);
  fg::matrix<S const> const in = x, straight = whole, again = y;
  same_for_all rule;
  std::int64_t const one[] = {0, 3, 3}, each[] = {0, 1, 2};
  auto cache = net.make_cache(4, 2);
  net.infer({.tokens = 3, .starts = one, .routing = {.rule = &rule}}, x, whole, &cache);
  cache.copy(0, 1, 2);
  cache.reset(0);  // a pass then writes over what was copied
  fg::batch const b{.tokens = 2, .starts = each, .routing = {.rule = &rule}};
  rule.first = 3;
  CHECK_THROWS_AS(net.infer(b, in.middle_rows(1, 2), y, &cache), fg::invalid_argument);
  CHECK(cache.lengths == std::vector<std::int64_t>{0, 2});
  rule.first = 0;
  net.infer(b, in.middle_rows(1, 2), y, &cache);
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 3});
  CHECK(std::equal(again.row(1), again.row(1) + 16, straight.row(2)));
}

TEMPLATE_TEST_CASE(
    "each sequence of a cache has room of its own, and one forgotten can begin again", "",
    EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = net.make_cache(3, 2);
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, x, y, &cache),
                    "the cache and the batch differ in their number of sequences: 2 and 1");
  std::int64_t const three[] = {0, 1, 4}, four[] = {0, 0, 4}, all[] = {0, 4, 4};
  net.infer({.tokens = 4, .starts = three}, x, y, &cache);
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 3});
  numbers<S> more(4, 16);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4, .starts = all}, x, more, &cache),
      "the cache has room for 3 tokens of a sequence; sequence 0 has 1, and 4 more do "
      "not fit");
  cache.reset(1);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 4, .starts = four}, x, more, &cache),
      "the cache has room for 3 tokens of a sequence; sequence 1 has 0, and 4 more do "
      "not fit");
  CHECK(more.untouched());
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 0});
  CHECK_THROWS_WITH(cache.reset(2), "the cache holds 2 sequences: there is no sequence 2");
  CHECK_THROWS_AS(cache.reset(-1), fg::invalid_argument);
  CHECK_THROWS_WITH(cache.reset(0, 2),
                    "sequence 0 has 1 tokens in the cache: it cannot go back to 2");
  CHECK_THROWS_AS(cache.reset(0, -1), fg::invalid_argument);
  CHECK_THROWS_WITH(cache.copy(0, 1, 2),
                    "sequence 0 has 1 tokens in the cache: 2 cannot be copied");
  CHECK_THROWS_AS(cache.copy(0, 1, -1), fg::invalid_argument);
  CHECK_THROWS_WITH(cache.copy(2, 1), "the cache holds 2 sequences: there is no sequence 2");
  CHECK_THROWS_WITH(cache.copy(0, 2), "the cache holds 2 sequences: there is no sequence 2");
  CHECK(cache.lengths == std::vector<std::int64_t>{1, 0});
  cache.copy(0, 0, 0);
  CHECK(cache.lengths == std::vector<std::int64_t>{0, 0});
  cache.lengths[0] = 4;
  CHECK_THROWS_WITH(net.infer({.tokens = 4, .starts = three}, x, more, &cache),
                    "the cache is not this network's: use make_cache()");
}

TEMPLATE_TEST_CASE("a seed gives the same network for any number of threads", "", EXECUTORS) {
  fg::thread_pool pool(3);
  fg::network<tiny::decoder, TestType> one({.seed = 5}), many({.seed = 5}, TestType{pool}),
      other({.seed = 6});
  CHECK(copy(one.parameters()) == copy(many.parameters()));
  CHECK(copy(one.parameters()) != copy(other.parameters()));
}

TEMPLATE_TEST_CASE("first weights, room and clocks that cannot be are refused", "", EXECUTORS) {
  using net_of_moe = fg::network<fg::mixture<moe>, TestType>;
  for (double const deviation : {-1.0, double(NAN), double(INFINITY)})
    CHECK_THROWS_WITH(net_of_moe({.deviation = deviation}), ContainsSubstring("first weights"));
  net_of_moe net;
  for (std::int64_t const tokens : {std::int64_t{-1}, INT64_MAX / 2}) {
    CHECK_THROWS_AS(net.reserve(tokens), fg::invalid_argument);
    CHECK_THROWS_AS(net.reserve(tokens, true), fg::invalid_argument);
    CHECK_THROWS_AS(net.reserve_learning(tokens), fg::invalid_argument);
  }
  auto const x = numbers<typename TestType::scalar>::random(3, 16, 1);
  numbers<typename TestType::scalar> y(3, 16);
  fg::timings times;
  CHECK_THROWS_WITH(net.infer({.tokens = 3, .times = &times}, x, y), ContainsSubstring("timed"));
  CHECK(y.untouched());
}

TEMPLATE_TEST_CASE("columns of one matrix that lie side by side may be input and output", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto both = numbers<S>::random(5, 32, 1);
  fg::matrix<S> const all = both, left = all.middle_cols(0, 16), right = all.middle_cols(16, 16);
  numbers<S> x(5, 16), y(5, 16);
  for (int t = 0; t < 5; ++t) std::copy_n(left.row(t), 16, fg::matrix<S>(x).row(t));
  net(x, y);
  net(left, right);
  for (int t = 0; t < 5; ++t)
    CHECK(std::memcmp(right.row(t), fg::matrix<S>(y).row(t), 16 * sizeof(S)) == 0);
  CHECK_THROWS_WITH(net(left, all.middle_cols(15, 16)), "x and y share memory");
  CHECK_THROWS_WITH(net(all.middle_cols(15, 16), left), "x and y share memory");
}

TEMPLATE_TEST_CASE("a cache of another network is refused", "", EXECUTORS) {
  using S = typename TestType::scalar;
  using other = fg::network<fg::attention<16, 4, 1>, TestType>;
  fg::network<block, TestType> net;
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> y(4, 16);
  auto cache = other::make_cache(8);
  CHECK_THROWS_WITH(net.infer({.tokens = 4}, x, y, &cache),
                    "the cache is not this network's: use make_cache()");
  CHECK(y.untouched());
  CHECK_THROWS_AS(net.make_cache(INT64_MAX / 8), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(-1), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(1, 0), fg::invalid_argument);
  CHECK_THROWS_AS(net.make_cache(1, INT64_MAX / 8), fg::invalid_argument);
  using forgetful = fg::network<fg::linear<16, 16>, TestType>;
  CHECK_THROWS_WITH(forgetful::make_cache(8),
                    "there is no cache for this network: no stage of it keeps anything of earlier "
                    "tokens, as attention does");
}

TEMPLATE_TEST_CASE("positions may be given in place of 0, 1, 2, ...", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<block, TestType> net({.deviation = 0.3});
  auto const x = numbers<S>::random(4, 16, 1);
  numbers<S> usual(4, 16), same(4, 16), apart(4, 16);
  std::vector<std::int64_t> const count{0, 1, 2, 3}, gap{0, 1, 2, 9};
  net(x, usual);
  net.infer({.tokens = 4, .positions = count}, x, same);
  net.infer({.tokens = 4, .positions = gap}, x, apart);
  CHECK(same == usual);
  CHECK_FALSE(apart == usual);
  CHECK(std::equal(usual.values.begin(), usual.values.begin() + 48, apart.values.begin()));
  CHECK_THROWS_WITH(
      net.infer({.tokens = 3, .positions = gap}, fg::matrix<S const>(x.values.data(), 3, 16),
                fg::matrix<S>(apart.values.data(), 3, 16)),
      "the batch has 3 tokens and 4 positions");
}
