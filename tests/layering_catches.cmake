# Checks the check: each planted violation must be found, and the tree without it must pass.
# SPDX-License-Identifier: Apache-2.0
cmake_minimum_required(VERSION 3.23)
foreach(planted IN ITEMS
    "base/error.hpp:\"../plan/plan.hpp\":not on a floor below"
    "reference/planted.hpp:\"../cpu/planted.hpp\":not on a floor below"
    "cpu/planted.hpp:\"../reference/planted.hpp\":not on a floor below"
    "io/planted.hpp:\"../train/planted.hpp\":not on a floor below"
    "config/config.hpp:\"../finegrain.hpp\":not on a floor below"
    "plan/plan.hpp:\"kernel.cuh\":may not be included"
    "plan/plan.hpp:<cuda_runtime.h>:may not be included"
    "cuda/executor.hpp:\"memory.cuh\":may not be included"
    "cuda/tile/mma.cuh:\"../../model/network.hpp\":not on a floor below"
    "cpu/planted.hpp:\"../cuda/executor.hpp\":not on a floor below"
    "base/matrix.hpp:<Eigen/Core>:may not be included"
    "base/matrix.hpp:<finegrain/finegrain.hpp>:may not be included"
    "base/matrix.hpp:\"absent.hpp\":does not exist"
    "elsewhere/planted.hpp:<vector>:has no floor"
    "io/planted.hpp:<vector>:no line for it in finegrain.hpp"
    "lab/planted.hpp:<vector>:no line for it in lab.hpp"
    ":<none>:")
  string(REGEX MATCH "^([^:]*):([^:]*):(.*)$" all "${planted}")
  set(file "${CMAKE_MATCH_1}")
  set(name "${CMAKE_MATCH_2}")
  set(sentence "${CMAKE_MATCH_3}")
  file(REMOVE_RECURSE ${scratch})
  file(COPY ${include}/finegrain DESTINATION ${scratch})
  foreach(other reference cpu train)
    file(WRITE ${scratch}/finegrain/${other}/planted.hpp "")
    file(APPEND ${scratch}/finegrain/finegrain.hpp "#include \"${other}/planted.hpp\"\n")
  endforeach()
  if(file)
    file(APPEND ${scratch}/finegrain/${file} "\n  #include ${name}  // planted\n")
  endif()
  execute_process(
    COMMAND ${CMAKE_COMMAND} -D include=${scratch} -P ${CMAKE_CURRENT_LIST_DIR}/layering.cmake
    RESULT_VARIABLE result ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(NOT file AND NOT result EQUAL 0)
    message(SEND_ERROR "a tree without a violation was refused: ${output}")
  elseif(file AND (result EQUAL 0 OR NOT output MATCHES "${file}: .*${sentence}"))
    message(SEND_ERROR "${name} in ${file} was not caught: ${output}")
  endif()
endforeach()
file(REMOVE_RECURSE ${scratch})
