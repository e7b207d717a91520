// Biases on the device against sums in double.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/bias.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;

struct shape {
  std::int64_t T, N;
};
constexpr shape shapes[] = {{1, 8}, {3, 72}, {70, 264}, {700, 256}, {33, 4096}, {0, 64}};

/// Columns [8, 8 + N) of rows that are longer: what is around them must stay.
template <class S>
view<S> inside(device_buffer<S> const& all, std::int64_t T, std::int64_t N) {
  return {all.data() + 8, T, N, N + 16};
}

TEMPLATE_TEST_CASE("biases on the device: every row of an output, and their gradients", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::bias<S>;
  NEED_GPU();
  for (auto const [T, N] : shapes) {
    CAPTURE(T, N);
    auto const at = [&, n = N](std::int64_t t, std::int64_t c) {
      return static_cast<std::size_t>(t * (n + 16) + 8 + c);
    };
    auto const bias = random_rows<S>(N, 1), around = random_rows<S>(T * (N + 16), 2),
               old = random_rows<S>(N, 3);
    auto const bias_ = upload(bias), y = upload(around);
    kernels::begin(bias_.data(), inside(y, T, N), stream);
    auto made = around;
    for (std::int64_t t = 0; t < T; ++t)
      std::copy(bias.begin(), bias.end(), made.begin() + static_cast<std::ptrdiff_t>(at(t, 0)));
    CHECK(same_bits(download(y), made));

    auto const dy = upload(around);
    for (auto const mode : {fg::gradients::overwrite, fg::gradients::accumulate}) {
      bool const add = mode == fg::gradients::accumulate;
      std::vector<double> sums(static_cast<std::size_t>(N));
      for (std::int64_t c = 0; c < N; ++c) {
        double& sum = sums[static_cast<std::size_t>(c)];
        if (add) sum = number(old[static_cast<std::size_t>(c)]);
        for (std::int64_t t = 0; t < T; ++t) sum += number(around[at(t, c)]);
      }
      auto const run = [&] {
        auto const dbias = add ? upload(old) : unwritten<S>(N);
        auto const partial = unwritten<float>(fg::device::bias_parts(T) * N);
        kernels::backward(inside<S>(dy, T, N), partial.data(), dbias.data(), mode, stream);
        return download(dbias);
      };
      auto const is = run();
      CHECK(far_off(is, sums, step_of<S>, 1e-5 * std::sqrt(static_cast<double>(T) + 1)) == "");
      CHECK(same_bits(is, run()));
    }
  }
}

}  // namespace
