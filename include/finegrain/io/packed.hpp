// packed: a frozen network's weights in a file as they stand in its memory, to be there again in seconds.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../base/bounds.hpp"
#include "../base/throwing_tasks.hpp"
#include "../expr/describe.hpp"
#include "../model/frozen.hpp"
#include "weight_tensors.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

/// A tensor U8 "arrays.<i>" for each array of the network's memory, and "checksums" I64, one for each
/// checked_bytes of an array or what is left of it, in their order. The metadata says what must be the same
/// where it is read: packed_facts.
inline constexpr std::int64_t checked_bytes = std::int64_t{1} << 20;

/// A checksum of some bytes. Each step maps the sums one to one, so that a change is always seen if it is
/// within one word: 8 bytes, the first of them a multiple of 8 behind `from`.
FINEGRAIN_LAZY inline std::int64_t checksum(std::byte const* from, std::int64_t count) {
  constexpr int chains = 8;  // of multiplications, which do not wait for one another
  constexpr std::int64_t step = chains * 8;
  std::uint64_t sums[chains] = {1, 2, 3, 4, 5, 6, 7, 8};
  auto const mix = [](std::uint64_t& sum, std::uint64_t word) {
    sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
    sum ^= sum >> 32;
  };
  auto const add = [&](std::byte const* at) {
    std::uint64_t words[chains];
    std::memcpy(words, at, step);
    for (int c = 0; c < chains; ++c) mix(sums[c], words[c]);
  };
  for (; count >= step; from += step, count -= step) add(from);
  if (count > 0) {
    std::byte last[step]{};
    std::memcpy(last, from, static_cast<std::size_t>(count));
    add(last);
  }
  for (int c = 1; c < chains; ++c) mix(sums[0], sums[c]);
  return static_cast<std::int64_t>(sums[0]);
}

/// What decides the bytes, by its key in the metadata and in words for a sentence.
struct packed_fact {
  char const *key, *what;
  std::string value;
};
template <class N>
std::vector<packed_fact> packed_facts() {
  using how = packed_form<typename N::executor>;
  return {{"executor", "the executor", how::executor()},
          {"experts", "experts", how::template text<N::stored.experts>()},
          {"rest", "the rest", how::template text<N::stored.rest>()}};
}

/// The tensors of a file, at these places of a network's memory, the checksums behind them.
FINEGRAIN_LAZY inline std::vector<tensor_view> packed_tensors(
    std::vector<array_place> const& arrays) {
  std::vector<tensor_view> tensors;
  std::int64_t sums = 0;
  for (array_place const& array : arrays) {
    tensors.push_back({"arrays." + std::to_string(tensors.size()), dtype::u8, {array.bytes}});
    sums += ceil_div(array.bytes, checked_bytes);
  }
  tensors.push_back({"checksums", dtype::i64, {sums}});
  return tensors;
}

template <class N>
void write_packed(N const& net, std::string const& path) {
  using X = typename N::executor;
  auto const memory = net.packed();
  auto const arrays = N::arrays();
  auto const tensors = packed_tensors(arrays);
  std::vector<std::pair<std::string, std::string>> about{
      {"architecture", describe(typename N::expression{})}, {"format", packed_format}};
  for (packed_fact& fact : packed_facts<N>()) about.emplace_back(fact.key, std::move(fact.value));
  std::vector<std::int64_t> sums;
  decltype(place<X>::fetched(net.on(), memory)) array;
  write_safetensors(path, tensors, about, [&](std::size_t i) -> void const* {
    if (i == arrays.size()) return sums.data();
    std::int64_t const bytes = arrays[i].bytes, first = std::ssize(sums);
    array = place<X>::fetched(net.on(), span_of(memory.data() + arrays[i].at, bytes));
    sums.resize(sums.size() + static_cast<std::size_t>(ceil_div(bytes, checked_bytes)));
    place<X>::threads(net.on())(std::ssize(sums) - first, [&](std::int64_t part, int) {
      std::int64_t const at = part * checked_bytes;
      sums[static_cast<std::size_t>(first + part)] =
          checksum(array.data() + at, std::min(checked_bytes, bytes - at));
    });
    return array.data();
  });
}

/// The tensors of a file of packed weights, which are in packed_tensors' form. Throws mismatch with all that
/// differs if it has others, or other facts.
FINEGRAIN_LAZY inline std::vector<tensor_entry const*> find_packed(
    safetensors_file const& file, std::vector<tensor_view> const& tensors,
    std::string const& architecture, std::vector<packed_fact> const& facts) {
  std::vector<std::string> differences;
  compare_architectures(file, architecture, differences);
  if (!differences.empty()) throw mismatch(file.path(), std::move(differences));
  for (packed_fact const& fact : facts) {
    std::string const* const theirs = file.metadata(fact.key);
    if (!theirs || *theirs != fact.value)
      differences.push_back(std::string(fact.what) + ": " +
                            (theirs ? "\"" + *theirs + "\"" : "nothing") + " in the file, \"" +
                            fact.value + "\" here");
  }
  if (!differences.empty())  // other arrays then are no wonder
    throw mismatch(file.path(), std::move(differences), "weights packed otherwise");
  auto found = find_tensors(file, tensors, differences);
  if (!differences.empty())
    throw mismatch(file.path(), std::move(differences), "weights packed otherwise");
  return found;
}

/// Reads an array to its place, and compares it with its checksums. Throws file_error.
FINEGRAIN_LAZY inline void read_checked(safetensors_file const& file, tensor_entry const& array,
                                        std::span<std::int64_t const> sums, parallel const& threads,
                                        std::byte* to) {
  std::int64_t const bytes = array.end - array.begin;
  run_throwing(threads, std::ssize(sums), [&](std::int64_t part, int) {
    std::int64_t const at = part * checked_bytes, some = std::min(checked_bytes, bytes - at);
    file.read(array, to + at, at, some);
    if (checksum(to + at, some) != sums[static_cast<std::size_t>(part)])
      throw file_error("%.300s is damaged: a checksum is not that of bytes %lld to %lld of %s",
                       file.path().c_str(), shown(at), shown(at + some), array.name.c_str());
  });
}

template <class N>
N read_packed(safetensors_file const& file, typename N::executor on) {
  using X = typename N::executor;
  auto const arrays = N::arrays();
  auto const found = find_packed(file, packed_tensors(arrays), describe(typename N::expression{}),
                                 packed_facts<N>());
  packed_form<X>::template prepare<N::stored.experts>();
  packed_form<X>::template prepare<N::stored.rest>();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(found.back()->shape[0]));
  file.read(*found.back(), sums.data());
  return N::of_packed(std::move(on), [&](X const& where, std::span<std::byte> memory) {
    std::int64_t first = 0;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      auto const [at, bytes] = arrays[i];
      std::span const mine = span_of(sums.data() + first, ceil_div(bytes, checked_bytes));
      place<X>::write(where, span_of(memory.data() + at, bytes),
                      [&](std::byte* to, parallel const& threads) {
                        read_checked(file, *found[i], mine, threads, to);
                      });
      first += std::ssize(mine);
    }
  });
}

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
