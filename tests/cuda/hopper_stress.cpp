// Hopper's forward products many times over: many small layers, none of which may stand still or
// come out otherwise a second time; and gathered rows against rows that were copied into order.
// Hidden: asked for by their tag, [stress].
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/hopper/forward.hpp>
#include <finegrain/cuda/hopper/transposed.hpp>
#include <future>

#include "../catch.hpp"
#include "differences.hpp"
#include "numbers.hpp"
#include "rows.hpp"

namespace {

using namespace on_device;

/// Ends the program where the device does not come to its end in time.
void wait_for_device(std::string const& what) {
  auto done = std::async(std::launch::async, [] { device::runtime::synchronize(nullptr); });
  if (done.wait_for(std::chrono::seconds(20)) == std::future_status::ready) return done.get();
  std::fprintf(stderr, "stood still: %s\n", what.c_str());
  std::_Exit(1);
}

/// A layer on the device with random weights and tokens, all of whose outputs can be poisoned.
class layer {
 public:
  layer(int D, int F, int shared_width, on_device::routing const& routing, std::uint64_t seed)
      : map_(routing, map_of(routing, 128)), x_(random(std::int64_t{routing.tokens} * D, seed)) {
    p.hidden = D;
    p.rows = map_;
    p.x = x_.data();
    if (routing.experts > 0) add(p.routed, F, routing.experts, p.rows.max_rows(), seed + 1);
    if (shared_width > 0) add(p.shared, shared_width, 1, routing.tokens, seed + 2);
  }
  void poison() {
    for (auto& o : outputs_) device::runtime::fill(o.data(), 0xff, o.bytes(), nullptr);
  }
  /// What the outputs hold now is what they shall hold.
  void keep() {
    for (auto const& o : outputs_) {
      kept_.emplace_back(o.size());
      device::runtime::enqueue_copy(kept_.back().data(), o.data(), o.bytes(), nullptr);
    }
  }
  void compare(differences& found) const {
    for (std::size_t i = 0; i < kept_.size(); ++i) found.add(outputs_[i], kept_[i]);
  }
  device::expert_products<bf16> p;

 private:
  static device_buffer<bf16> random(std::int64_t count, std::uint64_t seed) {
    auto const some = random_bf16(std::min<std::int64_t>(count, 30'011), seed);
    std::vector<bf16> numbers;
    for (std::int64_t i = 0; i < count; ++i) numbers.push_back(some[std::size_t(i) % some.size()]);
    return upload(numbers);
  }
  void add(device::expert_family<bf16>& f, int F, int experts, std::int64_t rows,
           std::uint64_t seed) {
    std::int64_t const size = std::int64_t{experts} * F * p.hidden;
    f.width = F;
    weights_.push_back(random(3 * size, seed));
    f.gate = weights_.back().data(), f.up = f.gate + size, f.down = f.up + size;
    f.hidden = outputs_.emplace_back(rows * F).data();
    f.out = outputs_.emplace_back(rows * p.hidden).data();
  }
  device_map map_;
  device_buffer<bf16> x_;
  std::vector<device_buffer<bf16>> weights_, outputs_, kept_;
};

/// Uniform in low .. high.
struct numbers_in {
  std::uint64_t seed, draw = 0;
  int operator()(int low, int high) {
    double const u = fg::random_uniform(seed, draw++);
    return low + static_cast<int>(u * (high - low + 1));
  }
};

template <class Products>
void stress(int layers, int times, std::uint64_t seed) {
  differences found;
  numbers_in some{seed};
  for (int i = 0; i < layers; ++i) {
    int const T = some(0, 7) ? some(1, 300) : some(1, 4), R = some(0, 3) ? some(1, 16) : 0;
    int const D = 8 * some(1, some(0, 3) ? 24 : 64), F = 8 * some(1, some(0, 3) ? 24 : 64);
    int const S = R > 0 ? some(0, 2) : some(1, 2), k = R > 0 ? some(1, std::min(R, 6)) : 0;
    auto const routing = R == 0
                             ? on_device::routing{T, 0, 0, {}, {}}
                             : random_routing(T, k, R, seed + std::uint64_t(i), some(0, 3),
                                              some(0, R - k), some(0, 3) ? 0 : 0.11 * some(0, 10));
    layer l(D, F, S * F, routing, seed + std::uint64_t(i));
    for (int run = 0; run < times; ++run) {
      if (run % 2 == 0) l.poison();
      Products::up_forward(l.p, nullptr);
      Products::down_forward(l.p, nullptr);
      if (run == 0) l.keep();
      if (run % 2 == 0) l.compare(found);
    }
    auto const shape = "T " + std::to_string(T) + " D " + std::to_string(D) + " F " +
                       std::to_string(F) + " R " + std::to_string(R) + " k " + std::to_string(k) +
                       " S " + std::to_string(S);
    wait_for_device(shape);
    INFO(shape);
    REQUIRE(found.count() == 0);
  }
}

/// Tiles of a gather against the same product on rows that stand in order.
template <class Products>
void gather(int times) {
  int const T = 4096, D = 2048, F = 512, R = 64;
  auto const routing = random_routing(T, 6, R, 1);
  auto const map = map_of(routing, 128);
  layer gathered(D, F, 0, routing, 1);
  auto copied = gathered.p;

  auto const x = download(gathered.p.x, std::int64_t{T} * D);
  std::vector<bf16> in_order(static_cast<std::size_t>(map.rows()) * D, bf16(0.0f));
  auto own = map.row_token;
  for (std::size_t r = 0; r < own.size(); ++r) {
    if (own[r] < 0) continue;
    std::copy_n(x.begin() + std::int64_t{own[r]} * D, D, in_order.begin() + std::int64_t(r) * D);
    own[r] = static_cast<std::int32_t>(r);
  }
  auto const rows_ = upload(in_order);
  auto const own_ = upload(own);
  copied.x = rows_.data();
  copied.rows.row_token = own_.data();

  gathered.poison();
  Products::up_forward(copied, nullptr);
  Products::down_forward(copied, nullptr);
  gathered.keep();
  differences found;
  for (int i = 0; i < times; ++i) {
    gathered.poison();
    Products::up_forward(gathered.p, nullptr);
    Products::down_forward(gathered.p, nullptr);
    gathered.compare(found);
  }
  wait_for_device("a gather");
  CHECK(found.count() == 0);
}

/// Up by hopper_forward, down by hopper_transposed.
struct transposed : device::hopper_forward<bf16> {
  static void down_forward(device::expert_products<bf16> const& p, CUstream_st* on) {
    device::hopper_transposed<bf16>::down_forward(p, on);
  }
};

}  // namespace

TEST_CASE("hopper forward: many small layers", "[.stress]") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  stress<device::hopper_forward<bf16>>(400, 60, 1);
}
TEST_CASE("hopper transposed: many small layers", "[.stress]") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  stress<transposed>(400, 60, 2);
}
TEST_CASE("hopper forward: a million tiles of gathered rows", "[.stress]") {
  NEED_HOPPER(device::hopper_forward<bf16>);
  gather<device::hopper_forward<bf16>>(1'100);  // 240 tiles of rows, 4 of columns
}
