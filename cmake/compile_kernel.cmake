# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Makes the fatbin of the copy kernels, and looks at what the assembler says of each in each image: nothing may be spilled
# to memory, nor parameters copied to it; and of the kernels that have no multiprocessor to themselves by their shared
# memory, a block of 1024 threads must take more than half of the 65536 registers. The bulk kernel must be in each image
# that can have it.
#   cmake -DNVCC=... -DTARGETS=... -DOUT=... -DSOURCE=... -P compile_kernel.cmake

execute_process(
  COMMAND "${NVCC}" -std=c++17 -O3 -Xptxas=-v -fatbin ${TARGETS} -o "${OUT}" "${SOURCE}"
  RESULT_VARIABLE status OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} was not compiled:\n${said}")
endif()
string(REGEX MATCHALL "[0-9]+ bytes (spill (stores|loads)|stack frame)" spills "${said}")
string(REGEX MATCHALL "'kvdirect_copy_(tiles|order)' for 'sm_[0-9]+'[^']*Used [0-9]+ registers" registers "${said}")
if(NOT spills OR NOT registers)
  message(FATAL_ERROR "the assembler said nothing of registers and spills:\n${said}")
endif()
foreach(spill ${spills})
  if(NOT spill MATCHES "^0 bytes")
    message(FATAL_ERROR "${SOURCE}: ${spill}; take fewer loads at a time\n${said}")
  endif()
endforeach()
foreach(used ${registers})
  string(REGEX REPLACE ".*Used ([0-9]+) registers" "\\1" count "${used}")
  if(count LESS_EQUAL 32)
    message(FATAL_ERROR "${SOURCE}: two blocks with ${count} registers a thread share a multiprocessor\n${said}")
  endif()
endforeach()
foreach(target ${TARGETS})
  if(NOT target MATCHES "code=(sm_(9|1[0-9])[0-9])")
    continue()
  endif()
  if(NOT said MATCHES "'kvdirect_bulk_tiles' for '${CMAKE_MATCH_1}'")
    message(FATAL_ERROR "${SOURCE}: the bulk kernel was not compiled for ${CMAKE_MATCH_1}\n${said}")
  endif()
endforeach()
