// The device's embedding against the reference.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/cuda/embed.hpp>
#include <finegrain/reference/embed.hpp>

#include "numbers.hpp"

namespace {

using namespace on_device;
fg::basic_reference<double> const reference{};

using scratch = fg::device::embed_scratch;
static_assert(scratch::shares(0) == 0 && scratch::shares(1) == 1 && scratch::shares(1025) == 2);
static_assert(scratch::shares(1 << 20) == 64 && scratch::chunks(33) == 2);

enum class tokens { random, one, few, frequent };

std::vector<std::int32_t> ids_of(tokens kind, std::int64_t T, int V) {
  std::mt19937 random(7);
  std::vector<std::int32_t> ids;
  for (std::int64_t t = 0; t < T; ++t) {
    auto const n = random();
    double const part = static_cast<double>(random() % 10000 + 1) / 10000;
    switch (kind) {
      case tokens::random: ids.push_back(static_cast<int>(n % unsigned(V))); break;
      case tokens::one: ids.push_back(V - 1); break;
      case tokens::few: ids.push_back(n % 3 == 0 ? 0 : V / 2); break;
      case tokens::frequent: ids.push_back(static_cast<int>(std::pow(V, part)) - 1); break;
    }
  }
  return ids;
}

struct shape {
  std::int64_t T, D;
  int V;
};
constexpr shape shapes[] = {{1, 8, 1},         {31, 72, 5},     {1000, 40, 511},    {1025, 64, 512},
                            {5000, 16, 70000}, {70, 2056, 300}, {70000, 8, 200000}, {0, 8, 9}};

TEMPLATE_TEST_CASE("the embedding on the device is the reference's, exactly", "", bf16, fg::fp16,
                   float) {
  using S = TestType;
  using kernels = fg::device::embed<S>;
  NEED_GPU();
  for (auto const [T, D, V] : shapes) {
    if (on_device::emulated() && V > 1000) continue;
    for (auto const kind : {tokens::random, tokens::one, tokens::few, tokens::frequent}) {
      auto const ids = ids_of(kind, T, V);
      auto const table = whole_rows<S>(V * D, 1), dy = whole_rows<S>(T * D, 2);
      auto const ids_ = upload(ids);
      auto const table_ = upload(table), dy_ = upload(dy);
      auto const y = unwritten<S>(T * D);
      kernels::forward(ids_.data(), view<S>(table_.data(), V, D), view<S>(y.data(), T, D), stream);
      auto tables = doubles(table), dys = doubles(dy);
      std::vector<double> ys(static_cast<std::size_t>(T * D));
      embedding_forward(reference, ids, view<double>(tables.data(), V, D),
                        view<double>(ys.data(), T, D));
      CHECK(far_off(download(y), ys, 0, 0) == "");

      fg::arena counting;
      static_cast<void>(fg::device::embed_scratch(counting, T, D));
      auto const memory = unwritten<std::byte>(counting.used());
      for (bool const add : {false, true}) {
        CAPTURE(T, D, V, static_cast<int>(kind), add);
        auto const mode = add ? fg::gradients::accumulate : fg::gradients::overwrite;
        auto const dtable = add ? upload(table) : unwritten<S>(V * D);
        fg::arena cut(memory.data(), memory.bytes());
        kernels::backward(ids_.data(), view<S>(dy_.data(), T, D),
                          fg::device::embed_scratch(cut, T, D), mode, view<S>(dtable.data(), V, D),
                          stream);
        auto should = tables;
        embedding_backward(reference, ids, view<double>(dys.data(), T, D),
                           view<double>(should.data(), V, D), mode);
        for (double& x : should) x = number(S(static_cast<float>(x)));
        CHECK(far_off(download(dtable), should, 0, 0) == "");
      }
    }
  }
}

TEMPLATE_TEST_CASE("an id that is not a row of the table spoils its own token alone", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  using kernels = fg::device::embed<S>;
  NEED_GPU();
  constexpr std::int64_t T = 4, D = 8, V = 5;
  auto const ids = upload(std::vector<std::int32_t>{1, -1, 5, 4});
  auto const table = upload(whole_rows<S>(V * D, 1)), dy = upload(whole_rows<S>(T * D, 2));
  auto const y = unwritten<S>(T * D), dtable = unwritten<S>(V * D);
  kernels::forward(ids.data(), rows(table, D), rows(y, D), stream);
  auto const is = download(y);
  for (std::size_t t = 0; t < T; ++t) CHECK(std::isnan(number(is[t * D])) == (t == 1 || t == 2));
  fg::arena counting;
  static_cast<void>(fg::device::embed_scratch(counting, T, D));
  auto const memory = unwritten<std::byte>(counting.used());
  fg::arena cut(memory.data(), memory.bytes());
  kernels::backward(ids.data(), rows(dy, D), fg::device::embed_scratch(cut, T, D),
                    fg::gradients::overwrite, rows(dtable, D), stream);
  auto const dy_ = download(dy), dtable_ = download(dtable);
  for (std::size_t i = 0; i < V * D; ++i) {
    std::size_t const v = i / D, c = i % D;
    CHECK(number(dtable_[i]) == (v == 1 ? number(dy_[c]) : v == 4 ? number(dy_[3 * D + c]) : 0));
  }
}

}  // namespace
