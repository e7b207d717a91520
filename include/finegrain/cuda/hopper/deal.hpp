// Which tiles of a product a block of a persistent grid takes, in order, from shapes and counts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Tiles 0 .. shared - 1 are the shared expert's, of one cost each; then come routed ones, up to
/// total. Shared tiles go round the blocks. That leaves blocks from `rest` on one tile short: the
/// first `head` routed tiles, together about as much work as they lack, go round them alone. All
/// others go round all blocks.
struct tile_deal {
  int blocks, block, shared, total, rest, head;

  FINEGRAIN_HD tile_deal(int blocks, int block, int shared, int total, int head)
      : blocks(blocks),
        block(block),
        shared(shared),
        total(total),
        rest(shared % blocks),
        head(shared % blocks == 0    ? 0
             : head < total - shared ? head
                                     : total - shared) {}

  FINEGRAIN_HD int first() const { return block < shared ? block : after_shared(); }
  FINEGRAIN_HD int next(int tile) const {
    if (tile >= shared + head) return tile + blocks;
    if (tile >= shared) {
      tile += blocks - rest;
      return tile < shared + head ? tile : after_head();
    }
    return tile + blocks < shared ? tile + blocks : after_shared();
  }

 private:
  FINEGRAIN_HD int after_head() const { return shared + head + block; }
  FINEGRAIN_HD int after_shared() const {
    return block >= rest && block - rest < head ? shared + block - rest : after_head();
  }
};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
