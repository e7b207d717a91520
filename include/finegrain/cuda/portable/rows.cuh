// The portable products whose results are experts' rows: a block has row_map::tile of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../architectures.cuh"
#include "../gated.cuh"
#include "../products.hpp"
#include "../tile/block.cuh"
#include "../tile/block_place.hpp"
#include "../tile/launch.cuh"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// The products whose rows are experts' rows, in blocks of row_map::tile.
enum class row_product { up_forward, down_forward, down_backward, up_backward };

template <row_product P, class S>
FINEGRAIN_HD int column_tiles(int hidden, int width) {
  bool const narrow = P == row_product::up_forward || P == row_product::down_backward;
  return ceil_div(narrow ? width : hidden, S::part);
}

/// A block's share of a family: `count` rows that are no pads from `first` on, of `written` that
/// there are, and its expert's weights. Pads are not read.
template <class T>
struct block_rows {
  expert_family<T> family;
  bool shared;
  int expert, first, count, written, column;  // column: the first of its columns

  __device__ float weight(row_map const& rows, int r) const {
    if (!shared) return rows.row_weight[first + r];
    return family.weight ? family.weight[first + r] : 1.0f;
  }
};

/// The sums of rows' tiles with an expert's weights; see products.hpp for what they are.
template <row_product P, class S, class T>
__device__ void sum_rows(block_sums<S>& sums, std::uint32_t memory, expert_products<T> const& p,
                         block_rows<T> const& b) {
  constexpr bool forward = P == row_product::up_forward || P == row_product::down_forward;
  constexpr bool gathered = P == row_product::up_forward || P == row_product::down_backward;
  int const D = p.hidden, F = b.family.width;
  int const K = P == row_product::down_forward ? F : P == row_product::up_backward ? 2 * F : D;
  auto const expert = static_cast<std::int64_t>(b.expert) * F * D;

  using a_writer = tile_writer<operand_tile<T, S::m, deep<T, S>, true>, S::threads>;
  T const* a_row[a_writer::passes];
#pragma unroll
  for (int i = 0; i < a_writer::passes; ++i) {
    int const r = a_writer::row(i);
    std::int64_t const row =
        gathered && !b.shared && r < b.count ? p.rows.row_token[b.first + r] : b.first + r;
    T const* const rows = P == row_product::up_forward      ? p.x
                          : P == row_product::down_forward  ? b.family.hidden
                          : P == row_product::down_backward ? p.dy
                                                            : b.family.dz;
    a_row[i] = rows + row * K + a_writer::column();
  }
  auto const from_a = [&](int step, int pass) -> source {
    int const k = step * deep<T, S>;
    return {a_row[pass] + k, a_writer::row(pass) < b.count && k + a_writer::column() < K};
  };

  using b_writer = tile_writer<operand_tile<T, S::n, deep<T, S>, forward>, S::threads>;
  T const* left =
      expert + (P == row_product::up_forward || P == row_product::up_backward ? b.family.gate
                                                                              : b.family.down);
  T const* right = expert + b.family.up;
  if constexpr (forward) {  // (N, K): N of the tile's parts, one from each matrix
    static_assert(S::part % b_writer::step == 0);
    int const columns = P == row_product::up_forward ? F : D, n = b.column + b_writer::row(0);
    auto const at = static_cast<std::int64_t>(n) * K + b_writer::column();
    left += at, right += at;
    auto const from_b = [&](int step, int pass) {
      int const k = step * deep<T, S>, further = pass * b_writer::step % S::part;
      return row_source((pass * b_writer::step < S::part ? left : right) + k, further, K,
                        k + b_writer::column() < K && n + further < columns);
    };
    multiply<T, S, true, true>(sums, memory, ceil_div(K, deep<T, S>), from_a, from_b);
  } else {  // (K, N): the first F rows of K from the gate, the next from up
    int const columns = P == row_product::down_backward ? F : D, n = b.column + b_writer::column();
    left += n, right += n - static_cast<std::int64_t>(F) * columns;
    auto const from_b = [&](int step, int pass) {
      int const k = step * deep<T, S> + b_writer::row(pass);
      return row_source(P == row_product::up_backward && k >= F ? right : left, k, columns,
                        n < columns && k < K);
    };
    multiply<T, S, true, false>(sums, memory, ceil_div(K, deep<T, S>), from_a, from_b);
  }
}

/// z and hidden = act(gate) up, from sums whose parts are the gate's and up's.
template <class S, class T>
__device__ void finish_up_forward(block_sums<S> const& sums, expert_products<T> const& p,
                                  block_rows<T> const& b, float* memory) {
  int const F = b.family.width;
  gate_function const activated(p.act);
  auto const finish = [&](int r, int c, float(&z)[2][8], int) {
    int const f = b.column + c;
    if (r >= b.written || f >= F) return;
    std::int64_t const row = b.first + r;
    if (b.family.z) {
      store_eight(b.family.z + row * 2 * F + f, pack<T>(z[0]));
      store_eight(b.family.z + row * 2 * F + F + f, pack<T>(z[1]));
    }
    if (activated.limited()) bring_within<8>(activated.limit, z[0], z[1]);
    float hidden[8];
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      float value[2], slope[2];
      activated.at({z[0][i], z[0][i + 1]}, value, slope);
      hidden[i] = value[0] * z[1][i], hidden[i + 1] = value[1] * z[1][i + 1];
    }
    store_eight(b.family.hidden + row * F + f, pack<T>(hidden));
  };
  each_row(
      sums, memory, [](int, int) { return 0; }, finish);
}

/// A row's weight and 8 of its z, read before they are used.
template <class T>
struct saved_row {
  eight<T> gate, up;
  float weight;
};

/// dz, hidden and the parts of dot from the sums g.
template <class S, class T>
__device__ void finish_down_backward(block_sums<S> const& sums, expert_products<T> const& p,
                                     block_rows<T> const& b, float* memory) {
  static_assert(S::n == 128, "16 lanes have a part of dot");
  int const F = b.family.width;
  gate_function const activated(p.act);
  auto const fetch = [&](int r, int c) -> saved_row<T> {
    if (r >= b.count) return {};
    T const* const z = b.family.z + (b.first + std::int64_t{r}) * 2 * F + b.column + c;
    float const weight = b.weight(p.rows, r);
    if (b.column + c >= F) return {{}, {}, weight};
    return {load_eight(z), load_eight(z + F), weight};
  };
  auto const finish = [&](int r, int c, float const(&g)[1][8], saved_row<T> const& saved) {
    float gate[8], up[8], hidden[8], value[2], slope[2], dot = 0;
    unpack<T>(gate, saved.gate);
    unpack<T>(up, saved.up);
    unsigned const beyond = activated.limited() ? bring_within<8>(activated.limit, gate, up) : 0u;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 2 == 0) activated.at({gate[i], gate[i + 1]}, value, slope);
      float const y = value[i % 2] * up[i], weighted = saved.weight * g[0][i];
      dot += g[0][i] * y;
      gate[i] = weighted * up[i] * slope[i % 2];
      up[i] = weighted * value[i % 2];
      hidden[i] = saved.weight * y;
    }
    if (beyond) stop_beyond<8>(beyond, gate, up);
#pragma unroll
    for (int apart = 1; apart < 16; apart *= 2) dot += __shfl_xor_sync(0xffffffffu, dot, apart);
    int const f = b.column + c;
    if (r >= b.written || f >= F) return;
    std::int64_t const row = b.first + r;
    store_eight(b.family.dz + row * 2 * F + f, pack<T>(gate));
    store_eight(b.family.dz + row * 2 * F + F + f, pack<T>(up));
    store_eight(b.family.hidden + row * F + f, pack<T>(hidden));
    if (c == 0) b.family.dot[row * ceil_div(F, 128) + b.column / 128] = dot;
  };
  each_row(sums, memory, fetch, finish);
}

/// A block's sums as they are: rows of D.
template <class S, class T>
__device__ void finish_out(block_sums<S> const& sums, expert_products<T> const& p,
                           block_rows<T> const& b, float* memory) {
  auto const finish = [&](int r, int c, float const(&out)[1][8], int) {
    int const d = b.column + c;
    if (r < b.written && d < p.hidden)
      store_eight(b.family.out + (b.first + std::int64_t{r}) * p.hidden + d, pack<T>(out[0]));
  };
  each_row(
      sums, memory, [](int, int) { return 0; }, finish);
}

template <row_product P, class S, class T>
__device__ void multiply_block(expert_products<T> const& p) {
  extern __shared__ __align__(128) unsigned char memory[];
  int const T_ = p.rows.tokens;
  int const shared_tiles = p.shared.width > 0 ? ceil_div(T_, S::m) : 0;
  int const shared_columns = column_tiles<P, S>(p.hidden, p.shared.width);
  int const shared_blocks = shared_tiles * shared_columns, block = blockIdx.x;
  block_rows<T> b;
  if (block < shared_blocks) {
    auto const at = place_of(block, shared_tiles, shared_columns);
    int const first = at.row_tile * S::m;
    int const count = min(S::m, T_ - first);
    b = {p.shared, true, 0, first, count, count, at.column_tile * S::part};
  } else {
    int const columns = column_tiles<P, S>(p.hidden, p.routed.width);
    int const row_tiles = (static_cast<int>(gridDim.x) - shared_blocks) / columns;
    auto const at = place_of(block - shared_blocks, row_tiles, columns);
    if (at.row_tile >= *p.rows.tile_count) return;
    auto const tile = p.rows.tiles[at.row_tile];
    b = {p.routed, false, tile.expert, tile.first, tile.count, S::m, at.column_tile * S::part};
  }
  block_sums<S> sums;
  sum_rows<P>(sums, shared_address(memory), p, b);
  auto* const floats = reinterpret_cast<float*>(memory);
  if constexpr (P == row_product::up_forward)
    finish_up_forward(sums, p, b, floats);
  else if constexpr (P == row_product::down_backward)
    finish_down_backward(sums, p, b, floats);
  else
    finish_out(sums, p, b, floats);
}

template <row_product P, class S, class T>
__global__ void __launch_bounds__(S::threads)
    multiply_rows([[maybe_unused]] __grid_constant__ expert_products<T> const p) {
  if constexpr (!replaced_here<T>) multiply_block<P, S>(p);
}

template <row_product P, class S, class T>
void launch_rows(expert_products<T> const& p, CUstream_st* stream, char const* name) {
  check_code<&multiply_rows<P, S, T>>(name);
  int const shared_tiles = p.shared.width > 0 ? ceil_div(p.rows.tokens, S::m) : 0;
  launch_blocks<S>(multiply_rows<P, S, T>,
                   std::int64_t{shared_tiles} * column_tiles<P, S>(p.hidden, p.shared.width) +
                       p.rows.max_tiles() * column_tiles<P, S>(p.hidden, p.routed.width),
                   p, stream, name);
}
}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
