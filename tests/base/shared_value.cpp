// One object, several owners: it is there as long as any of them.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <finegrain/base/parallel.hpp>
#include <finegrain/base/shared_value.hpp>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

struct witness {
  std::atomic<int>* alive;
  explicit witness(std::atomic<int>& alive, bool fails = false) : alive(&alive) {
    if (fails) throw std::runtime_error("made nothing");
    ++alive;
  }
  witness(witness const&) = delete;
  witness& operator=(witness const&) = delete;
  ~witness() { --*alive; }
};
using owner = fg::shared_value<witness>;

static_assert(std::is_nothrow_copy_constructible_v<owner>);

}  // namespace

TEST_CASE("an object goes with the last of its owners") {
  std::atomic<int> alive{0};
  {
    owner a = owner::of(alive);
    CHECK(alive == 1);
    owner b = a;
    CHECK(&*a == &*b);
    owner c = std::move(a);
    CHECK(c->alive == &alive);
    a = owner::of(alive);
    CHECK(alive == 2);
    a = b;
    CHECK(alive == 1);
    owner& same = a;
    a = same;
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}

TEST_CASE("an object that could not be made has no owner") {
  std::atomic<int> alive{0};
  CHECK_THROWS(owner::of(alive, true));
  CHECK(alive == 0);
}

TEST_CASE("owners in several threads") {
  std::atomic<int> alive{0};
  {
    owner const first = owner::of(alive);
    fg::thread_pool pool(4);
    fg::parallel const threads = pool;
    threads(10000, [&](std::int64_t, int) {
      owner const own = first;
      owner const again = own;
    });
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}
