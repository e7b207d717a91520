// Routings of several kinds, and the row_map of one made on the host: what the router's kernels
// must write, and what the products' tests read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/base/random.hpp>
#include <finegrain/cuda/row_map.hpp>
#include <vector>

#include "memory.hpp"

namespace on_device {

namespace device = fg::device;

/// The expert of each token and slot, -1 where it is dropped, and its weight.
struct routing {
  int tokens = 0, slots = 0, experts = 0;  // T, k, R
  std::vector<std::int32_t> expert;        // (T, k)
  std::vector<float> weight;               // (T, k)
};

/// Each token at k different experts. `skew` 0: any with the same chance; above: the first ones
/// more often (3: most tokens at the first few). `empty`: the last so many have no token at all.
/// `drop`: the share of slots that are dropped.
inline routing random_routing(int T, int k, int R, std::uint64_t seed, double skew = 0,
                              int empty = 0, double drop = 0) {
  routing r{T, k, R, std::vector<std::int32_t>(static_cast<std::size_t>(T) * k),
            std::vector<float>(static_cast<std::size_t>(T) * k)};
  int const open = std::max(R - empty, k);
  std::uint64_t draw = 0;
  std::vector<char> taken(static_cast<std::size_t>(R));
  for (int t = 0; t < T; ++t) {
    std::fill(taken.begin(), taken.end(), char{0});
    for (int j = 0; j < k; ++j) {
      int e;
      do {
        double u = fg::random_uniform(seed, draw++);
        for (double s = skew; s > 0; --s) u *= fg::random_uniform(seed, draw++);
        e = std::min(static_cast<int>(u * open), open - 1);
      } while (taken[static_cast<std::size_t>(e)]);
      taken[static_cast<std::size_t>(e)] = 1;
      auto const at = static_cast<std::size_t>(t) * k + j;
      r.expert[at] = fg::random_uniform(seed, draw++) < drop ? -1 : e;
      r.weight[at] = static_cast<float>(0.05 + fg::random_uniform(seed, draw++));
    }
  }
  return r;
}
/// Every token at expert e; k = 1.
inline routing all_at(int T, int R, int e) {
  return {T, 1, R, std::vector<std::int32_t>(static_cast<std::size_t>(T), e),
          std::vector<float>(static_cast<std::size_t>(T), 0.75f)};
}

/// A row_map's arrays on the host, as row_map.hpp describes them. `tiles` and the rows hold what
/// is written only: tile_count and offsets[R] of them.
struct host_map {
  int tile = 0;
  std::vector<std::int32_t> counts, offsets;
  std::vector<device::row_tile> tiles;
  std::vector<std::int32_t> row_token;
  std::vector<float> row_weight;
  std::vector<std::int32_t> slot_row;

  std::int32_t rows() const { return offsets.back(); }
};

inline host_map map_of(routing const& r, int tile) {
  auto const R = static_cast<std::size_t>(r.experts), pairs = r.expert.size();
  host_map m{tile, std::vector<std::int32_t>(R),        std::vector<std::int32_t>(R + 1), {}, {},
             {},   std::vector<std::int32_t>(pairs, -1)};
  for (auto const e : r.expert)
    if (e >= 0) ++m.counts[static_cast<std::size_t>(e)];
  for (std::size_t e = 0; e < R; ++e) {
    auto const tiles = (m.counts[e] + tile - 1) / tile;
    for (int i = 0; i < tiles; ++i)
      m.tiles.push_back({static_cast<std::int32_t>(e), m.offsets[e] + i * tile,
                         std::min(tile, m.counts[e] - i * tile), 0});
    m.offsets[e + 1] = m.offsets[e] + tiles * tile;
  }
  m.row_token.assign(static_cast<std::size_t>(m.rows()), -1);
  m.row_weight.assign(static_cast<std::size_t>(m.rows()), 0.0f);
  std::vector<std::int32_t> next(m.offsets.begin(), m.offsets.end() - 1);
  for (std::size_t i = 0; i < pairs; ++i) {
    if (r.expert[i] < 0) continue;
    auto const row = next[static_cast<std::size_t>(r.expert[i])]++;
    m.slot_row[i] = row;
    m.row_token[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(i) / r.slots;
    m.row_weight[static_cast<std::size_t>(row)] = r.weight[i];
  }
  return m;
}

/// The same on the device. What a router leaves unwritten is poison: 0x7f in every byte, an expert,
/// a row or a token that there is not.
class device_map {
 public:
  device_map(routing const& r, host_map const& h) {
    fg::arena count;
    device::row_map(count, r.tokens, r.slots, r.experts, h.tile);
    memory_ = device_buffer<std::byte>(count.used());
    device::runtime::fill(memory_.data(), 0x7f, memory_.bytes(), nullptr);
    fg::arena memory(memory_.data(), memory_.bytes());
    map_ = device::row_map(memory, r.tokens, r.slots, r.experts, h.tile);
    put(map_.counts, h.counts);
    put(map_.offsets, h.offsets);
    put(map_.tiles, h.tiles);
    put(map_.tile_count, std::vector{static_cast<std::int32_t>(h.tiles.size())});
    put(map_.row_token, h.row_token);
    put(map_.row_weight, h.row_weight);
    put(map_.slot_row, h.slot_row);
  }
  operator device::row_map const&() const { return map_; }

 private:
  template <class T>
  static void put(T* to, std::vector<T> const& from) {
    device::runtime::copy(to, from.data(), static_cast<std::int64_t>(from.size() * sizeof(T)),
                          nullptr);
  }
  device_buffer<std::byte> memory_;
  device::row_map map_;
};

}  // namespace on_device
