// published_config: the config.json of a published model, compared with an expression, or written of a decoder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../expr/decoder.hpp"
#include "config_comparison.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

template <class E>
inline constexpr bool is_decoder = false;
template <architecture A>
inline constexpr bool is_decoder<decoder<A>> = true;

/// What the config of a published model says otherwise than an expression.
template <Expr E>
std::vector<std::string> config_differences(std::string const& config) {
  config_comparison comparison(config);
  leaves<E>::visit(comparison);
  return comparison.differences();
}

}  // namespace detail

/// Compares an expression with the config.json of a published model: its numbers, and what models of
/// other families do that no stage here does. Throws file_error, or mismatch with the list of
/// differences.
template <Expr E>
void check_published(std::string const& config) {
  auto differences = detail::config_differences<E>(config);
  if (!differences.empty()) throw mismatch(config, std::move(differences));
}

/// The config.json of a decoder as one of a family's models, which check_published finds no difference in:
///
///   std::string const text = published_config<decoder<a>>(families::qwen3_moe);
///
/// Throws invalid_argument, with what differs, if no model of the family computes what the decoder does,
/// arithmetics (config::precision) and what is of training apart, and for facts that are no model's.
template <Expr E>
std::string published_config(published_family const& family, published_facts const& facts = {}) {
  static_assert(detail::is_decoder<E>,
                "finegrain: a config.json is written of a whole model, decoder<architecture>");
  detail::config_comparison form(family);
  detail::leaves<E>::visit(form);
  return form.written(facts);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
