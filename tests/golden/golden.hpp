// A golden case: its inputs drawn again as make.py drew them, a layer run on them, and the results
// beside those of make.py.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <finegrain/config/profiles.hpp>
#include <finegrain/lab/jsonl.hpp>
#include <finegrain/model/network.hpp>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../catch.hpp"

namespace golden {

namespace fg = finegrain;
using numbers = std::vector<double>;
using results = std::map<std::string, numbers>;

/// Sizes that all cases share.
inline constexpr int D = 7, F = 3;
/// How many cases there are of the configs in published.cpp, and in papers.cpp.
inline constexpr std::size_t published_cases = 86, papers_cases = 81;

/// Every case, or as many as can be read.
inline std::vector<fg::record> const& all_cases() {
  static std::vector<fg::record> const read = [] {
    std::vector<fg::record> cases;
    std::ifstream file(FINEGRAIN_GOLDEN);
    for (std::string line; std::getline(file, line);)
      if (auto r = fg::record::parse(line)) cases.push_back(std::move(*r));
    return cases;
  }();
  return read;
}

inline double number(fg::record const& r, std::string_view key, double otherwise = 0) {
  return r.has(key) ? r.number(key) : otherwise;
}
inline int integer(fg::record const& r, std::string_view key, int otherwise = 0) {
  return static_cast<int>(number(r, key, otherwise));
}

// ---- inputs -------------------------------------------------------------------------------------

inline std::uint64_t seed_of(std::uint64_t seed, std::string_view name) {
  for (char letter : name) seed = fg::random_word(seed, static_cast<unsigned char>(letter));
  return seed;
}
inline std::uint64_t seed_of(fg::record const& r, std::string_view name) {
  return seed_of(static_cast<std::uint64_t>(r.number("seed")), name);
}

/// Whole numbers from -span to span over 64; or, of another unit, as many over that.
inline numbers draw(fg::record const& r, std::string_view name, std::int64_t count, int span = 64) {
  std::uint64_t const seed = seed_of(r, name);
  int const unit = integer(r, "unit", 64), most = span * unit / 64;
  numbers drawn;
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t const word = fg::random_word(seed, static_cast<std::uint64_t>(i));
    int const whole = static_cast<int>(word % static_cast<std::uint64_t>(2 * most + 1)) - most;
    drawn.push_back(static_cast<double>(whole) / unit);
  }
  return drawn;
}
/// Of a table: K different experts for each id, in equal steps that miss none of 15.
inline numbers draw_table(fg::record const& r, std::int64_t vocabulary, std::int64_t k) {
  constexpr int steps[] = {1, 2, 4, 7, 8, 11, 13, 14};
  std::uint64_t const seed = seed_of(r, "table");
  numbers drawn;
  for (std::uint64_t id = 0; id < static_cast<std::uint64_t>(vocabulary); ++id)
    for (int slot = 0; slot < k; ++slot) {
      int const first = static_cast<int>(fg::random_word(seed, 2 * id) % 15);
      drawn.push_back((first + slot * steps[fg::random_word(seed, 2 * id + 1) % 8]) % 15);
    }
  return drawn;
}
inline numbers draw_weight(fg::record const& r, fg::weight_entry const& entry) {
  std::int64_t const count = entry.rows * entry.cols;
  if (entry.name == "table") return draw_table(r, entry.rows, entry.cols);
  if (entry.name == "bias") return draw(r, "bias", count, integer(r, "bias_span", 24));
  if (entry.name == "temperature") return {number(r, "temperature")};
  numbers drawn = draw(r, entry.name, count);
  if (entry.name == "router" && r.has("first_router"))
    for (std::int64_t i = 0; i < count; i += entry.cols)
      drawn[static_cast<std::size_t>(i)] = number(r, "first_router");
  return drawn;
}
inline numbers draw_x(fg::record const& r) {
  numbers drawn = draw(r, "x", integer(r, "T") * D, 96);
  if (r.has("first_x"))
    for (std::size_t i = 0; i < drawn.size(); i += D) drawn[i] = number(r, "first_x");
  return drawn;
}

/// What a case asks of the layer. It owns what the batch points to.
struct asked {
  std::vector<std::int64_t> starts;
  std::vector<std::int32_t> ids;
  fg::batch batch;

  asked(fg::record const& r, int vocabulary) {
    batch.tokens = integer(r, "T");
    for (double row : r.numbers("starts")) starts.push_back(static_cast<std::int64_t>(row));
    batch.starts = starts;
    for (std::uint64_t t = 0; vocabulary > 0 && t < static_cast<std::uint64_t>(batch.tokens); ++t)
      ids.push_back(static_cast<std::int32_t>(fg::random_word(seed_of(r, "ids"), t) %
                                              static_cast<std::uint64_t>(vocabulary)));
    batch.ids = ids;
    auto& request = batch.routing;
    request.top_k = integer(r, "top_k");
    request.mask_best = integer(r, "mask_best");
    request.shared = integer(r, "without_shared") == 0;
    request.devices = integer(r, "devices", 1);
    auto& loss = request.balance;
    loss.expert = number(r, "expert");
    loss.device = number(r, "device");
    loss.communication = number(r, "communication");
    loss.sequence = number(r, "sequence");
    loss.z = number(r, "z");
    loss.importance = number(r, "importance");
    if (integer(r, "by_sequence")) loss.over = fg::window::sequence;
    request.capacity = number(r, "capacity");
    request.device_capacity = number(r, "device_capacity");
    if (integer(r, "drop_last")) request.drop = fg::drop::last;
  }
  asked(asked const&) = delete;
};

// ---- results ------------------------------------------------------------------------------------

inline double sum_of(numbers const& all) {
  double sum = 0;
  for (double x : all) sum += x;
  return sum;
}

/// A layer of any config, on an executor whose numbers are S: what needs no config is compiled once.
template <class S>
struct layer {
  virtual std::vector<fg::weight_entry> const& entries() const = 0;
  virtual std::span<S> parameters() = 0;
  virtual std::span<S> gradient() = 0;
  virtual void forward(fg::batch const& b, fg::matrix<S const> x, fg::matrix<S> y,
                       bool training) = 0;
  virtual void backward(fg::matrix<S const> dy, fg::matrix<S> dx) = 0;
  virtual fg::routing_log make_log() const = 0;
  /// The router's slots in a forward pass, as `take` is given them.
  using taker = void (*)(fg::matrix<std::int32_t> experts, fg::matrix<S> weights, int k, results&);
  virtual void slots(fg::batch const& b, fg::matrix<S const> x, fg::matrix<S> y, bool training,
                     taker take, results& got) const = 0;
  virtual ~layer() = default;
};

template <fg::config C, class X>
struct layer_of : layer<typename X::scalar> {
  using S = typename X::scalar;
  using E = fg::mixture<C>;
  using plan = fg::plan<X, E>;
  fg::network<E, X> network;

  std::vector<fg::weight_entry> const& entries() const override { return network.entries(); }
  std::span<S> parameters() override { return network.parameters(); }
  std::span<S> gradient() override { return network.gradient(); }
  fg::routing_log make_log() const override { return network.make_log(); }
  void forward(fg::batch const& b, fg::matrix<S const> x, fg::matrix<S> y, bool training) override {
    if (training)
      network.forward(b, x, y);
    else
      network.infer(b, x, y);
  }
  void backward(fg::matrix<S const> dy, fg::matrix<S> dx) override { network.backward(dy, dx); }
  void slots(fg::batch const& b, fg::matrix<S const> x, fg::matrix<S> y, bool training,
             typename layer<S>::taker take, results& got) const override {
    fg::extent const e = network.extent_of(b.tokens, training);
    fg::buffer<> saved_memory(fg::saved_bytes<X, E>(e)), scratch(fg::scratch_bytes<X, E>(e));
    fg::arena memory(saved_memory.data(), saved_memory.size());
    typename plan::saved const saved(memory, e);
    plan::forward({network.on(), b, {scratch.data(), scratch.size()}, e, {}, nullptr},
                  network.weights(), saved, x, y);
    if constexpr (requires { saved.routing; })  // of routed experts, with or without shared ones
      take(saved.routing.experts, saved.routing.weights, fg::slots(C, b.routing), got);
    else
      take(saved.b.routing.experts, saved.b.routing.weights, fg::slots(C, b.routing), got);
  }
};

template <class S>
void take_slots(fg::matrix<std::int32_t> experts, fg::matrix<S> weights, int k, results& got) {
  for (std::int64_t t = 0; t < experts.rows; ++t)
    for (int slot = 0; slot < k; ++slot) {
      std::int32_t const expert = experts(t, slot);
      bool const none = expert == fg::no_expert;
      got["experts"].push_back(none ? -1 : fg::expert_in(expert));
      got["weights"].push_back(none ? 0 : static_cast<double>(weights(t, slot)));
    }
}

/// What a layer of this config makes of a case.
template <class S>
results run(layer<S>& layer, fg::config const& c, fg::record const& r) {
  bool const training = integer(r, "training", 1) == 1;
  for (auto const& entry : layer.entries()) {
    numbers const drawn = draw_weight(r, entry);
    std::transform(drawn.begin(), drawn.end(), layer.parameters().data() + entry.offset,
                   [](double number) { return static_cast<S>(number); });
  }
  asked const what(r, c.vocabulary);
  std::int64_t const T = what.batch.tokens;
  numbers const drawn_x = draw_x(r), drawn_dy = draw(r, "dy", T * D);
  std::vector<S> const x(drawn_x.begin(), drawn_x.end()), dy(drawn_dy.begin(), drawn_dy.end());
  std::vector<S> y(x.size(), std::numeric_limits<S>::quiet_NaN()), dx = y;
  fg::matrix<S const> const in{x.data(), T, D};
  fg::matrix<S> const out{y.data(), T, D};

  results got;
  fg::batch b = what.batch;
  layer.slots(b, in, out, training, take_slots<S>, got);
  fg::routing_log log = layer.make_log();
  b.log = &log;
  std::fill(y.begin(), y.end(), std::numeric_limits<S>::quiet_NaN());
  layer.forward(b, in, out, training);
  got["y"] = numbers(y.begin(), y.end());
  auto const& report = log.layers.at(0);
  got["load"].assign(report.load.begin(), report.load.end());
  got["dropped"].assign(report.dropped.begin(), report.dropped.end());
  got["loss"] = {report.balance_loss};
  if (report.balance_loss > 0) got["mean_score"] = report.mean_score;
  if (!training) return got;

  layer.backward({dy.data(), T, D}, {dx.data(), T, D});
  got["dx"] = numbers(dx.begin(), dx.end());
  std::map<std::string, numbers> d;
  for (auto const& entry : layer.entries()) {
    S const* const begin = layer.gradient().data() + entry.offset;
    d[entry.name] = numbers(begin, begin + entry.rows * entry.cols);
  }
  for (std::string const name : {"router", "project", "temperature", "shared_gate"})
    if (!d[name].empty()) got["d" + name] = d[name];
  for (std::string const part : {"gate", "up", "down"})
    if (c.shared > 0) got["dshared"].push_back(sum_of(d["shared." + part]));
  for (int i = 0; i < c.routed; ++i)
    for (std::string const part : {".gate", ".up", ".down"})
      got["dexperts"].push_back(sum_of(d["experts." + std::to_string(i) + part]));
  auto const busiest =
      std::max_element(report.load.begin(), report.load.end()) - report.load.begin();
  got["busiest"] = {static_cast<double>(busiest)};
  for (std::string const part : {".gate", ".down"})
    for (double number : d["experts." + std::to_string(busiest) + part])
      got["dbusiest"].push_back(number);
  for (std::string const fixed : {"bias", "table"})
    for (double number : d[fixed]) CHECK(number == 0);
  return got;
}

/// The largest difference, in units of the largest number of `exact`; infinite with a NaN.
inline double difference(numbers const& exact, numbers const& got) {
  if (exact.size() != got.size()) return std::numeric_limits<double>::infinity();
  double largest = 0, magnitude = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    magnitude = std::max(magnitude, std::abs(exact[i]));
    double const d = std::abs(exact[i] - got[i]);
    if (!(d <= largest)) largest = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  return magnitude > 0 ? largest / magnitude : largest;
}
/// Every result of make.py is one of ours, and the other way round; choices are the same, all else
/// is within the tolerance.
inline void check(fg::record const& r, results const& got, double tolerance) {
  for (char const* key :
       {"experts", "load", "dropped", "busiest", "weights", "y", "loss", "mean_score", "dx",
        "drouter", "dproject", "dtemperature", "dshared_gate", "dshared", "dexperts", "dbusiest"}) {
    CAPTURE(key);
    auto const found = got.find(key);
    REQUIRE(r.has(key) == (found != got.end()));
    if (found == got.end()) continue;
    std::string_view const name = key;
    bool const whole =
        name == "experts" || name == "load" || name == "dropped" || name == "busiest";
    numbers const& list = r.numbers(key);
    numbers const exact = list.empty() ? numbers{r.number(key)} : list;
    CHECK(difference(exact, found->second) <= (whole ? 0 : tolerance));
  }
}

// ---- configs ------------------------------------------------------------------------------------

/// A config of make.py: its name there, and how this library runs it.
template <class X>
struct known {
  std::string_view name;
  fg::config config;
  std::unique_ptr<layer<typename X::scalar>> (*make)();
};
template <fg::config C, class X>
constexpr known<X> as(std::string_view name) {
  return {name, C, []() -> std::unique_ptr<layer<typename X::scalar>> {
            return std::make_unique<layer_of<C, X>>();
          }};
}

/// Runs all cases of these configs: there must be so many, and each config must have two.
template <class X, std::size_t N>
void check_cases(known<X> const (&configs)[N], std::size_t expected, double tolerance) {
  std::map<std::string_view, int> seen;
  std::size_t done = 0;
  for (auto const& r : all_cases()) {
    auto const* const config = std::find_if(
        configs, configs + N, [&](known<X> const& k) { return k.name == r.text("config"); });
    if (config == configs + N) continue;
    CAPTURE(r.text("name"));
    fg::config const& c = config->config;
    REQUIRE(integer(r, "D") == c.hidden);
    REQUIRE(integer(r, "F") == c.width);
    REQUIRE(integer(r, "R") == c.routed);
    REQUIRE(integer(r, "K") == c.top_k);
    REQUIRE(integer(r, "S") == c.shared);
    check(r, run(*config->make(), c, r), tolerance);
    ++done;
    ++seen[config->name];
  }
  CHECK(done == expected);
  for (auto const& config : configs) {
    CAPTURE(config.name);
    CHECK(seen[config.name] >= 2);
  }
}

}  // namespace golden
