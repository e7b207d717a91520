// A program whose .cu file holds one network's code: that it links is half of the test.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <cmath>
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/finegrain.hpp>
#include <vector>

#include "../catch.hpp"

TEST_CASE("a network trains with the code that its expression needs") {
  namespace fg = finegrain;
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  fg::network<needs::model, fg::cuda> net;
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  std::vector<std::int32_t> ids, targets;
  for (int i = 0; i < 128; ++i) ids.push_back(i % 7), targets.push_back((i + 1) % 7);
  fg::batch const b{.tokens = 128, .ids = ids};
  double const first = train.step(b, targets).loss;
  double last = first;
  for (int i = 0; i < 20; ++i) last = train.step(b, targets).loss;
  CHECK(std::isfinite(last));
  CHECK(last < first);
  // Experts of few tokens, of some and of many: values of tokens do not depend on how many there are.
  std::vector<float> rows;
  for (std::int64_t count : {1, 8, 40, 128}) {
    fg::device_buffer<fg::bf16> y(count * needs::classes);
    net.infer({.tokens = count, .ids = std::span(ids).first(std::size_t(count)), .starts = {}}, {},
              {y.data(), count, needs::classes});
    std::vector<fg::bf16> got(std::size_t(y.size()));
    fg::device::runtime::copy(got.data(), y.data(), y.bytes(), nullptr);
    if (rows.empty()) rows.assign(got.begin(), got.end());
    for (std::size_t i = 0; i < rows.size(); ++i)
      CHECK(static_cast<float>(got[i]) == Approx(rows[i]).margin(0.05));
  }
}

TEST_CASE("products of every GPU are there, or left out with a sentence") {
  namespace fg = finegrain;
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  fg::cuda on;
  on.use = fg::device::instructions::portable;
  fg::network<needs::model, fg::cuda> net(fg::initialization{}, on);
  std::vector<std::int32_t> ids(128, 3);
  for (std::int64_t count : {1, 8, 40, 128}) {
    fg::device_buffer<fg::bf16> y(count * needs::classes);
    try {
      net.infer({.tokens = count, .ids = std::span(ids).first(std::size_t(count))}, {},
                {y.data(), count, needs::classes});
    } catch (fg::invalid_argument const& e) {
      CHECK_THAT(e.what(), ContainsSubstring("FINEGRAIN_CUDA_PORTABLE"));
      continue;
    }
    std::vector<fg::bf16> got(std::size_t(y.size()));
    fg::device::runtime::copy(got.data(), y.data(), y.bytes(), nullptr);
    for (fg::bf16 const number : got) CHECK(std::isfinite(static_cast<float>(number)));
  }
}
