// throwing_tasks: loops on threads, of tasks that may throw.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <vector>

#include "parallel.hpp"

namespace finegrain::inline FINEGRAIN_ABI::detail {

/// f(task, worker) for every task in [0, tasks), as parallel has it. Of what tasks throw, the first task's
/// is thrown when all have returned.
template <class F>
void run_throwing(parallel const& threads, std::int64_t tasks, F&& f) {
  std::vector<std::exception_ptr> failed(static_cast<std::size_t>(tasks));
  threads(tasks, [&](std::int64_t task, int worker) {
    try {
      f(task, worker);
    } catch (...) {
      failed[static_cast<std::size_t>(task)] = std::current_exception();
    }
  });
  for (auto const& error : failed)
    if (error) std::rethrow_exception(error);
}

}  // namespace finegrain::inline FINEGRAIN_ABI::detail
