// What tests of the device do most on the host, optimised: of two definitions the linker takes the
// first, which is this.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/number.hpp>
#include <finegrain/reference/executor.hpp>

#include "../cuda/device_layer.hpp"

namespace under_test {

template std::vector<bf16> as<bf16>(numbers const&);
template std::vector<fg::fp16> as<fg::fp16>(numbers const&);
template numbers as<float>(numbers const&);
template numbers as_numbers<bf16>(std::vector<bf16> const&);
template numbers as_numbers<fg::fp16>(std::vector<fg::fp16> const&);
template numbers as_numbers<float>(numbers const&);

// A function that nobody instantiates is there once its address is taken.
[[gnu::used]] auto* const makes_numbers = &random_numbers;
[[gnu::used]] auto* const compares = &difference;
[[gnu::used]] auto* const normal = &fg::random_normal;

}  // namespace under_test

namespace fg = finegrain;
template void fg::spec::choose<float>(fg::config const&, fg::routing_request const&, float const*,
                                      float const*, fg::router_scratch<float> const&,
                                      std::int32_t*);
template double fg::spec::dot<double>(double const*, double const*, std::int64_t);
template void fg::spec::add<double>(double, double const*, double*, std::int64_t);
