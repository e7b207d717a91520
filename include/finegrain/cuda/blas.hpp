// blas: cuBLAS's handle, for the products of dense stages. Defined in linear.cuh.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "memory.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// cuBLAS's handle with a workspace of its own, so that products can be captured in a graph and
/// give the same bits each time. It is for one thread at a time.
class blas {
 public:
  blas();
  blas(blas&& other) noexcept
      : handle(std::exchange(other.handle, nullptr)),
        workspace(std::exchange(other.workspace, nullptr)) {}
  blas& operator=(blas&& other) noexcept {
    std::swap(handle, other.handle);
    std::swap(workspace, other.workspace);
    return *this;
  }
  ~blas();

  void* handle = nullptr;
  void* workspace = nullptr;
  static constexpr std::int64_t workspace_bytes = std::int64_t{32} << 20;

 private:
  explicit blas(void* handle) : handle(handle) {}
};

/// Makes and ends handles, for code that nvcc does not see. Tag is void.
template <class Tag>
struct basic_blas_library {
  static void* create();
  static void destroy(void* handle) noexcept;
};
using blas_library = basic_blas_library<void>;

inline blas::blas() : blas(blas_library::create()) {  // which is ended if there is no memory
  workspace = runtime::allocate(workspace_bytes);
}
inline blas::~blas() {
  if (handle) blas_library::destroy(handle);
  if (workspace) runtime::release(workspace);
}

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
