# finegrain::cuda: the library for programs that run on GPUs, where there is a CUDA compiler. Such a
# program has one .cu file beside its own: see include/finegrain/cuda/instantiate.cuh.
# SPDX-License-Identifier: Apache-2.0
include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND EXISTS /usr/local/cuda/bin/nvcc)
  set(ENV{CUDACXX} /usr/local/cuda/bin/nvcc)  # where NVIDIA's packages put it, out of the path
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "There is no CUDA compiler: programs for GPUs are left out")
  return()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Every GPU from 8.0 runs the first, from its PTX if need be; Hopper has kernels of its own.
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
endif()
enable_language(CUDA)
find_package(CUDAToolkit QUIET)
if(NOT TARGET CUDA::cublas)
  message(STATUS "cuBLAS was not found: programs for GPUs are left out")
  return()
endif()

add_library(finegrain_cuda INTERFACE)
add_library(finegrain::cuda ALIAS finegrain_cuda)
target_compile_options(finegrain_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_link_libraries(finegrain_cuda INTERFACE finegrain CUDA::cudart_static CUDA::cublas)
