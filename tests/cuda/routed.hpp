// A router under test: its memory on the device, poisoned, and what it wrote there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/cuda/route.hpp>

#include "numbers.hpp"

namespace on_device {

/// A row_map that owns its memory.
struct owned_rows {
  device_buffer<std::byte> memory;
  device_buffer<std::int32_t> block_counts;
  fg::device::row_map map;

  owned_rows(std::int64_t T, int k, int R, int tile) {
    fg::arena counting;
    static_cast<void>(fg::device::row_map(counting, T, k, R, tile));
    memory = unwritten<std::byte>(counting.peak());
    fg::arena arena(memory.data(), memory.size());
    map = fg::device::row_map(arena, T, k, R, tile);
    block_counts = unwritten<std::int32_t>(fg::device::token_chunks::counts(T, R));
  }

  /// What is wrong with the map for these experts and weights (T, k), or null.
  char const* wrong(std::vector<std::int32_t> const& experts,
                    std::vector<float> const& weights) const {
    auto const R = std::size_t(map.experts);
    std::size_t const k = std::size_t(map.slots), T = std::size_t(map.tokens);
    std::vector<std::vector<std::size_t>> slots(R);
    for (std::size_t i = 0; i < T * k; ++i)
      if (experts[i] >= 0) slots[std::size_t(experts[i])].push_back(i);
    auto const counts = download(map.counts, map.experts);
    auto const offsets = download(map.offsets, map.experts + 1);
    auto const tile_count = download(map.tile_count, 1)[0];
    if (tile_count > map.max_tiles()) return "there are too many tiles";
    auto const tiles = download(map.tiles, tile_count);
    auto const token = download(map.row_token, offsets[R]);
    auto const weight = download(map.row_weight, offsets[R]);
    auto const slot_row = download(map.slot_row, std::int64_t(T * k));
    for (std::size_t i = 0; i < T * k; ++i)
      if (experts[i] < 0 && slot_row[i] != -1) return "a slot without an expert has a row";
    std::size_t row = 0, tile = 0;
    for (std::size_t e = 0; e < R; ++e) {
      if (std::size_t(offsets[e]) != row) return "an offset is wrong";
      if (std::size_t(counts[e]) != slots[e].size()) return "a count is wrong";
      for (std::size_t at = 0; at < slots[e].size(); at += std::size_t(map.tile), ++tile) {
        auto const count = std::min(std::size_t(map.tile), slots[e].size() - at);
        auto const& t = tiles[tile];
        if (std::size_t(t.expert) != e || std::size_t(t.first) != row + at ||
            std::size_t(t.count) != count || t.unused != 0)
          return "a tile is wrong";
      }
      for (std::size_t i : slots[e]) {
        if (std::size_t(token[row]) != i / k) return "a row's token is wrong";
        if (std::memcmp(&weight[row], &weights[i], 4) != 0) return "a row's weight is wrong";
        if (std::size_t(slot_row[i]) != row) return "a slot's row is wrong";
        ++row;
      }
      for (; row % std::size_t(map.tile) != 0; ++row)
        if (token[row] != -1 || weight[row] != 0) return "a pad is wrong";
    }
    if (std::size_t(offsets[R]) != row) return "the last offset is wrong";
    return std::size_t(tile_count) == tile ? nullptr : "the number of tiles is wrong";
  }
};

/// Calls f with the code that chooses among R experts.
template <class F>
void with_choice(int R, F const& f) {
  switch (fg::device::lane_numbers(R)) {
    case 2: return f(fg::device::choice<bf16, 2>{});
    case 8: return f(fg::device::choice<bf16, 8>{});
    default: return f(fg::device::choice<bf16, 32>{});
  }
}

/// What a router writes for T tokens.
struct owned_state {
  device_buffer<float> logits, scores, weights, shared_weight;
  device_buffer<std::int32_t> experts, best;
  owned_rows rows;
  std::int64_t T;
  int R, k;

  owned_state(fg::config const& c, fg::routing_request const& request, std::int64_t T,
              int tile = 128)
      : logits(unwritten<float>(T * c.routed)),
        scores(unwritten<float>(T * c.routed)),
        weights(unwritten<float>(T * slots(c, request))),
        shared_weight(unwritten<float>(T)),
        experts(unwritten<std::int32_t>(T * slots(c, request))),
        best(unwritten<std::int32_t>(T * slots(c, request))),
        rows(T, slots(c, request), c.routed, tile),
        T(T),
        R(c.routed),
        k(slots(c, request)) {}
  fg::device::router_state state() const {
    return {logits.data(), scores.data(),        experts.data(), weights.data(),
            best.data(),   shared_weight.data(), nullptr};
  }
  std::vector<float> get_logits() const { return download(logits, T * R); }
  std::vector<float> get_scores() const { return download(scores, T * R); }
  std::vector<float> get_weights() const { return download(weights, T * k); }
  std::vector<std::int32_t> get_experts() const { return download(experts, T * k); }
};

}  // namespace on_device
