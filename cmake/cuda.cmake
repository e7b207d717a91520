# CUDA as a language, where there is a compiler, and finegrain::cuda.
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
include(cmake/finegrain_cuda.cmake)
if(NOT TARGET finegrain::cuda)
  message(STATUS "cuBLAS was not found: programs for GPUs are left out")
endif()
