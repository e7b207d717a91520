// extent: what passes are told beside matrices: how much there is, in which heads, what gradients do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "../base/math.hpp"
#include "../base/number.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// What the size of saved and scratch memory depends on, beside the expression.
struct extent {
  std::int64_t tokens = 0;
  int workers = 1;              // of the executor's `parallel`
  bool training = false;        // whether a backward pass will follow
  format kept = format::f32;    // of what experts keep for it, where the executor has a choice
  format frozen = format::f32;  // of a frozen network's weights but experts'
};

/// The heads of an attention stage: `query` heads of `dim` numbers, `key_value` shared ones, whose
/// values may have another number of numbers.
struct heads {
  int query, key_value, dim;
  int value = dim;
  double scale = 0;  // what scores are times; 0: 1 / sqrt(dim)

  template <class T>
  T scale_of() const {
    return scale > 0 ? static_cast<T>(scale) : 1 / math::sqrt(static_cast<T>(dim));
  }
  /// The same with the scale said, as kernels read it.
  heads with_scale() const { return {query, key_value, dim, value, scale_of<double>()}; }
};

/// What gradients of weights do to the memory that they are written to.
enum class gradients { overwrite, accumulate };

}  // namespace finegrain::inline FINEGRAIN_ABI
