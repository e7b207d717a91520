# One object of several, that were compiled for one instruction set: only `function`, as `name`, is seen
# outside. finegrain_for_each_isa runs this as cmake -D ... -P finegrain_isolate.cmake.
# SPDX-License-Identifier: Apache-2.0

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE text)
  if(failed)
    file(REMOVE ${output})
    message(FATAL_ERROR "finegrain_for_each_isa: ${ARGV0} failed")
  endif()
  set(text "${text}" PARENT_SCOPE)
endfunction()
function(refuse sentence)
  file(REMOVE ${output})
  message(FATAL_ERROR "finegrain_for_each_isa: ${sentence}")
endfunction()

# All symbols become local, but for the names and descriptions of types, which are data: an exception is
# caught by them, in whichever object. Groups are what linkers keep one of: they become plain sections.
cmake_path(GET output PARENT_PATH folder)
file(MAKE_DIRECTORY ${folder})
run(${linker} -r -o ${output} ${objects})
run(${objcopy} --wildcard --redefine-sym ${function}=${name} --remove-section=.group
  --keep-global-symbol=${function} --keep-global-symbol=${name}
  --keep-global-symbol=_ZTI* --keep-global-symbol=_ZTS*
  --weaken-symbol=_ZTI* --weaken-symbol=_ZTS* ${output})

run(${readelf} -g -S -s -W ${output})
if(NOT text MATCHES " FUNC +GLOBAL +[A-Z]+ +[0-9]+ ${name}\n")
  refuse("no file of ${function}'s SOURCES defines the function extern \"C\" ${function}")
endif()
string(REGEX MATCHALL " (GLOBAL|WEAK|UNIQUE) +[A-Z]+ +([0-9]+|ABS|COM) [^\n]+" seen "${text}")
list(FILTER seen EXCLUDE REGEX " (${name}|_ZT[IS][^ ]+)$")
if(seen OR text MATCHES "COMDAT group")
  refuse("${linker} and ${objcopy} leave to be seen: ${seen}, or a group of sections")
endif()
# What runs before main, or after it, would run on every machine.
if(NOT isa MATCHES "^(x86-64|baseline)$"
    AND text MATCHES " \\.(init_array|fini_array|preinit_array|ctors|dtors)")
  refuse("the SOURCES of ${function} have something that runs before main or after it, on machines \
without ${isa} too: a global with a constructor (<iostream> has one), which can be a function's static; \
or a sanitizer, with which ISAS x86-64 builds")
endif()
