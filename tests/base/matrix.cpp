// Laws of base/matrix.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <sys/mman.h>

#include <Eigen/Core>
#include <concepts>
#include <cstddef>
#include <finegrain/base/matrix.hpp>
#include <utility>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

template <class T>
using row_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

float corner(fg::matrix<float const> m) { return m(0, 0); }
void fill(fg::matrix<float> m, float value) {
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) m(r, c) = value;
}

}  // namespace

// A read-only view never becomes a writable one, and numbers keep their type.
static_assert(std::convertible_to<fg::matrix<float>, fg::matrix<float const>>);
static_assert(!std::convertible_to<fg::matrix<float const>, fg::matrix<float>>);
static_assert(!std::convertible_to<fg::matrix<float>, fg::matrix<double const>>);
static_assert(!std::convertible_to<fg::stack<float const>, fg::stack<float>>);
static_assert(std::is_trivially_copyable_v<fg::matrix<float>>);

TEST_CASE("element (r, c) lies at r * stride + c") {
  std::vector<float> v(3 * 10);
  fg::matrix<float> const m(v.data(), 3, 7, 10);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 7; ++c) {
      CHECK(&m(r, c) == v.data() + r * 10 + c);
      CHECK(m.row(r) + c == &m(r, c));
    }
  CHECK(m.size() == 21);
  CHECK(fg::matrix<float>(v.data(), 3, 10).stride == 10);
}

TEST_CASE("a view of rows or columns is of the same elements") {
  std::vector<float> v(6 * 9);
  fg::matrix<float> const m(v.data(), 6, 8, 9);
  auto const part = m.middle_rows(2, 3).middle_cols(4, 2);
  CHECK(part.rows == 3);
  CHECK(part.cols == 2);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 2; ++c) CHECK(&part(r, c) == &m(2 + r, 4 + c));
}

TEST_CASE("a stack is its matrices, one after the other") {
  std::vector<float> v(4 * 2 * 3);
  fg::stack<float> const s(v.data(), 4, 2, 3);
  for (int i = 0; i < 4; ++i) {
    CHECK(s[i].data == v.data() + i * 6);
    CHECK(s[i].rows == 2);
    CHECK(s[i].cols == 3);
  }
  fg::stack<float const> const read = s;
  CHECK(read[3].data == v.data() + 18);
}

TEST_CASE("offsets are 64 bits wide") {
  constexpr std::int64_t rows = 1 << 17, cols = 1 << 17;  // addresses only, no memory
  void* const reserved = ::mmap(nullptr, std::size_t{rows * cols}, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(reserved != MAP_FAILED);
  auto* const base = static_cast<std::byte*>(reserved);
  fg::matrix<std::byte> const m(base, rows, cols);
  CHECK(&m(rows - 1, cols - 1) - base == (std::int64_t{1} << 34) - 1);
  CHECK(m.middle_rows(rows - 1, 1).data - base == (std::int64_t{1} << 34) - cols);
  CHECK(m.size() == std::int64_t{1} << 34);
  ::munmap(reserved, std::size_t{rows * cols});
}

TEST_CASE("Eigen matrices, maps, blocks and refs are seen where they lie") {
  row_major<float> m = row_major<float>::Random(5, 8);
  auto const same = [&](fg::matrix<float const> view, std::int64_t r0, std::int64_t c0,
                        std::int64_t rows, std::int64_t cols) {
    CHECK(view.rows == rows);
    CHECK(view.cols == cols);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) CHECK(&view(r, c) == &m(r0 + r, c0 + c));
  };
  same(m, 0, 0, 5, 8);
  same(std::as_const(m), 0, 0, 5, 8);
  same(m.block(1, 2, 3, 4), 1, 2, 3, 4);
  same(std::as_const(m).middleRows(2, 2), 2, 0, 2, 8);
  same(m.row(3), 3, 0, 1, 8);
  same(Eigen::Map<row_major<float>>(m.data(), 5, 8), 0, 0, 5, 8);
  same(Eigen::Map<row_major<float> const>(m.data(), 5, 8), 0, 0, 5, 8);
  same(Eigen::Map<row_major<float>, 0, Eigen::OuterStride<>>(m.data(), 2, 8,
                                                             Eigen::OuterStride<>(8)),
       0, 0, 2, 8);
  Eigen::Ref<row_major<float>> ref = m.block(0, 3, 5, 2);
  same(ref, 0, 3, 5, 2);
  Eigen::Matrix<float, 5, 8, Eigen::RowMajor> fixed;
  CHECK(fg::matrix<float const>(fixed).data == fixed.data());
}

TEST_CASE("what is written through a view is in the Eigen matrix") {
  row_major<float> m = row_major<float>::Zero(4, 6);
  fill(m.block(1, 2, 2, 3), 7);
  CHECK(m.sum() == 7 * 6);
  CHECK(m.block(1, 2, 2, 3).minCoeff() == 7);
  CHECK(corner(m.block(1, 2, 2, 3)) == 7);
  Eigen::Map<row_major<float>> map(m.data(), 4, 6);
  fill(map, 1);
  CHECK(m.sum() == 24);
}

TEST_CASE("a view makes an Eigen map of the same numbers") {
  std::vector<float> v(3 * 10, 2);
  fg::matrix<float> const m(v.data(), 3, 7, 10);
  Eigen::Map<row_major<float>, 0, Eigen::OuterStride<>> const map(m.data, m.rows, m.cols,
                                                                  Eigen::OuterStride<>(m.stride));
  CHECK(map.sum() == 42);
  CHECK(fg::matrix<float const>(map).stride == 10);
}

TEST_CASE("an Eigen view with gaps inside its rows is refused in a sentence") {
  row_major<float> m(4, 8);
  Eigen::Map<row_major<float>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> gaps(
      m.data(), 4, 4, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(8, 2));
  CHECK_THROWS_WITH(fg::matrix<float>(gaps),
                    "the columns of this Eigen view are 2 numbers apart; finegrain needs rows that "
                    "are contiguous");
  CHECK_THROWS_AS(fg::matrix<float>(gaps), fg::invalid_argument);
}
