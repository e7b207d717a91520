// Generated text: the cache changes nothing, seeds decide everything.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <finegrain/model/frozen.hpp>
#include <finegrain/model/generate.hpp>
#include <finegrain/train/trainer.hpp>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "executors.hpp"

namespace fg = finegrain;

namespace {

template <class Net>
std::vector<std::int32_t> generated(Net const& net, std::span<std::int32_t const> prompt,
                                    std::int64_t count, fg::sampling how = {}) {
  std::vector<std::int32_t> ids;
  fg::generate(net, prompt, count, how, [&](std::int32_t id) { ids.push_back(id); });
  return ids;
}

std::vector<std::int32_t> draws(fg::sampling how, std::vector<double> const& logits, int count) {
  fg::sampler draw(how, int(logits.size()));
  std::vector<std::int32_t> ids;
  for (int n = 0; n < count; ++n) ids.push_back(draw(logits.data(), std::uint64_t(n)));
  return ids;
}

/// What each of several prompts becomes, together.
template <class Net>
std::vector<std::vector<std::int32_t>> together(Net const& net,
                                                std::vector<fg::id_list> const& prompts,
                                                std::int64_t count, fg::sampling how = {}) {
  std::vector<std::vector<std::int32_t>> made(prompts.size());
  fg::generate(net, prompts, count, how,
               [&](std::int64_t i, std::int32_t id) { made[std::size_t(i)].push_back(id); });
  return made;
}

/// Texts in the places of a cache, each from its first token to its last, one behind the other; how
/// many tokens of each place a pass takes is random, often none. Each text's logits must have the
/// bits of one pass of it alone.
template <class Net>
void check_places(Net& net, std::uint64_t seed) {
  using S = typename Net::S;
  constexpr std::int64_t sequences = 5, longest = 41, passes = 60, rows = 40;
  tiny::text const text(200);
  auto cache = net.make_cache(longest, sequences);
  std::fill(cache.numbers.begin(), cache.numbers.end(), S(NAN));
  struct running {
    std::vector<std::int32_t> tokens = {};
    std::size_t read = 0;  // of them
    std::vector<S> whole = {};
  } places[sequences];
  std::uint64_t draws = 0;
  auto const below = [&](std::uint64_t n) { return fg::random_word(seed, draws++) % n; };
  int ended = 0, copied = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> starts{0};
    for (std::int64_t s = 0; s < sequences; ++s) {
      running& r = places[s];
      if (r.read == r.tokens.size()) {
        ended += r.read > 0;
        auto const other = std::int64_t(below(sequences));
        running const& donor = places[other];
        // It begins anew, or as a part of another did whose tokens passes have read: all, or some.
        auto const seen = std::size_t(cache.lengths[std::size_t(other)]);
        auto const shared = below(2) == 0 ? 0 : below(2) == 0 ? seen : below(seen + 1);
        auto const begun =
            std::vector(donor.tokens.begin(), donor.tokens.begin() + std::ptrdiff_t(shared));
        if (shared == 0)
          cache.reset(s);
        else if (shared == seen)
          cache.copy(other, s);
        else
          cache.copy(other, s, std::int64_t(shared));
        copied += shared > 0 && other != s;
        auto const rest = text.inputs().subspan(
            below(100), shared == 0 ? 1 + below(longest) : below(longest - shared + 1));
        r = {begun, shared};
        r.tokens.insert(r.tokens.end(), rest.begin(), rest.end());
        r.whole.resize(r.tokens.size() * 32);
        net(r.tokens, fg::matrix<S>(r.whole.data(), std::ssize(r.tokens), 32));
      }
      std::size_t const n = std::min(
          {below(3) * (1 + below(4)), r.tokens.size() - r.read, std::size_t(rows) - ids.size()});
      ids.insert(ids.end(), r.tokens.begin() + std::ptrdiff_t(r.read),
                 r.tokens.begin() + std::ptrdiff_t(r.read + n));
      starts.push_back(std::int64_t(ids.size()));
    }
    auto const T = std::int64_t(ids.size());
    std::vector<S> y(std::size_t(T) * 32, S(NAN));
    net.infer({.tokens = T, .ids = ids, .starts = starts}, {}, fg::matrix<S>(y.data(), T, 32),
              &cache);
    for (std::size_t s = 0; s < std::size_t(sequences); ++s) {
      running& r = places[s];
      auto const first = std::size_t(starts[s]), n = std::size_t(starts[s + 1]) - first;
      CAPTURE(pass, s, r.read, n);
      CHECK(std::equal(y.begin() + std::ptrdiff_t(first * 32),
                       y.begin() + std::ptrdiff_t((first + n) * 32),
                       r.whole.begin() + std::ptrdiff_t(r.read * 32)));
      r.read += n;
      CHECK(cache.lengths[s] == std::int64_t(r.read));
    }
  }
  CHECK(ended > 10);
  CHECK(copied > 5);
}

/// How often each id comes among n draws.
std::vector<double> shares(fg::sampling how, std::vector<double> const& logits, int n = 40'000) {
  std::vector<double> share(logits.size());
  for (std::int32_t id : draws(how, logits, n)) share[std::size_t(id)] += 1.0 / n;
  return share;
}

}  // namespace

TEMPLATE_TEST_CASE("with a cache, token by token or in parts, logits have the bits of one pass", "",
                   EXECUTORS) {
  auto const check = []<class E>(E) {
    using S = typename TestType::scalar;
    fg::network<E, TestType> net({.deviation = 0.4, .seed = 2});
    tiny::text const text(41);
    std::vector<S> whole(41 * 32), parts(41 * 32, S(NAN));
    net(text.inputs(), fg::matrix<S>(whole.data(), 41, 32));
    for (std::int64_t step : {1, 2, 7, 41}) {
      CAPTURE(step);
      auto cache = net.make_cache(41);
      for (std::int64_t at = 0; at < 41; at += step) {
        std::int64_t const n = std::min(step, 41 - at);
        net.infer({.tokens = n, .ids = text.inputs().subspan(std::size_t(at), std::size_t(n))}, {},
                  fg::matrix<S>(parts.data() + at * 32, n, 32), &cache);
      }
      CHECK(std::memcmp(whole.data(), parts.data(), whole.size() * sizeof(S)) == 0);
    }
  };
  check(tiny::decoder{});
  check(tiny::latent_decoder{});
  check(tiny::formed_decoder{});
}

TEMPLATE_TEST_CASE("several sequences with a cache, some at rest, some replaced: each is as alone",
                   "", EXECUTORS) {
  fg::network<tiny::decoder, TestType> plain({.deviation = 0.4, .seed = 2});
  check_places(plain, 1);
  fg::network<tiny::latent_decoder, TestType> latent({.deviation = 0.4, .seed = 2});
  check_places(latent, 2);
  fg::network<tiny::formed_decoder, TestType> formed({.deviation = 0.4, .seed = 2});
  check_places(formed, 7);
}

TEST_CASE("so are those of frozen networks, and for any number of threads") {
  fg::thread_pool pool(3);
  for (fg::cpu const& on : {fg::cpu(fg::parallel{}), fg::cpu(pool)}) {
    fg::network<tiny::decoder, fg::cpu> plain({.deviation = 0.4, .seed = 2}, on);
    auto coarse = fg::quantize<fg::format::int4, fg::format::int8>(plain);
    check_places(plain, 3);
    check_places(coarse, 4);
    fg::network<tiny::latent_decoder, fg::cpu> latent({.deviation = 0.4, .seed = 2}, on);
    auto half = fg::quantize<fg::format::bf16>(latent);
    check_places(latent, 5);
    check_places(half, 6);
  }
}

TEMPLATE_TEST_CASE("several prompts become what each becomes alone, with a seed of its own", "",
                   EXECUTORS) {
  fg::network<tiny::decoder, TestType> const net({.deviation = 0.4, .seed = 2});
  tiny::text const text(1100);
  std::vector<fg::id_list> const prompts{text.inputs().subspan(0, 5), text.inputs().subspan(3, 990),
                                         text.inputs().subspan(7, 1), text.inputs().subspan(7, 1),
                                         text.inputs().subspan(2, 64)};
  for (double temperature : {0.0, 1.0}) {
    fg::sampling how{.temperature = temperature, .seed = 3};
    auto const made = together(net, prompts, 12, how);
    for (std::size_t i = 0; i < prompts.size(); ++i, ++how.seed)
      CHECK(made[i] == generated(net, prompts[i], 12, how));
    CHECK((made[2] == made[3]) == (temperature == 0));
  }
}

TEST_CASE("a text that its sink ends leaves the others as they are") {
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.4, .seed = 2});
  tiny::text const text(150);
  std::vector<fg::id_list> prompts;  // more than the tokens of prompts that go through at a time
  for (std::size_t i = 0; i < 70; ++i) prompts.push_back(text.inputs().subspan(i, 1 + i % 3 * 20));
  auto const all = together(net, prompts, 9);
  std::vector<std::vector<std::int32_t>> made(prompts.size());
  fg::generate(net, prompts, 9, {}, [&](std::int64_t i, std::int32_t id) {
    made[std::size_t(i)].push_back(id);
    return std::int64_t(made[std::size_t(i)].size()) != i % 11;  // 0, 10: to the end
  });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    auto const ends = i % 11 == 0 || i % 11 == 10 ? 9 : std::ptrdiff_t(i % 11);
    CHECK(made[i] == std::vector<std::int32_t>(all[i].begin(), all[i].begin() + ends));
  }
  CHECK(together(net, {}, 9).empty());
}

TEMPLATE_TEST_CASE("a decoder of published attention learns a text, and generates it from codes",
                   "", tiny::latent_decoder, tiny::formed_decoder) {
  tiny::text const text(40);
  fg::network<TestType, fg::cpu> net({.deviation = 0.2, .seed = 2});
  fg::trainer train(net, fg::adamw{.lr = 1e-2f});
  double first = 0, last = 0;
  for (int i = 0; i < 30; ++i) {
    last = train.step({.tokens = 40, .ids = text.inputs()}, text.targets()).loss;
    if (i == 0) first = last;
  }
  CHECK(first > 3);
  CHECK(last < 0.5);
  auto const prompt = text.inputs().first(12);
  std::vector<std::int32_t> const right(text.inputs().begin() + 12, text.inputs().begin() + 36);
  CHECK(generated(net, prompt, 24) == right);
  CHECK(generated(fg::quantize<fg::format::int8>(net), prompt, 24) == right);
}

TEMPLATE_TEST_CASE("greedy generation takes the likeliest token of a full pass each time", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  fg::network<tiny::decoder, TestType> net({.deviation = 0.4, .seed = 2});
  for (std::size_t length : {1u, 5u, 64u, 1024u, 1025u}) {
    tiny::text const text(length);
    std::vector<std::int32_t> right(text.inputs().begin(), text.inputs().end());
    for (int n = 0; n < 4; ++n) {
      std::vector<S> logits(right.size() * 32);
      net(right, fg::matrix<S>(logits.data(), std::int64_t(right.size()), 32));
      auto const last = logits.end() - 32;
      right.push_back(std::int32_t(std::max_element(last, logits.end()) - last));
    }
    right.erase(right.begin(), right.begin() + std::ptrdiff_t(length));
    CAPTURE(length);
    CHECK(generated(net, text.inputs(), 4) == right);
  }
}

TEST_CASE("a seed gives the same text again, another seed another") {
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.4});
  tiny::text const text(5);
  fg::sampling how{.temperature = 1, .seed = 1};
  auto const first = generated(net, text.inputs(), 30, how);
  CHECK(generated(net, text.inputs(), 30, how) == first);
  how.seed = 2;
  CHECK(generated(net, text.inputs(), 30, how) != first);
}

TEST_CASE("what is asked of the routers is asked for every token") {
  fg::network<tiny::decoder, fg::cpu> net({.deviation = 0.4, .seed = 2});
  tiny::text const text(8);
  auto const with = [&](int top_k) {
    return generated(net, text.inputs(), 40, {.routing = {.top_k = top_k}});
  };
  CHECK(with(2) == with(0));
  CHECK(with(1) != with(0));
}

TEST_CASE("a sink that returns false ends the text") {
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.4});
  tiny::text const text(5);
  int calls = 0;
  fg::generate(net, text.inputs(), 30, {}, [&](std::int32_t) { return ++calls < 4; });
  CHECK(calls == 4);
  CHECK(generated(net, text.inputs(), 0).empty());
}

TEST_CASE(
    "a prompt that is empty or unknown, and less than no tokens or endless many, are refused") {
  fg::network<tiny::decoder, fg::cpu> const net;
  std::vector<std::int32_t> const unknown{1, 32};
  CHECK_THROWS_WITH(generated(net, {}, 3), "generate needs a prompt of at least one token");
  CHECK_THROWS_WITH(together(net, {unknown, {}}, 3),
                    "generate needs a prompt of at least one token");
  CHECK_THROWS_WITH(together(net, {std::span(unknown).first(1), unknown}, 3),
                    ContainsSubstring("token 1 has the id 32"));
  CHECK_THROWS_WITH(generated(net, unknown, 3), ContainsSubstring("token 1 has the id 32"));
  CHECK_THROWS_WITH(generated(net, unknown, -1), "generate cannot make -1 tokens");
  CHECK_THROWS_WITH(generated(net, unknown, INT64_MAX),
                    "generate cannot make 9223372036854775807 tokens");
  CHECK_THROWS_WITH(generated(net, unknown, 3, {.temperature = -1}),
                    ContainsSubstring("sampling needs temperature >= 0"));
  CHECK_THROWS_AS(generated(net, unknown, 3, {.temperature = NAN}), fg::invalid_argument);
  CHECK_THROWS_AS(generated(net, unknown, 3, {.top_k = -1}), fg::invalid_argument);
  CHECK_THROWS_AS(generated(net, unknown, 3, {.top_p = 0}), fg::invalid_argument);
  CHECK_THROWS_AS(generated(net, unknown, 3, {.top_p = 1.5}), fg::invalid_argument);
}

TEST_CASE("an id that is unknown is refused before a token is made, however late a prompt has it") {
  fg::network<tiny::decoder, fg::cpu> const net;
  std::vector<std::int32_t> const known{1, 2};
  std::vector<std::int32_t> unknown(3000, 3);
  unknown[2900] = 32;
  std::vector<fg::id_list> const prompts{known, unknown};
  int made = 0;
  CHECK_THROWS_WITH(fg::generate(net, prompts, 5, {}, [&](std::int64_t, std::int32_t) { ++made; }),
                    ContainsSubstring("token 2900 has the id 32"));
  CHECK(made == 0);
}

TEST_CASE("a sampler draws from numbers of 16 bits too, and from one id at least") {
  std::vector<fg::bf16> logits;
  for (double x : {1.0, 2.0, 3.0, 0.0, double(NAN)}) logits.emplace_back(float(x));
  fg::sampler greedy({}, 5), warm({.temperature = 1}, 5);
  CHECK(greedy(logits.data(), 0) == 2);
  std::vector<double> const wide{1, 2, 3, 0, NAN};
  for (std::uint64_t n = 0; n < 50; ++n) CHECK(warm(logits.data(), n) == warm(wide.data(), n));
  for (int none : {0, -1})
    CHECK_THROWS_WITH(fg::sampler({}, none),
                      "a sampler draws from one id or more, not from " + std::to_string(none));
}

TEST_CASE("tokens come as often as their probability says") {
  std::vector<double> const logits{std::log(1.0), std::log(2.0), std::log(4.0), std::log(3.0)};
  auto const plain = shares({.temperature = 1}, logits);
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(plain[i] == Approx(std::exp(logits[i]) / 10).margin(0.01));
  auto const cold = shares({.temperature = 0.5}, logits);  // squares
  for (std::size_t i = 0; i < 4; ++i)
    CHECK(cold[i] == Approx(std::exp(2 * logits[i]) / 30).margin(0.01));
}

TEST_CASE("top_k keeps the k likeliest, top_p the fewest that reach p") {
  std::vector<double> const logits{std::log(1.0), std::log(2.0), std::log(4.0), std::log(3.0)};
  auto const two = shares({.temperature = 1, .top_k = 2}, logits);
  CHECK(two[0] + two[1] == 0);
  CHECK(two[2] == Approx(4.0 / 7).margin(0.01));
  CHECK(shares({.temperature = 1, .top_k = 1}, logits)[2] == Approx(1));
  CHECK(shares({.temperature = 1, .top_k = 99}, logits)[0] > 0.09);
  CHECK(shares({.temperature = 1, .top_p = 0.39}, logits)[2] == Approx(1));
  auto const most = shares({.temperature = 1, .top_p = 0.65}, logits);
  CHECK(most[0] + most[1] == 0);
  CHECK(most[3] == Approx(3.0 / 7).margin(0.01));
  CHECK(shares({.temperature = 1, .top_p = 0.75}, logits)[1] > 0.1);
}

TEST_CASE("a text of a network that keeps nothing of earlier tokens follows from the last one") {
  fg::network<fg::then<fg::embedding<32, 16>, fg::head<16, 32>>, fg::cpu> const net(
      {.deviation = 0.4, .seed = 1});
  std::vector<std::int32_t> const prompt{3, 1, 4};
  auto const ids = generated(net, prompt, 6);
  CHECK(ids.size() == 6);
  CHECK(generated(net, std::span(prompt).last(1), 6) == ids);
}

TEST_CASE("equal logits: the lowest id; NaN: last; an infinite one: always") {
  double const nan = NAN, inf = INFINITY;
  CHECK(draws({}, {1, 3, 3, 2}, 1)[0] == 1);
  CHECK(draws({}, {nan, -inf, nan}, 1)[0] == 1);
  CHECK(draws({}, {nan, nan}, 1)[0] == 0);
  CHECK(shares({.temperature = 1}, {nan, 0, nan, 0}, 1000)[0] == 0);
  CHECK(shares({.temperature = 1}, {nan, nan}, 100)[0] == Approx(1));
  CHECK(shares({.temperature = 1}, {0, inf, 0}, 100)[1] == Approx(1));
  CHECK(shares({.temperature = 1}, {-inf, 0, -inf}, 100)[1] == Approx(1));
}
