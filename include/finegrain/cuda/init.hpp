// start_weights: how a network on the device gets its first weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../plan/init.hpp"
#include "place.hpp"
#include "random.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// The same numbers as the host makes.
template <class T>
void start_weights(basic_cuda<T> const& on, std::vector<weight_entry> const& entries,
                   device_buffer<T> const& to, initialisation const& how) {
  using range = device::random_range;
  std::vector<range> ranges;
  for (weight_entry const& entry : entries) {
    range r{.offset = entry.offset,
            .count = entry.rows * entry.cols,
            .seed = detail::seed_of(entry, how),
            .value = detail::deviation_of(entry, how)};
    if (entry.role == role::gain) r.kind = range::constant, r.value = 1;
    if (detail::starts_at_zero(entry.role) || r.value == 0) r.kind = range::constant, r.value = 0;
    if (entry.role == role::table) r.kind = range::whole, r.bits = detail::table_bits<T>;
    ranges.push_back(r);
  }
  device_buffer<range> const list(static_cast<std::int64_t>(ranges.size()));
  device::runtime::copy(list.data(), ranges.data(), list.bytes(), on.stream);
  place<basic_cuda<T>>::clear(on, to);
  device::random_numbers<T>::fill(list.data(), list.size(), to.data(), on.stream);
  place<basic_cuda<T>>::wait(on);  // the list may go
}

}  // namespace finegrain::inline FINEGRAIN_ABI
