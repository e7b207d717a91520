// shared_value: an object that its owners release together. Not std::shared_ptr, for which <memory> takes as
// long to compile as a tenth of the library.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <utility>

#include "platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One T and its owners, from any threads. Copying owns the same T and does not throw; what was moved
/// from owns none.
template <class T>
class shared_value {
 public:
  /// A T made of these arguments. Throws what T's constructor does, and std::bad_alloc.
  template <class... Arguments>
  static shared_value of(Arguments&&... arguments) {
    return shared_value(new counted{T(std::forward<Arguments>(arguments)...)});
  }
  shared_value(shared_value const& other) noexcept : held_(other.held_) {
    if (held_) held_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  shared_value(shared_value&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
  shared_value& operator=(shared_value other) noexcept {
    std::swap(held_, other.held_);
    return *this;
  }
  ~shared_value() {
    if (held_ && held_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete held_;
  }

  T& operator*() const { return held_->object; }
  T* operator->() const { return &held_->object; }

 private:
  struct counted {
    T object;
    std::atomic<long> owners{1};
  };
  explicit shared_value(counted* held) : held_(held) {}

  counted* held_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
