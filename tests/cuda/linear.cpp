// The device's linear map, exactly: whole numbers small enough for f32 sums.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/linear.hpp>
#include <finegrain/reference/linear.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;
fg::basic_reference<double> const reference{};

struct shape {
  std::int64_t T, in, out;
};

/// The double rounded to S, as the device rounds its f32 sum.
template <class S>
std::vector<double> rounded(std::vector<double> numbers) {
  for (double& x : numbers) x = number(S(static_cast<float>(x)));
  return numbers;
}

TEMPLATE_TEST_CASE("products of whole numbers on the device are exact, whatever the shape", "",
                   bf16, fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::linear<S>;
  NEED_GPU();
  fg::device::blas const library;
  constexpr shape shapes[] = {{1, 8, 8},   {64, 128, 256}, {17, 72, 40},
                              {5, 33, 7},  {3, 64, 2},     {1, 2048, 64},
                              {130, 1, 1}, {0, 16, 24},    {300, 200, 1000}};
  for (auto const [T, in, out] : shapes) {
    auto const x = whole_rows<S>(T * in, 1), w = whole_rows<S>(out * in, 2),
               dy = whole_rows<S>(T * out, 3);
    auto const old_w = whole_rows<S>(out * in, 4), old_x = whole_rows<S>(T * in, 5);
    auto const x_ = upload(x), w_ = upload(w), dy_ = upload(dy);
    auto const shaped = [](auto const& buffer, std::int64_t rows, std::int64_t cols) {
      return view<std::remove_reference_t<decltype(*buffer.data())>>(buffer.data(), rows, cols);
    };
    auto xs = doubles(x), ws = doubles(w), dys = doubles(dy);
    view<double> const xd(xs.data(), T, in), wd(ws.data(), out, in), dyd(dys.data(), T, out);
    for (bool const add : {false, true}) {
      CAPTURE(T, in, out, add);
      double const off = add ? 2 * step_of<S> : 0;  // cuBLAS may round before it adds
      auto const mode = add ? fg::gradients::accumulate : fg::gradients::overwrite;
      auto const y = add ? upload(dy) : unwritten<S>(T * out),
                 dx = add ? upload(old_x) : unwritten<S>(T * in);
      auto const dw = add ? upload(old_w) : unwritten<S>(out * in);
      auto const wide = unwritten<float>(T * out);
      kernels::forward(library, shaped(x_, T, in), shaped(w_, out, in), mode, shaped(y, T, out),
                       stream);
      kernels::forward_f32(library, shaped(x_, T, in), shaped(w_, out, in), shaped(wide, T, out),
                           stream);
      kernels::backward_input(library, shaped(dy_, T, out), shaped(w_, out, in), mode,
                              shaped(dx, T, in), stream);
      kernels::backward_weight(library, shaped(dy_, T, out), shaped(x_, T, in), mode,
                               shaped(dw, out, in), stream);
      std::vector<double> y_s(static_cast<std::size_t>(T * out)), dw_s = doubles(old_w);
      std::vector<double> dx_s = doubles(old_x);
      linear_forward(reference, xd, wd, view<double>(y_s.data(), T, out));
      CHECK(far_off(download(wide), y_s, 0, 0) == "");
      for (std::size_t i = 0; i < y_s.size(); ++i) y_s[i] += add ? dys[i] : 0;
      linear_backward(reference, xd, wd, dyd, view<double>(dw_s.data(), out, in), mode,
                      view<double>(dx_s.data(), T, in), mode);
      CHECK(far_off(download(y), rounded<S>(y_s), off, add) == "");
      CHECK(far_off(download(dx), rounded<S>(dx_s), off, add) == "");
      CHECK(far_off(download(dw), rounded<S>(dw_s), off, add) == "");
    }
  }
}

TEMPLATE_TEST_CASE("a product over columns of a wider matrix, and the same bits again", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::linear<S>;
  NEED_GPU();
  fg::device::blas library;
  fg::device::blas other = std::move(library);
  std::swap(library, other);
  constexpr std::int64_t T = 48, in = 4096, out = 64;
  auto const x = random_rows<S>(T * 2 * in, 1), w = random_rows<S>(out * in, 2);
  auto const x_ = upload(x), w_ = upload(w);
  auto const run = [&](view<S> input) {
    auto const y = unwritten<S>(T * out);
    kernels::forward(library, input, rows(w_, in), fg::gradients::overwrite, rows(y, out), stream);
    return download(y);
  };
  std::vector<S> right;
  for (std::int64_t t = 0; t < T; ++t)
    right.insert(right.end(), x.begin() + t * 2 * in + in, x.begin() + (t + 1) * 2 * in);
  auto const dense = upload(right);
  auto const y = run(rows(dense, in));
  CHECK(same_bits(y, run(rows(dense, in))));
  CHECK(far_off(run(rows(x_, 2 * in).middle_cols(in, in)), y, step_of<S>, 1e-2) == "");
}

}  // namespace
