// What is wrong with which kernel of planted.cu.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace planted {

enum class what {
  nothing,
  copies,  // nothing either
  read_too_early,
  written_again,
  read_then_written,
  write_beyond,
  not_aligned,
  shared_beyond,
  shared_unwritten,
  copy_not_awaited,
  alone_at_barrier,
  absent_lane,
  unknown,
  last_block,  // and nothing wrong
  last_block_without_fences,
  blocks_write_the_same,  // and nothing wrong
  blocks_write_one_place,
  block_writes_what_another_read,
  warp_reads_too_early,
  waits_for_launch,  // of 9.0, and nothing wrong
  reads_before_launch_ahead_ended,
  bulk_copies,  // of 9.0, and nothing wrong
  bulk_not_awaited,
  bulk_over_readers,
};
/// Runs it with two arrays of 64 numbers.
void run(what which, float* to, float const* from);

}  // namespace planted
