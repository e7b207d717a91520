# finegrain::cuda, for projects one of whose languages is CUDA: programs for GPUs. Such a program has
# one .cu file beside its own: see finegrain/cuda/instantiate.cuh.
# SPDX-License-Identifier: Apache-2.0
find_package(CUDAToolkit QUIET)
if(TARGET CUDA::cublas AND NOT TARGET finegrain::cuda)
  add_library(finegrain::cuda INTERFACE IMPORTED GLOBAL)
  target_compile_options(finegrain::cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
  target_link_libraries(finegrain::cuda INTERFACE
    finegrain::finegrain CUDA::cudart_static CUDA::cublas)
endif()
