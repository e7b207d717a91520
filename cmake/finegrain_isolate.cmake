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

# Groups are what linkers keep one of: they become plain sections. All symbols become local, but for the
# names and descriptions of types, which are data: an exception is caught by them, in whichever object.
cmake_path(GET output PARENT_PATH folder)
file(MAKE_DIRECTORY ${folder})
run(${linker} -r --force-group-allocation -o ${output} ${objects})
run(${objcopy} --wildcard --redefine-sym ${function}=${name}
  --keep-global-symbol=${name} --keep-global-symbol=_ZTI* --keep-global-symbol=_ZTS*
  --weaken-symbol=_ZTI* --weaken-symbol=_ZTS* ${output})

run(${objdump} -h -t ${output})
if(NOT text MATCHES " g +F [^\n]* ${name}\n")
  refuse("no file of ${function}'s SOURCES defines the function extern \"C\" ${function}")
endif()
# What runs before main, or after it, would run on every machine.
if(NOT isa MATCHES "^(x86-64|baseline)$"
    AND text MATCHES " (\\.(init_array|fini_array|preinit_array|ctors|dtors)[^ ]*) ")
  refuse("the SOURCES of ${function} have something that runs before main or after it, on machines \
without ${isa} too: a global with a constructor (<iostream> has one), which can be a function's static; \
or a sanitizer, with which ISAS x86-64 builds")
endif()
