// A graph of what was enqueued on a stream, replayed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "../catch.hpp"

namespace under_test {

/// One graph, replayed: its memory must stay.
class graph {
 public:
  template <class Work>
  graph(cudaStream_t stream, Work&& work) {
    cudaGraph_t captured = nullptr;
    ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    work();
    ok(cudaStreamEndCapture(stream, &captured));
    ok(cudaGraphInstantiate(&graph_, captured, 0));
    ok(cudaGraphDestroy(captured));
  }
  ~graph() { static_cast<void>(cudaGraphExecDestroy(graph_)); }
  void replay(cudaStream_t stream) const {
    ok(cudaGraphLaunch(graph_, stream));
    ok(cudaStreamSynchronize(stream));
  }

 private:
  static void ok(cudaError_t result) {
    INFO(cudaGetErrorString(result));
    REQUIRE(result == cudaSuccess);
  }
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace under_test
