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
  bulk_copies,  // of 9.0, and nothing wrong
  bulk_not_awaited,
  bulk_over_readers,
};
/// Runs it with two arrays of 64 numbers.
void run(what which, float* to, float const* from);

}  // namespace planted
