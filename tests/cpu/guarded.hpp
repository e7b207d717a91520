// Memory that ends where reading on is a fault, and memory spread over more than 2^31 numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <finegrain/base/matrix.hpp>
#include <stdexcept>

namespace under_test {

/// Rows of floats whose last number is the last before a page that nobody may touch.
class guarded {
 public:
  guarded(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {
    auto const page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::size_t const bytes = static_cast<std::size_t>(rows * cols) * sizeof(float);
    std::size_t const whole = (bytes + page - 1) / page * page;
    size_ = whole + page;
    memory_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("mmap failed");
    ::mprotect(static_cast<char*>(memory_) + whole, page, PROT_NONE);
    data_ = reinterpret_cast<float*>(static_cast<char*>(memory_) + whole - bytes);
  }
  guarded(guarded const&) = delete;
  ~guarded() { ::munmap(memory_, size_); }

  float* data() const { return data_; }
  finegrain::matrix<float> view() const { return {data_, rows_, cols_}; }
  template <class Numbers>
  guarded& operator=(Numbers const& from) {
    std::copy(from.begin(), from.end(), data_);
    return *this;
  }

 private:
  std::int64_t rows_, cols_;
  std::size_t size_;
  void* memory_;
  float* data_;
};

/// Rows that are more than 2^31 numbers apart: address space is reserved, and only the rows
/// themselves have memory. `view().data` is null where so much address space is not to be had.
class far_apart {
 public:
  static constexpr std::int64_t stride = (std::int64_t{1} << 31) + 4096;

  far_apart(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {
    size_ = static_cast<std::size_t>(rows * stride) * sizeof(float);
    memory_ = ::mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (std::int64_t r = 0; r < rows && memory_ != MAP_FAILED; ++r)
      if (::mprotect(view().row(r), static_cast<std::size_t>(cols) * sizeof(float),
                     PROT_READ | PROT_WRITE) != 0)
        memory_ = MAP_FAILED;
  }
  far_apart(far_apart const&) = delete;
  ~far_apart() {
    if (memory_ != MAP_FAILED) ::munmap(memory_, size_);
  }

  finegrain::matrix<float> view() const {
    if (memory_ == MAP_FAILED) return {};
    return {static_cast<float*>(memory_), rows_, cols_, stride};
  }

 private:
  std::int64_t rows_, cols_;
  std::size_t size_;
  void* memory_;
};

}  // namespace under_test
