// Laws of base/buffer.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <finegrain/base/buffer.hpp>
#include <limits>
#include <utility>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

bool refuse = false;  // the next aligned allocation fails
int living = 0;       // aligned allocations that were not given back

bool aligned(void const* p) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(fg::alignment) == 0;
}

/// Takes the same arrays from any arena.
struct arrays {
  float* a;
  std::int32_t* b;
  double* c;
  fg::matrix<float> d;
  constexpr explicit arrays(fg::arena& memory)
      : a(memory.take<float>(5)),
        b(memory.take<std::int32_t>(0)),
        c(memory.take<double>(9)),
        d(memory.matrix<float>(3, 7)) {}
};
constexpr std::int64_t counted() {
  fg::arena counting;
  arrays{counting};
  return counting.used();
}

}  // namespace

void* operator new(std::size_t size, std::align_val_t border) {
  auto const step = static_cast<std::size_t>(border);
  void* const p = refuse ? nullptr : std::aligned_alloc(step, (size + step - 1) / step * step);
  if (!p) throw std::bad_alloc();
  ++living;
  return p;
}
void operator delete(void* p, std::align_val_t) noexcept {
  --living;
  std::free(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  --living;
  std::free(p);
}

TEST_CASE("a buffer starts on a 64-byte border and holds what it says") {
  for (std::int64_t size = 1; size < 200; ++size) {
    fg::buffer<float> b(size);
    REQUIRE(aligned(b.data()));
    REQUIRE(b.size() == size);
    REQUIRE(b.end() - b.begin() == size);
    for (float& value : b) value = 1;
    b[size - 1] = 2;
    REQUIRE(*(b.end() - 1) == 2);
  }
}

TEST_CASE("an empty buffer owns nothing") {
  int const before = living;
  for (std::int64_t const size : {0, -1}) {
    fg::buffer<double> const b(size);
    CHECK(b.data() == nullptr);
    CHECK(b.size() == 0);
    CHECK(b.begin() == b.end());
  }
  CHECK(living == before);
}

TEST_CASE("moving a buffer hands its memory on, and each is freed once") {
  int const before = living;
  {
    fg::buffer<float> a(10);
    float* const memory = a.data();
    fg::buffer<float> b(std::move(a));
    CHECK(b.data() == memory);
    CHECK(b.size() == 10);
    fg::buffer<float> c(3);
    c = std::move(b);
    CHECK(c.data() == memory);
    CHECK(b.size() == 0);
    CHECK(living == before + 1);
    fg::buffer<float>& same = c;
    c = std::move(same);
    CHECK(c.data() == memory);
    CHECK(living == before + 1);
  }
  CHECK(living == before);
}

TEST_CASE("memory that is not to be had is std::bad_alloc, and nothing is lost") {
  int const before = living;
  refuse = true;
  CHECK_THROWS_AS(fg::buffer<float>(10), std::bad_alloc);
  refuse = false;
  CHECK(living == before);
}

TEST_CASE("an arena that counts finds what binding takes, while compiling too") {
  constexpr std::int64_t bytes = counted();
  STATIC_REQUIRE(bytes == 64 + 0 + 128 + 128);
  fg::buffer<> memory(bytes);
  fg::arena binding(memory.data(), memory.size());
  arrays const a(binding);
  CHECK(binding.used() == bytes);
  for (void const* p : {static_cast<void const*>(a.a), static_cast<void const*>(a.c),
                        static_cast<void const*>(a.d.data)})
    CHECK(aligned(p));
  CHECK(static_cast<void*>(a.a) == memory.data());
  CHECK(reinterpret_cast<std::byte*>(a.c) >= reinterpret_cast<std::byte*>(a.a + 5));
  CHECK(reinterpret_cast<std::byte*>(a.d.data) >= reinterpret_cast<std::byte*>(a.c + 9));
  CHECK(reinterpret_cast<std::byte*>(a.d.data + 21) <= memory.end());
  CHECK(a.d.rows == 3);
  CHECK(a.d.cols == 7);
  CHECK(a.d.stride == 7);
}

TEST_CASE("an arena lists where arrays stand, those that are not empty") {
  fg::arena counting;
  arrays{counting};
  REQUIRE(counting.arrays() == 3);
  std::vector<fg::array_place> list(3);
  fg::arena listing(list.data());
  arrays{listing};
  CHECK(listing.used() == counted());
  CHECK(listing.arrays() == 3);
  CHECK((list[0].at == 0 && list[0].bytes == 20));
  CHECK((list[1].at == 64 && list[1].bytes == 72));
  CHECK((list[2].at == 192 && list[2].bytes == 84));
}

TEST_CASE("an arena that is too small says by how much") {
  fg::buffer<> memory(256);
  fg::arena small(memory.data(), memory.size());
  CHECK_THROWS_WITH(arrays(small), "the workspace holds 256 bytes and 320 are needed");
}

TEST_CASE("rewinding gives memory back and keeps the peak") {
  fg::buffer<> memory(1024);
  fg::arena a(memory.data(), memory.size());
  a.take<float>(1);
  std::int64_t const mark = a.used();
  float* const first = a.take<float>(100);
  std::int64_t const most = a.used();
  a.rewind(mark);
  CHECK(a.used() == mark);
  CHECK(a.take<float>(10) == first);
  CHECK(a.peak() == most);
}

TEST_CASE("an arena counts past 2^31 and 2^32 bytes") {
  fg::arena counting;
  counting.take<float>(std::int64_t{1} << 31);
  counting.take<double>(std::int64_t{1} << 32);
  CHECK(counting.used() == (std::int64_t{1} << 33) + (std::int64_t{1} << 35));
}
