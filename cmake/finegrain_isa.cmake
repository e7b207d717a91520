# finegrain_for_each_isa(target FUNCTION name SOURCES files... [ISAS names...])
#
# One program for several instruction sets. The files are compiled for each of them; one of the files
# defines `name`, an extern "C" function. The target, which links finegrain::finegrain, gets all these
# variants and their table, the best first, to choose from at run time (finegrain/base/isa.hpp):
#
#   extern "C" finegrain::isa_variant const name_variants[];
#
# ISAS are some of x86-64, x86-64-v3, x86-64-v3-vnni, x86-64-v4, x86-64-v4-vnni, x86-64-v4-bf16,
# x86-64-v4-amx, or all; on other machines the only one is `baseline`, the compiler's own. Include paths,
# definitions and options are the target's.
#
# Of a variant only the function is visible, and types' names, for exceptions: no linker can exchange
# its inline functions for those of another variant or of the program (finegrain_isolate.cmake).
# SPDX-License-Identifier: Apache-2.0
function(finegrain_for_each_isa target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" FUNCTION "SOURCES;ISAS")
  if(NOT TARGET ${target} OR NOT arg_FUNCTION OR NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "finegrain_for_each_isa takes a target, FUNCTION name, SOURCES files... and "
      "perhaps ISAS names...")
  endif()
  if(NOT CMAKE_EXECUTABLE_FORMAT STREQUAL ELF OR NOT CMAKE_LINKER OR NOT CMAKE_OBJCOPY
      OR NOT CMAKE_READELF)
    message(FATAL_ERROR "finegrain_for_each_isa needs ELF and the binutils: ld, objcopy, readelf")
  endif()
  set(isas baseline)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    set(isas x86-64-v4-amx x86-64-v4-bf16 x86-64-v4-vnni x86-64-v4 x86-64-v3-vnni x86-64-v3
      x86-64)  # the best first
    foreach(isa IN LISTS arg_ISAS)
      if(NOT isa IN_LIST isas)
        message(FATAL_ERROR "finegrain_for_each_isa: ${isa} is none of ${isas}")
      endif()
    endforeach()
    # A variant's -march replaces another, but adds to what single flags switch on.
    get_target_property(options ${target} COMPILE_OPTIONS)
    string(REGEX MATCHALL "-m(avx|fma|f16c|bmi|lzcnt|movbe|popcnt|sse[34]|ssse|amx)[^ ;]*" features
      "${CMAKE_CXX_FLAGS} ${options}")
    if(features)
      message(FATAL_ERROR "finegrain_for_each_isa: every variant would have ${features}, of "
        "CMAKE_CXX_FLAGS or ${target}'s options: a machine without it would not run any")
    endif()
  endif()
  set(flags_x86-64 -march=x86-64)
  set(flags_x86-64-v3 -march=x86-64-v3)
  set(flags_x86-64-v3-vnni ${flags_x86-64-v3} -mavxvnni)
  set(flags_x86-64-v4 -march=x86-64-v4 -mprefer-vector-width=512)
  set(flags_x86-64-v4-vnni ${flags_x86-64-v4} -mavx512vnni)
  set(flags_x86-64-v4-bf16 ${flags_x86-64-v4-vnni} -mavx512vbmi -mavx512bf16)
  set(flags_x86-64-v4-amx ${flags_x86-64-v4-bf16} -mamx-tile -mamx-bf16 -mamx-int8)
  set(own_kernels -UFINEGRAIN_KERNELS_APART)  # a variant has them in its files
  foreach(format F32 BF16 FP8 INT8 INT8_BLOCK INT4)
    list(APPEND own_kernels -UFINEGRAIN_KERNELS_APART_${format})
  endforeach()
  set(isolate ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/finegrain_isolate.cmake)
  get_target_property(position_independent ${target} POSITION_INDEPENDENT_CODE)

  set(variants ${target}_${arg_FUNCTION})
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/${variants})
  foreach(isa IN LISTS isas)
    if(arg_ISAS AND NOT isa IN_LIST arg_ISAS AND NOT isa STREQUAL baseline)
      continue()
    endif()
    string(MAKE_C_IDENTIFIER ${arg_FUNCTION}_${isa} name)
    set(compiled ${variants}_${isa})
    add_library(${compiled} OBJECT EXCLUDE_FROM_ALL ${arg_SOURCES})
    target_link_libraries(${compiled} PRIVATE finegrain::finegrain)
    target_include_directories(${compiled} PRIVATE $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
    target_compile_definitions(${compiled} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>)
    target_compile_options(${compiled} PRIVATE $<TARGET_PROPERTY:${target},COMPILE_OPTIONS>
      ${flags_${isa}} -fno-lto ${own_kernels}
      $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)  # such symbols no tool makes local
    set_target_properties(${compiled} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF
      POSITION_INDEPENDENT_CODE ${position_independent})
    set(object ${folder}/${isa}.o)
    add_custom_command(OUTPUT ${object} VERBATIM
      COMMAND ${CMAKE_COMMAND} -D linker=${CMAKE_LINKER} -D objcopy=${CMAKE_OBJCOPY}
        -D readelf=${CMAKE_READELF} -D function=${arg_FUNCTION} -D isa=${isa} -D name=${name}
        -D "objects=$<TARGET_OBJECTS:${compiled}>" -D output=${object} -P ${isolate}
      DEPENDS $<TARGET_OBJECTS:${compiled}> ${isolate}
      COMMENT "Making ${name} of ${arg_SOURCES}")
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    target_sources(${target} PRIVATE ${object})
    add_dependencies(${target} ${compiled})
    string(APPEND functions "void ${name}();\n")
    string(APPEND table "    {\"${isa}\", ${name}},\n")
  endforeach()

  set(source ${folder}/table.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT
"// The variants of ${arg_FUNCTION}, the best first: made by finegrain_for_each_isa.
#include <finegrain/base/isa.hpp>
extern \"C\" {
${functions}extern finegrain::isa_variant const ${arg_FUNCTION}_variants[];
finegrain::isa_variant const ${arg_FUNCTION}_variants[] = {
${table}    {},
};
}
")
  target_sources(${target} PRIVATE ${source})
endfunction()
