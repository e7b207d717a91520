// A program whose .cu file holds one network's code: that it links is half of the test.
// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <finegrain/cuda/cuda.hpp>
#include <finegrain/finegrain.hpp>
#include <span>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

/// What the network makes of the first of these tokens.
std::vector<float> outputs(fg::network<needs::model, fg::cuda>& net,
                           std::vector<std::int32_t> const& ids, std::int64_t count) {
  std::span<std::int32_t const> const all(ids);
  fg::device_buffer<fg::bf16> y(count * needs::classes);
  net.infer({.tokens = count, .ids = all.first(static_cast<std::size_t>(count))}, {},
            {y.data(), count, needs::classes});
  std::vector<fg::bf16> got(static_cast<std::size_t>(y.size()));
  fg::device::runtime::copy(got.data(), y.data(), y.bytes(), nullptr);
  std::vector<float> numbers;
  for (fg::bf16 const one : got) numbers.push_back(static_cast<float>(one));
  return numbers;
}

}  // namespace

TEST_CASE("a network trains with the code that its expression needs") {
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
}

TEST_CASE("a token's outputs are near each other by every path for few rows and for many") {
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  std::vector<std::int32_t> const ids(1024, 3);
  fg::network<needs::model, fg::cuda> net;
  std::vector<float> const one = outputs(net, ids, 1);
  CHECK(*std::max_element(one.begin(), one.end()) > 0);
  for (std::int64_t count : {8, 100, 300, 1024}) {  // 1, 9, 28 and 96 rows of an expert on average
    INFO(count);
    std::vector<float> const many = outputs(net, ids, count);
    for (std::size_t i = 0; i < one.size(); ++i) CHECK(many[i] == Approx(one[i]).margin(0.05));
  }
}

TEST_CASE("kernels of any GPU are there, or left out with a sentence") {
  if (fg::device::runtime::devices() == 0) SKIP("no GPU");
  fg::cuda on;
  on.use = fg::device::instructions::portable;
  fg::network<needs::model, fg::cuda> net(on);
  std::vector<std::int32_t> const ids(1024, 3);
  for (std::int64_t count : {1, 8, 100, 300, 1024}) {
    INFO(count);
    try {
      for (float const one : outputs(net, ids, count)) CHECK(std::isfinite(one));
    } catch (fg::invalid_argument const& e) {
      CHECK_THAT(e.what(), ContainsSubstring("FINEGRAIN_CUDA_PORTABLE"));
    }
  }
}
