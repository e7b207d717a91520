// The device's losses against the reference.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/loss.hpp>
#include <finegrain/reference/loss.hpp>
#include <finegrain/train/loss.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;
fg::basic_reference<double> const reference{};

struct shape {
  std::int64_t T, V;
};
constexpr shape shapes[] = {{1, 8},      {7, 1000},   {40, 13},   {300, 4096}, {5, 102400},
                            {3, 151936}, {66, 32000}, {4, 50257}, {0, 64}};

TEMPLATE_TEST_CASE("cross-entropy on the device is the reference's", "", bf16, fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::loss<S>;
  NEED_GPU();
  for (auto const [T, V] : shapes) {
    CAPTURE(T, V);
    auto logits = random_rows<S>(T * V, 1, 3);
    std::vector<std::int32_t> targets;
    std::int64_t count = 0;
    for (std::int64_t t = 0; t < T; ++t) {
      targets.push_back(t % 5 == 3 ? -1 : static_cast<int>((t * 7919) % V));
      count += targets.back() >= 0;
      if (t % 5 == 2)  // a row that is sure of itself, and one with classes that are ruled out
        logits[static_cast<std::size_t>(t * V + targets.back())] = S(40.0f);
      if (t % 5 == 1)
        for (std::int64_t c = 0; c < std::min<std::int64_t>(V, 300); ++c)
          if (c != targets.back()) logits[static_cast<std::size_t>(t * V + c)] = S(-INFINITY);
    }
    auto in = doubles(logits);
    std::vector<double> should(in.size());
    double const scale = 1.0 / static_cast<double>(std::max<std::int64_t>(count, 1));
    double const loss = cross_entropy(reference, rows(in, V), targets, scale, rows(should, V));

    auto const targets_ = upload(targets);
    auto const terms = unwritten<std::int64_t>(1);
    kernels::count_targets(targets_.data(), T, terms.data(), stream);
    CHECK(download(terms)[0] == count);
    auto const of_token = unwritten<float>(T);
    auto const sum = upload(std::vector<double>{5});
    auto const dense = upload(logits);
    view<S> const in_(dense.data(), T, V);
    auto const apart = unwritten<S>(T * V);
    auto const near = [&](double is) {
      return std::abs(is - loss) <= 2e-6 * std::abs(loss) + 1e-5 * static_cast<double>(T);
    };

    kernels::cross_entropy(in_, targets_.data(), 1, terms.data(), {}, of_token.data(), sum.data(),
                           stream);
    double const alone = download(sum)[0] - 5;
    CHECK(near(alone));
    kernels::cross_entropy(in_, targets_.data(), 1, terms.data(), view<S>(apart.data(), T, V),
                           of_token.data(), sum.data(), stream);
    CHECK(near(download(sum)[0] - 5 - alone));
    // (fp16 has steps of 2^-24 near 0)
    double const tiny =
        1e-5 * scale / static_cast<double>(V) + (std::is_same_v<S, fg::fp16> ? 0x1p-24 : 0);
    CHECK(far_off(download(apart), should, step_of<S>, tiny) == "");

    kernels::cross_entropy(in_, targets_.data(), 1, terms.data(), in_, of_token.data(), sum.data(),
                           stream);
    CHECK(same_bits(download(dense), download(apart)));
  }
}

TEMPLATE_TEST_CASE("a target that is no class makes the loss NaN and reads nothing else", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::loss<S>;
  NEED_GPU();
  auto const logits = upload(random_rows<S>(2 * 16, 1));
  auto const targets = upload(std::vector<std::int32_t>{16, 3});
  auto const of_token = unwritten<float>(2);
  auto const sum = upload(std::vector<double>{0});
  kernels::cross_entropy(rows(logits, 16), targets.data(), 1, nullptr, {}, of_token.data(),
                         sum.data(), stream);
  CHECK(std::isnan(download(sum)[0]));
  CHECK(std::isfinite(download(of_token)[1]));
}

TEMPLATE_TEST_CASE("squared error on the device", "", bf16, fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::loss<S>;
  NEED_GPU();
  constexpr shape sizes[] = {{0, 8}, {1, 1}, {33, 72}, {1000, 1000}};
  for (auto const [T, D] : sizes) {
    CAPTURE(T, D);
    auto const y = whole_rows<S>(T * D, 1), target = whole_rows<S>(T * D, 2);
    auto const y_ = upload(y), target_ = upload(target);
    auto const dy = unwritten<S>(T * D);
    auto const partial = unwritten<double>(fg::device::squared_error_parts);
    auto const sum = upload(std::vector<double>{1});
    double loss = 0;
    std::vector<double> should;
    for (std::size_t i = 0; i < y.size(); ++i) {
      double const off = number(y[i]) - number(target[i]);
      loss += off * off;
      should.push_back(0.5 * off);
    }
    auto const run = [&](view<S> to) {
      kernels::squared_error(rows(y_, D), rows(target_, D), 0.25, to, partial.data(), sum.data(),
                             stream);
    };
    run({});
    CHECK(download(sum)[0] == loss + 1);
    run(rows(dy, D));
    CHECK(download(sum)[0] == 2 * loss + 1);
    run(rows(y_, D));
    CHECK(far_off(download(dy), should, 0, 0) == "");
    CHECK(same_bits(download(dy), download(y_)));
  }
}

}  // namespace
