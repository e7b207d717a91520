// The device's RMS norm against the reference.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/elementwise.hpp>
#include <finegrain/cuda/norm.hpp>
#include <finegrain/reference/norm.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;
fg::basic_reference<double> const reference{};
constexpr float epsilon = 1e-5f;

struct shape {
  std::int64_t T, D;
};
constexpr shape shapes[] = {{1, 8},     {3, 72},   {5, 40},     {700, 256}, {33, 2048}, {37, 7168},
                            {530, 264}, {9, 8192}, {11, 16384}, {6, 8200},  {0, 64}};

TEMPLATE_TEST_CASE("a norm on the device is the reference's, forward", "", bf16, fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::norm<S>;
  NEED_GPU();
  for (auto const [T, D] : shapes) {
    CAPTURE(T, D);
    auto const x = random_rows<S>(T * D, 1), gain = random_rows<S>(D, 2),
               a = random_rows<S>(T * D, 3);
    auto const dx = upload(x), dgain = upload(gain), da = upload(a);
    auto const y = unwritten<S>(T * D);
    auto const r = unwritten<float>(T);
    auto check = [&](std::vector<S> const& input) {
      auto in = doubles(input), g = doubles(gain);
      std::vector<double> out(in.size()), inverse(static_cast<std::size_t>(T));
      rmsnorm_forward(reference, rows(in, D), rows(g, D), double{epsilon}, rows(out, D),
                      inverse.data());
      CHECK(far_off(download(y), out, step_of<S>, 1e-6) == "");
      CHECK(far_off(download(r), inverse, 1e-5, 0) == "");
    };
    kernels::forward(rows(dx, D), dgain.data(), epsilon, rows(y, D), r.data(), stream);
    check(x);
    auto const apart = unwritten<S>(T * D);
    kernels::add_forward(rows(dx, D), rows(da, D), dgain.data(), epsilon, rows(apart, D),
                         rows(y, D), r.data(), stream);
    auto const sum = download(apart);
    kernels::add_forward(rows(dx, D), rows(da, D), dgain.data(), epsilon, rows(dx, D), rows(y, D),
                         r.data(), stream);
    CHECK(same_bits(download(dx), sum));
    std::vector<double> should;
    for (std::size_t i = 0; i < x.size(); ++i) should.push_back(number(x[i]) + number(a[i]));
    CHECK(far_off(sum, should, step_of<S>, 0) == "");
    check(sum);
  }
}

TEMPLATE_TEST_CASE("a norm on the device is the reference's, backward", "", bf16, fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::norm<S>;
  NEED_GPU();
  for (auto const [T, D] : shapes) {
    auto const x = random_rows<S>(T * D, 1), gain = random_rows<S>(D, 2),
               dy = random_rows<S>(T * D, 3);
    auto const plus = random_rows<S>(T * D, 4), old = random_rows<S>(D, 5);
    auto in = doubles(x), g = doubles(gain), d = doubles(dy);
    std::vector<double> out(in.size()), inverse(static_cast<std::size_t>(T));
    rmsnorm_forward(reference, rows(in, D), rows(g, D), double{epsilon}, rows(out, D),
                    inverse.data());
    std::vector<float> const r(inverse.begin(), inverse.end());
    auto const x_ = upload(x), gain_ = upload(gain), dy_ = upload(dy), plus_ = upload(plus);
    auto const r_ = upload(r);
    for (bool const add : {false, true}) {
      CAPTURE(T, D, add);
      auto const mode = add ? fg::gradients::accumulate : fg::gradients::overwrite;
      auto dg = doubles(old);
      std::vector<double> dx(in.size());
      rmsnorm_backward(reference, rows(in, D), rows(g, D), inverse.data(), rows(d, D), rows(dg, D),
                       mode, rows(dx, D));
      auto const run = [&](bool in_place) {
        auto const dgain = add ? upload(old) : unwritten<S>(D);
        auto const partial = unwritten<float>(fg::device::norm_parts(T, D) * D);
        auto const to = in_place ? upload(plus) : unwritten<S>(T * D);
        view<S const> extra = rows(in_place ? to : plus_, D);
        if (!add) extra = {};
        kernels::backward(rows(x_, D), gain_.data(), r_.data(), rows(dy_, D), extra, partial.data(),
                          dgain.data(), mode, rows(to, D), stream);
        return std::pair(download(to), download(dgain));
      };
      if (add)
        for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += number(plus[i]);
      auto const [is, dgain] = run(false);
      CHECK(far_off(is, dx, step_of<S>, 1e-4) == "");
      CHECK(far_off(dgain, dg, step_of<S>, 1e-4 * std::sqrt(static_cast<double>(T) + 1)) == "");
      auto const [again, dgain_again] = run(add);
      CHECK(same_bits(is, again));
      CHECK(same_bits(dgain, dgain_again));
    }
  }
}

TEMPLATE_TEST_CASE("sums, multiples and conversions on the device", "", bf16, fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  using fg::device::elementwise;
  for (std::int64_t const n : {1, 7, 64, 1000}) {
    auto const a = whole_rows<S>(3 * n, 1), b = whole_rows<S>(3 * n, 2);
    auto const a_ = upload(a), b_ = upload(b);
    elementwise<S>::add(rows(a_, n), rows(b_, n), stream);
    auto const wide = unwritten<float>(3 * n);
    elementwise<S>::widen(b_.data(), wide.data(), 3 * n, stream);
    auto const narrow = unwritten<S>(3 * n);
    elementwise<S>::narrow(wide.data(), narrow.data(), 3 * n, stream);
    std::vector<double> sum;
    for (std::size_t i = 0; i < a.size(); ++i) sum.push_back(number(a[i]) + number(b[i]));
    CHECK(far_off(download(wide), sum, 0, 0) == "");
    CHECK(far_off(download(narrow), sum, 0, 0) == "");
    auto const half = unwritten<S>(3 * n);
    auto const whole = upload(a);
    elementwise<S>::scale(rows(whole, n), 0.5f, rows(half, n), stream);
    std::vector<double> halves;
    for (S const x : a) halves.push_back(number(x) / 2);
    CHECK(far_off(download(half), halves, 0, 0) == "");
    // Columns of a wider matrix: what lies beside them stays.
    auto const part = upload(b);
    elementwise<S>::add(rows(a_, n).middle_cols(0, n / 2), rows(part, n).middle_cols(n / 2, n / 2),
                        stream);
    for (std::int64_t t = 0; t < 3; ++t)
      for (std::int64_t c = 0; c < n; ++c) {
        auto const at = [&](std::int64_t column) {
          return static_cast<std::size_t>(t * n + column);
        };
        sum[at(c)] = number(b[at(c)]);
        if (c >= n / 2 && c < n / 2 * 2) sum[at(c)] += number(a[at(c - n / 2)]);
      }
    CHECK(far_off(download(part), sum, 0, 0) == "");
  }
}

TEMPLATE_TEST_CASE("a blend on the device, forward and backward", "", bf16, fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  using fg::device::elementwise;
  constexpr std::int64_t T = 5;
  for (std::int64_t const D : {8, 72, 4096}) {
    CAPTURE(D);
    auto const a = random_rows<S>(T * D, 1), b = random_rows<S>(T * D, 2),
               dy = random_rows<S>(T * D, 3);
    auto const mix = random_rows<S>(T * 2, 4);
    std::vector<float> mix_f;
    for (S x : mix) mix_f.push_back(static_cast<float>(x));
    auto const a_ = upload(a), b_ = upload(b), dy_ = upload(dy);
    auto const mix_ = upload(mix_f);
    auto const y = unwritten<S>(T * D), da = unwritten<S>(T * D), dmix = unwritten<S>(T * 2);
    elementwise<S>::blend(mix_.data(), rows(a_, D), rows(b_, D), rows(y, D), stream);
    std::vector<double> y_, da_, db_, dmix_;
    for (std::size_t t = 0; t < T; ++t) {
      double const c = 1 / (1 + std::exp(number(mix[2 * t + 1]) - number(mix[2 * t])));
      double difference = 0;
      for (std::size_t i = t * std::size_t(D); i < (t + 1) * std::size_t(D); ++i) {
        y_.push_back(c * number(a[i]) + (1 - c) * number(b[i]));
        da_.push_back(c * number(dy[i]));
        db_.push_back((1 - c) * number(dy[i]));
        difference += number(dy[i]) * (number(a[i]) - number(b[i]));
      }
      dmix_.push_back(c * (1 - c) * difference);
      dmix_.push_back(-c * (1 - c) * difference);
    }
    CHECK(far_off(download(y), y_, step_of<S>, 1e-6) == "");
    elementwise<S>::blend_backward(mix_.data(), rows(a_, D), rows(b_, D), rows(dy_, D), rows(da, D),
                                   rows(dy_, D), dmix.data(), stream);
    CHECK(far_off(download(da), da_, step_of<S>, 1e-6) == "");
    CHECK(far_off(download(dy_), db_, step_of<S>, 1e-6) == "");
    CHECK(far_off(download(dmix), dmix_, step_of<S>, 1e-4) == "");
  }
}

}  // namespace
