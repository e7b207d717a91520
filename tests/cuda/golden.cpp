// Layers on the device against what PyTorch made of published routers' and papers' formulas: choices
// are the same, all else as bf16 leaves it.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/cuda.hpp>

#include "../golden/papers.hpp"
#include "../golden/published.hpp"
#include "device_layer.hpp"

/// The cuda executor for layers whose widths are no multiples of 8: with zeros at the ends of rows.
struct padded_cuda {
  using scalar = float;
};

namespace golden {

template <fg::config C>
struct layer_of<C, padded_cuda> : layer<float> {
  static constexpr fg::config wide = [] {
    fg::config c = C;
    c.hidden = (C.hidden + 7) / 8 * 8, c.width = (C.width + 7) / 8 * 8;
    return c;
  }();
  using E = fg::mixture<wide>;
  using plan = fg::plan<fg::cuda, E>;
  using numbers_there = fg::device_buffer<fg::bf16>;

  fg::network<E, fg::cuda> network;
  std::vector<fg::weight_entry> listed = fg::list_weights<fg::mixture<C>>();
  std::vector<float> weights = zeros(), dweights = zeros();
  numbers_there x_there, y_there;

  std::vector<fg::weight_entry> const& entries() const override { return listed; }
  std::span<float> parameters() override { return weights; }
  std::span<float> gradient() override { return dweights; }
  fg::routing_log make_log() const override { return network.make_log(); }

  void forward(fg::batch const& b, fg::matrix<float const> x, fg::matrix<float> y,
               bool training) override {
    x_there = padded(x), y_there = padded(fg::matrix<float const>(y));
    fg::matrix<fg::bf16 const> const in{x_there.data(), x.rows, wide.hidden};
    fg::matrix<fg::bf16> const out{y_there.data(), y.rows, wide.hidden};
    put_weights(network.parameters());
    if (training)
      network.forward(b, in, out);
    else
      network.infer(b, in, out);
    take(y_there, y);
  }
  void backward(fg::matrix<float const> dy, fg::matrix<float> dx) override {
    numbers_there const dy_there = padded(dy), dx_there = padded(fg::matrix<float const>(dx));
    network.backward({dy_there.data(), dy.rows, wide.hidden},
                     {dx_there.data(), dx.rows, wide.hidden});
    take(dx_there, dx);
    auto const all = under_test::download(network.gradient());
    each_weight([&](float* mine, std::int64_t there) { *mine = float(all[std::size_t(there)]); },
                dweights);
  }
  void slots(fg::batch const& b, fg::matrix<float const> x, fg::matrix<float> y, bool training,
             taker give, results& got) const override {
    under_test::device_layer<E> one;
    put_weights({one.w.data(), std::size_t(one.w.size())});
    under_test::numbers rows(std::size_t(x.rows * wide.hidden));
    for (std::int64_t t = 0; t < x.rows; ++t)
      std::copy_n(x.row(t), x.cols, rows.begin() + t * wide.hidden);
    one.forward(rows, b, training);
    auto const& router = one.saved().router;
    int const k = fg::slots(C, b.routing);
    std::vector<std::int32_t> experts(std::size_t(x.rows * k));
    std::vector<float> chosen(experts.size());
    auto const bytes = static_cast<std::int64_t>(experts.size() * 4);
    fg::device::runtime::copy(experts.data(), router.experts, bytes, nullptr);
    fg::device::runtime::copy(chosen.data(), router.weights, bytes, nullptr);
    give({experts.data(), x.rows, k}, {chosen.data(), x.rows, k}, k, got);
    static_cast<void>(y);
  }

 private:
  static std::vector<float> zeros() {
    return std::vector<float>(std::size_t(fg::weights_size<fg::mixture<C>>()));
  }
  static numbers_there padded(fg::matrix<float const> from) {
    std::vector<fg::bf16> rows(std::size_t(from.rows * wide.hidden));
    for (std::int64_t t = 0; t < from.rows; ++t)
      for (std::int64_t d = 0; d < from.cols; ++d)
        rows[std::size_t(t * wide.hidden + d)] = fg::bf16(from(t, d));
    return under_test::upload(rows);
  }
  static void take(numbers_there const& from, fg::matrix<float> to) {
    auto const rows = under_test::download(from);
    for (std::int64_t t = 0; t < to.rows; ++t)
      for (std::int64_t d = 0; d < to.cols; ++d)
        to(t, d) = float(rows[std::size_t(t * wide.hidden + d)]);
  }
  /// f(number of `mine`, its place among the padded weights).
  template <class F>
  void each_weight(F&& f, std::vector<float>& mine) const {
    auto const there = fg::list_weights<E>();
    for (std::size_t i = 0; i < listed.size(); ++i)
      for (std::int64_t r = 0; r < listed[i].rows; ++r)
        for (std::int64_t c = 0; c < listed[i].cols; ++c)
          f(&mine[std::size_t(listed[i].offset + r * listed[i].cols + c)],
            there[i].offset + r * there[i].cols + c);
  }
  void put_weights(std::span<fg::bf16> to) const {
    std::vector<fg::bf16> all(to.size());
    auto mine = weights;
    each_weight([&](float* from, std::int64_t there) { all[std::size_t(there)] = fg::bf16(*from); },
                mine);
    fg::device::runtime::copy(to.data(), all.data(), std::int64_t(all.size() * 2), nullptr);
  }
};

}  // namespace golden

namespace {

using namespace golden;

TEST_CASE("the device agrees with PyTorch on published routers, values and gradients") {
  NEED_GPU();
  check_cases(of_published::published<padded_cuda>, published_cases, 0.03);
}

TEST_CASE("the device agrees with PyTorch on routers of papers, values and gradients") {
  NEED_GPU();
  check_cases(of_papers::papers<padded_cuda>, papers_cases, 0.03);
}

}  // namespace
