// Memory: none is taken once there is room, and running out of it anywhere breaks nothing.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <cstddef>
#include <finegrain/io/frozen.hpp>
#include <finegrain/io/published_config.hpp>
#include <finegrain/io/published_families.hpp>
#include <finegrain/io/weights.hpp>
#include <finegrain/model/activations.hpp>
#include <finegrain/model/generate.hpp>
#include <finegrain/train/trainer.hpp>
#include <optional>

#include "../allocations.hpp"
#include "../catch.hpp"
#include "../folder.hpp"
#include "../tiny.hpp"
#include "executors.hpp"

// Allocations are counted, and one can be made to fail.
namespace {

std::atomic<std::int64_t> allocations{0};
std::atomic<std::int64_t> failing{-1};  // the allocation that fails, from now; -1: none

void allocating(std::size_t) {
  ++allocations;
  if (failing >= 0 && failing-- == 0) throw std::bad_alloc();
}

}  // namespace

namespace fg = finegrain;

namespace {

/// Allocations while f runs.
template <class F>
std::int64_t allocations_of(F&& f) {
  std::int64_t const before = allocations;
  f();
  return allocations - before;
}

/// Runs f with the first allocation failing, then with the second, ... until none fails any more.
/// f gets everything ready, calls `attempt(work)`, during which memory fails, and checks what is
/// left if that is false. How many allocations there were.
template <class F>
int fail_each(F&& f) {
  for (int n = 0;; ++n) {
    bool succeeded = true;
    f([&](auto&& work) {
      failing = n;
      try {
        work();
      } catch (std::bad_alloc const&) {
        succeeded = false;
      }
      failing = -1;
      return succeeded;
    });
    if (succeeded) return n;
  }
}

template <class Net>
std::vector<typename Net::S> weights_of(Net const& net) {
  return {net.parameters().begin(), net.parameters().end()};
}

}  // namespace

TEMPLATE_TEST_CASE("after reserve, forward and backward take no memory", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::thread_pool pool(2);
  fg::network<tiny::decoder, TestType> net({.deviation = 0.3}, TestType{pool});
  tiny::text const text(50);
  std::vector<S> y(50 * 32), dy(50 * 32, S(0.1));
  fg::matrix<S> const out(y.data(), 50, 32);
  auto log = net.make_log();
  fg::batch const b{
      .tokens = 50, .ids = text.inputs(), .routing = {.balance = {.expert = 0.1}}, .log = &log};
  net.reserve(50, true);
  auto cache = net.make_cache(50), two = net.make_cache(50, 2);
  std::vector<std::int64_t> const starts{0, 0, 50};
  CHECK(allocations_of([&] {
          net.forward(b, {}, out);
          net.backward(fg::matrix<S const>(dy.data(), 50, 32));
          net.infer(b, {}, out);
          net.infer({.tokens = 1, .ids = text.inputs().subspan(0, 1)}, {}, out.middle_rows(0, 1),
                    &cache);
          net.infer({.tokens = 50, .ids = text.inputs(), .starts = starts}, {}, out, &two);
        }) == 0);
  CHECK(allocations_of([] { ::operator delete(::operator new(3)); }) == 1);  // the counter counts
}

TEMPLATE_TEST_CASE("after reserve, passes that are watched take no memory", "", EXECUTORS) {
  using S = typename TestType::scalar;
  fg::thread_pool pool(2);
  using E = fg::watched<tiny::decoder, TestType, "attention">;
  fg::network<E, TestType> net({.deviation = 0.3}, TestType{pool});
  tiny::text const text(50);
  std::vector<S> y(50 * 32), dy(50 * 32, S(0.1));
  fg::matrix<S> const out(y.data(), 50, 32);
  net.reserve(50, true);
  fg::activations seen{net};
  seen.reserve(50, true);
  fg::batch const b{.tokens = 50, .ids = text.inputs(), .seen = &seen};
  CHECK(allocations_of([&] {
          net.infer(b, {}, out);
          net.forward(b, {}, out);
          net.backward(fg::matrix<S const>(dy.data(), 50, 32));
          CHECK(seen["layers.1"].rows + seen.gradient("layers.0.attention").rows == 100);
        }) == 0);
}

TEMPLATE_TEST_CASE("after the first, a training step takes no memory", "", EXECUTORS) {
  fg::thread_pool pool(2);
  fg::network<tiny::decoder, TestType> net({.deviation = 0.3}, TestType{pool});
  fg::trainer train{net};
  tiny::text const text(50);
  train.step(text.inputs(), text.targets());
  CHECK(allocations_of([&] {
          train.step(text.inputs(), text.targets());
          train.step(text.inputs().subspan(7), text.targets().subspan(7));
          train.evaluate(text.inputs(), text.targets());
        }) == 0);
  fg::network<tiny::decoder, TestType> other({.deviation = 0.3}, TestType{pool});
  fg::trainer reserved{other};
  reserved.reserve(50);
  CHECK(allocations_of([&] {
          reserved.step(text.inputs(), text.targets());
          reserved.evaluate(text.inputs(), text.targets());
        }) == 0);
}

TEST_CASE("with an optimiser of one's own a step takes no memory once there is room") {
  struct matrices_stay : fg::update_rule {
    bool move(fg::weight_update<float> const& w) const override {
      return w.role == fg::role::projection;
    }
    bool move(fg::weight_update<double> const&) const override { return false; }
  } const rule;
  fg::thread_pool pool(2);
  fg::network<tiny::decoder, fg::cpu> net({.deviation = 0.3}, fg::cpu{pool});
  fg::trainer train{net, {}, {.update = &rule}};
  tiny::text const text(50);
  train.reserve(50);
  CHECK(allocations_of([&] { train.step(text.inputs(), text.targets()); }) == 0);
}

TEST_CASE("generation takes memory before the first token, and none after it") {
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.3});
  tiny::text const text(70);
  std::int64_t at_first = 0, at_last = 0;
  int tokens = 0;
  fg::generate(net, text.inputs(), 40, {.temperature = 1, .top_k = 7, .top_p = 0.9},
               [&](std::int32_t) {
                 if (tokens++ == 0) at_first = allocations;
                 at_last = allocations;
               });
  CHECK(tokens == 40);
  CHECK(at_last == at_first);
  std::vector<fg::id_list> const prompts{text.inputs(), text.inputs().subspan(60)};
  tokens = 0;
  fg::generate(net, prompts, 40, {.temperature = 1}, [&](std::int64_t, std::int32_t) {
    if (tokens++ == 0) at_first = allocations;
    at_last = allocations;
  });
  CHECK(tokens == 80);
  CHECK(at_last == at_first);
}

TEMPLATE_TEST_CASE("a network that finds no memory for itself throws", "", EXECUTORS) {
  TestType const on{};  // its threads start before memory runs out
  CHECK(fail_each([&](auto attempt) {
          attempt([&] { fg::network<tiny::decoder, TestType> net({}, on); });
        }) > 10);
}

TEMPLATE_TEST_CASE("without memory for a batch, the network stays as it was and works later", "",
                   EXECUTORS) {
  using S = typename TestType::scalar;
  tiny::text const text(50);
  fg::batch const b{.tokens = 50, .ids = text.inputs()};
  std::vector<S> right(50 * 32);
  fg::network<tiny::decoder, TestType>({.deviation = 0.3})
      .infer(b, {}, fg::matrix<S>(right.data(), 50, 32));
  for (bool training : {false, true}) {
    CHECK(fail_each([&](auto attempt) {
            fg::network<tiny::decoder, TestType> net({.deviation = 0.3});
            auto const before = weights_of(net);
            std::vector<S> y(50 * 32, S(7));
            fg::matrix<S> const out(y.data(), 50, 32);
            if (!attempt([&] { training ? net.forward(b, {}, out) : net.infer(b, {}, out); })) {
              CHECK(weights_of(net) == before);
              CHECK(y == std::vector<S>(50 * 32, S(7)));
              net.infer(b, {}, out);
            }
            CHECK(y == right);
          }) == (training ? 2 : 1));
  }
}

TEMPLATE_TEST_CASE("a step that finds no memory changes nothing, and can be repeated", "",
                   EXECUTORS) {
  tiny::text const text(50);
  fg::network<tiny::decoder, TestType> twin({.deviation = 0.3});
  fg::trainer other{twin};
  other.step(text.inputs(), text.targets());
  CHECK(fail_each([&](auto attempt) {
          fg::network<tiny::decoder, TestType> net({.deviation = 0.3});
          fg::trainer train{net};
          auto const before = weights_of(net);
          if (!attempt([&] { train.step(text.inputs(), text.targets()); })) {
            CHECK(weights_of(net) == before);
            CHECK(train.steps() == 0);
            train.step(text.inputs(), text.targets());
          }
          CHECK(weights_of(net) == weights_of(twin));
        }) == 2);
  CHECK(fail_each([&](auto attempt) { attempt([&] { fg::trainer unborn{twin}; }); }) >= 3);
}

TEST_CASE("weights that find no memory are loaded all or not, and saved all or not") {
  folder const here;
  fg::network<tiny::decoder, fg::reference> net({.deviation = 0.3});
  fg::save_weights(net, here / "w");
  CHECK(fail_each([&](auto attempt) {
          fg::network<tiny::decoder, fg::reference> other({.deviation = 0.7});
          auto const before = weights_of(other);
          bool const loaded = attempt([&] { fg::load_weights(other, here / "w"); });
          CHECK(weights_of(other) == (loaded ? weights_of(net) : before));
        }) > 10);
  CHECK(fail_each([&](auto attempt) {
          attempt([&] { fg::save_weights(net, here / "w"); });
          CHECK_NOTHROW(fg::safetensors_file(here / "w"));
          CHECK(here.files() == 1);
        }) > 10);
}

TEST_CASE("packed weights that find no memory are loaded all or not, and saved all or not") {
  using reader = fg::frozen<tiny::decoder, fg::cpu, fg::format::int8>;
  folder const here;
  fg::network<tiny::decoder, fg::cpu> const net({.deviation = 0.3});
  reader packed(net);
  fg::save_weights(packed, here / "w");
  auto const outputs = [](reader& of) {
    std::vector<std::int32_t> const ids{3, 1, 2};
    std::vector<float> y(3 * 32);
    of(ids, fg::matrix<float>(y.data(), 3, 32));
    return y;
  };
  auto const expected = outputs(packed);
  CHECK(fail_each([&](auto attempt) {
          std::optional<reader> again;
          attempt([&] { again.emplace(fg::load_weights<reader>(here / "w")); });
          if (again) CHECK(outputs(*again) == expected);
        }) > 10);
  CHECK(fail_each([&](auto attempt) {
          attempt([&] { fg::save_weights(packed, here / "w"); });
          CHECK_NOTHROW(fg::safetensors_file(here / "w"));
          CHECK(here.files() == 1);
        }) > 10);
}

TEST_CASE("a decoder that finds no memory is published all or not") {
  folder const here;
  constexpr fg::architecture a = [] {
    fg::architecture mixtral = tiny::numbers;
    mixtral.dense_layers = mixtral.dense_width = 0;
    mixtral.moe = {.hidden = 16, .width = 16, .routed = 4, .top_k = 2, .renormalise = true};
    return fg::checked(mixtral);
  }();
  fg::network<fg::decoder<a>, fg::cpu> const net({.deviation = 0.3});
  CHECK(fail_each([&](auto attempt) {
          bool const written =
              attempt([&] { fg::save_published(net, here / "m", fg::families::mixtral); });
          CHECK(std::filesystem::exists(here / "m/config.json") == written);
          std::filesystem::remove_all(here / "m");
        }) > 10);
}

TEST_CASE("a config's list of layers is compared once, however many layers there are") {
  folder const here;
  std::string types = "{\"layer_types\": [\"sliding_attention\"";
  for (int i = 1; i < 500; ++i) types += ", \"sliding_attention\"";
  put(here / "config.json", types + "]}");
  auto const taken_by = [&]<class E>(E) {
    std::size_t differences = 0;
    std::int64_t const taken = allocations_of([&] {
      try {
        fg::check_published<E>(here / "config.json");
      } catch (fg::mismatch const& e) {
        differences = e.differences->size();
      }
    });
    CHECK(differences == 500);
    return taken;
  };
  using layer = fg::attention<16, 2, 1, 8>;
  CHECK(taken_by(fg::repeat<100>(layer{})) < 2 * taken_by(layer{}));
}
