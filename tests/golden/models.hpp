// Stages and whole models of published form, against lines that PyTorch wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <filesystem>
#include <finegrain/expr/decoder.hpp>
#include <finegrain/io/published_families.hpp>
#include <finegrain/reference/reference.hpp>
#include <list>

#include "../folder.hpp"
#include "golden.hpp"

namespace golden {

/// The cases of a config: there must be some.
inline std::vector<fg::record> cases_of(char const* path, std::string_view config) {
  std::vector<fg::record> cases;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (auto r = fg::record::parse(line); r && r->text("config") == config)
      cases.push_back(std::move(*r));
  REQUIRE_FALSE(cases.empty());
  return cases;
}

inline numbers drawn(fg::record const& r, std::string_view name, std::int64_t count,
                     double factor = 1) {
  numbers all = draw(r, name, count);
  bool const gain = name.find("norm") != name.npos, bias = name.find("bias") != name.npos;
  for (double& x : all) x = gain ? 1 + x / 2 : bias ? x : factor * x;
  return all;
}
template <class S>
std::vector<S> as(numbers const& from) {
  return {from.begin(), from.end()};
}
template <class S>
double apart(fg::record const& r, std::string const& key, S const* got) {
  numbers const& exact = r.numbers(key);
  return difference(exact, numbers(got, got + exact.size()));
}

/// Values of training and of inference, and gradients.
template <class E, class X>
void check_stage(char const* path, std::string_view config, double tolerance) {
  using S = typename X::scalar;
  for (auto const& r : cases_of(path, config)) {
    CAPTURE(r.text("name"));
    fg::network<E, X> net;
    for (auto const& entry : net.entries()) {
      auto const w = as<S>(drawn(r, entry.name, entry.rows * entry.cols));
      std::copy(w.begin(), w.end(), net.parameters().begin() + entry.offset);
    }
    auto const T = static_cast<std::int64_t>(r.number("T"));
    std::vector<std::int64_t> positions;
    for (double at : r.numbers("positions")) positions.push_back(static_cast<std::int64_t>(at));
    auto const x = as<S>(draw(r, "x", T * 7, 96)), dy = as<S>(draw(r, "dy", T * 7));
    std::vector<S> y(x.size(), std::numeric_limits<S>::quiet_NaN()), dx = y;
    fg::batch const b{.tokens = T, .positions = positions};
    net.infer(b, {x.data(), T, 7}, {y.data(), T, 7});
    CHECK(apart(r, "y", y.data()) < tolerance);
    std::fill(y.begin(), y.end(), std::numeric_limits<S>::quiet_NaN());
    net.forward(b, {x.data(), T, 7}, {y.data(), T, 7});
    CHECK(apart(r, "y", y.data()) < tolerance);
    net.backward({dy.data(), T, 7}, {dx.data(), T, 7});
    CHECK(apart(r, "dx", dx.data()) < tolerance);
    for (auto const& entry : net.entries()) {
      CAPTURE(entry.name);
      CHECK(apart(r, "d" + entry.name, net.gradient().data() + entry.offset) < tolerance);
    }
  }
}
/// A model read whole from a file of published names.
template <fg::architecture A, class X>
void check_model(char const* path, std::string_view config, double tolerance,
                 std::string (*published)(std::string_view) = fg::deepseek_name) {
  using S = typename X::scalar;
  for (auto const& r : cases_of(path, config)) {
    fg::network<fg::decoder<A>, X> net;
    std::list<numbers> memory;
    std::vector<fg::tensor_view> tensors;
    for (auto const& entry : net.entries()) {
      std::string const name = published(entry.name);
      auto& w = memory.emplace_back(drawn(r, name, entry.rows * entry.cols, 0.5));
      std::vector<std::int64_t> shape{entry.rows, entry.cols};
      if (entry.role != fg::role::projection) shape = {entry.rows * entry.cols};
      tensors.push_back({name, fg::dtype::f64, shape, w.data()});
    }
    folder const here;
    fg::write_safetensors(here / "model.safetensors", tensors);
    fg::load_published(net, here.path, "", published);

    auto const T = static_cast<std::int64_t>(r.number("T"));
    std::vector<std::int32_t> ids;
    for (std::uint64_t t = 0; t < static_cast<std::uint64_t>(T); ++t)
      ids.push_back(static_cast<std::int32_t>(fg::random_word(seed_of(r, "ids"), t) % 32));
    std::vector<S> logits(static_cast<std::size_t>(T * 32));
    net(ids, fg::matrix<S>{logits.data(), T, 32});
    CHECK(apart(r, "logits", logits.data()) < tolerance);
    net.forward({.tokens = T, .ids = ids}, {}, {logits.data(), T, 32});
    CHECK(apart(r, "logits", logits.data()) < tolerance);
  }
}

/// A model of random weights for transformers, with what it makes of some ids, by exchange.py: it is
/// written to a folder of FINEGRAIN_PUBLISH, weights and config.json; or, once transformers has been there,
/// read from where that has written it again, and its gradients compared with those that stand in a third
/// place.
template <fg::architecture A>
struct exchanged {
  using network = fg::network<fg::decoder<A>, fg::basic_reference<float>>;
  static constexpr std::int64_t T = 24;
  network net;
  std::vector<std::int32_t> ids;
  std::vector<float> logits = std::vector<float>(T * 32);

  exchanged() {
    for (std::uint64_t t = 0; t < T; ++t)
      ids.push_back(static_cast<std::int32_t>(fg::random_word(2, t) % 32));
  }
  fg::matrix<float> y() { return {logits.data(), T, 32}; }

  void write(std::string const& here, fg::published_family const& family) {
    std::span<float> const w = net.parameters();
    for (std::size_t i = 0; i < w.size(); ++i)
      w[i] = static_cast<float>(fg::random_word(1, i) % 2000) / 1000 - 1;
    fg::save_published(net, here, family, {.type = fg::dtype::f32});
    net(ids, y());
    std::vector<std::int64_t> wide(ids.begin(), ids.end());
    fg::tensor_view const results[] = {{"ids", fg::dtype::i64, {T}, wide.data()},
                                       {"logits", fg::dtype::f32, {T, 32}, logits.data()}};
    fg::write_safetensors(here + "/results.safetensors", results);
  }
  void read_again(std::string const& here, fg::published_family const& family) {
    fg::load_published(net, here + "/again", "", family.name);
    net(ids, y());
    fg::safetensors_file const results(here + "/results.safetensors");
    std::vector<float> before(logits.size());
    results.read(*results.find("logits"), before.data());
    CHECK(logits == before);

    net.forward({.tokens = T, .ids = ids}, {}, y());
    std::vector<std::int32_t> targets(ids.begin() + 1, ids.end());
    targets.push_back(-1);  // nothing comes after the last
    cross_entropy(net.on(), fg::matrix<float const>(y()), targets, 1.0 / (T - 1), y());
    net.backward(y());
    network theirs;
    fg::load_published(theirs, here + "/gradients", "", family.name, "");
    double worst = 0;
    for (auto const& entry : net.entries()) {
      if (entry.role == fg::role::selection_bias) continue;  // has none
      auto const numbers_of = [&](std::span<float const> weights) {
        auto const w = weights.subspan(static_cast<std::size_t>(entry.offset),
                                       static_cast<std::size_t>(entry.rows * entry.cols));
        return numbers(w.begin(), w.end());
      };
      worst =
          std::max(worst, difference(numbers_of(theirs.parameters()), numbers_of(net.gradient())));
    }
    std::printf("gradients %.1e: %s\n", worst, here.substr(here.rfind('/') + 1).c_str());
    CHECK(worst < 1e-4);
  }
};
template <fg::architecture A>
void exchange(std::string const& folder, fg::published_family const& family) {
  char const* const all = std::getenv("FINEGRAIN_PUBLISH");
  REQUIRE(all);
  std::string const here = all + ("/" + folder);
  if (std::filesystem::create_directories(here))
    exchanged<A>().write(here, family);
  else if (std::filesystem::exists(here + "/again"))  // else this transformers has no such model
    exchanged<A>().read_again(here, family);
}

/// A preset's config.json and how many weights it has, for transformers to count them.
template <fg::architecture A>
void exchange_config(std::string const& folder, fg::published_family const& family) {
  char const* const all = std::getenv("FINEGRAIN_PUBLISH");
  REQUIRE(all);
  std::string const here = all + ("/" + folder);
  std::filesystem::create_directories(here);
  put(here + "/config.json", fg::published_config<fg::decoder<A>>(family));
  std::int64_t count = 0;
  for (auto const& w : fg::list_weights<fg::decoder<A>>()) count += w.rows * w.cols;
  put(here + "/weights", std::to_string(count));
}

/// What is known of families' defaults, for transformers to say its own.
inline void exchange_defaults() {
  char const* const all = std::getenv("FINEGRAIN_PUBLISH");
  REQUIRE(all);
  std::string text;
  for (auto const& [family, values] : fg::detail::published_defaults)
    text.append(text.empty() ? "{\"" : ",\n\"").append(family).append("\": ").append(values);
  put(std::string(all) + "/defaults.json", text + "}\n");
}

}  // namespace golden
