# How the project's own programs are compiled, and what they need beyond the library.
# SPDX-License-Identifier: Apache-2.0
if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)

# finegrain_portable: the flags of every program; finegrain_program: the same for this machine.
add_library(finegrain_portable INTERFACE)
target_link_libraries(finegrain_portable INTERFACE finegrain)
target_compile_options(finegrain_portable INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wconversion>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
# Collecting garbage before it has taken a GB costs g++ a seventh of its time.
target_compile_options(finegrain_portable INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:--param=ggc-min-heapsize=1048576>)
if(FINEGRAIN_WERROR)
  target_compile_options(finegrain_portable INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Werror> $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
if(FINEGRAIN_SANITIZE)
  target_compile_options(finegrain_portable INTERFACE
    -fsanitize=${FINEGRAIN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)  # in its own header of AVX-512
  target_link_options(finegrain_portable INTERFACE -fsanitize=${FINEGRAIN_SANITIZE})
endif()
add_library(finegrain_program INTERFACE)
target_link_libraries(finegrain_program INTERFACE finegrain_portable)
if(FINEGRAIN_NATIVE)
  target_compile_options(finegrain_program INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=native>)
  # Below -O2 g++ leaves the upper halves of AVX's registers in use, with which libm's exp, in SSE's
  # instructions, takes 13 times as long, were it not for this.
  target_compile_options(finegrain_program INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fexpensive-optimizations>)
endif()

# Tests that take longer to compile than to run are not optimised, but for the cpu's kernels, which are
# compiled once, in a library. No product and sum are contracted in either, as they never are without
# optimisation: what is inlined and what is not have the same bits.
if(FINEGRAIN_TESTS)
  set(finegrain_unoptimised -O0)
  if(FINEGRAIN_SANITIZE)
    set(finegrain_unoptimised -O1)
  endif()
  add_library(finegrain_test_kernels OBJECT
    include/finegrain/cpu/kernels.cpp include/finegrain/cpu/frozen_kernels.cpp)
  target_link_libraries(finegrain_test_kernels PRIVATE finegrain_program)
  target_compile_options(finegrain_test_kernels
    PUBLIC $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off> PRIVATE -O2)
  list(TRANSFORM finegrain_formats TOUPPER OUTPUT_VARIABLE formats)
  list(TRANSFORM formats PREPEND FINEGRAIN_KERNELS_APART_)
  target_compile_definitions(finegrain_test_kernels PUBLIC FINEGRAIN_KERNELS_APART ${formats})
endif()

include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW)
endif()

# finegrain_eigen: Eigen 3.4 or newer, as system headers. A version in find_package would refuse
# either 3.4 or 5, hence the comparison.
macro(finegrain_need_eigen)
  if(NOT TARGET finegrain_eigen)
    find_package(Eigen3 QUIET NO_MODULE)
    add_library(finegrain_eigen INTERFACE)
    if(Eigen3_FOUND AND Eigen3_VERSION VERSION_GREATER_EQUAL 3.4)
      get_target_property(finegrain_eigen_include Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES) # seen from here only
    elseif(NOT FINEGRAIN_FETCH)
      message(FATAL_ERROR "Eigen 3.4 or newer was not found (Debian: libeigen3-dev)")
    else()
      message(STATUS "Eigen 3.4 was not found (Debian: libeigen3-dev): fetching it")
      FetchContent_Declare(finegrain_eigen SOURCE_SUBDIR none
        URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
        URL_HASH SHA256=8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
      FetchContent_MakeAvailable(finegrain_eigen)
      set(finegrain_eigen_include ${finegrain_eigen_SOURCE_DIR})
    endif()
    target_include_directories(finegrain_eigen SYSTEM INTERFACE ${finegrain_eigen_include})
  endif()
endmacro()

# Catch2::Catch2WithMain: version 3, or 2.13 as Debian 12 has it.
macro(finegrain_need_catch2)
  find_package(Catch2 3 QUIET)
  if(NOT Catch2_FOUND)
    find_package(Catch2 2.13 QUIET)
  endif()
  if(NOT Catch2_FOUND AND NOT FINEGRAIN_FETCH)
    message(FATAL_ERROR "Catch2 2.13 or newer was not found (Debian: catch2)")
  elseif(NOT Catch2_FOUND)
    message(STATUS "Catch2 was not found (Debian: catch2): fetching it")
    FetchContent_Declare(Catch2
      URL https://github.com/catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
      URL_HASH SHA256=c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)
    FetchContent_MakeAvailable(Catch2)
  elseif(NOT TARGET Catch2::Catch2WithMain)  # version 2 from elsewhere than Debian
    file(WRITE ${PROJECT_BINARY_DIR}/catch_main.cpp
      "#define CATCH_CONFIG_MAIN\n#include <catch2/catch.hpp>\n")
    add_library(finegrain_catch_main STATIC ${PROJECT_BINARY_DIR}/catch_main.cpp)
    target_link_libraries(finegrain_catch_main PUBLIC Catch2::Catch2)
    add_library(Catch2::Catch2WithMain ALIAS finegrain_catch_main)
  endif()
endmacro()
