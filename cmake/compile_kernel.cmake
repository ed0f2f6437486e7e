# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Makes the fatbin of the copy kernel, and looks at what the assembler says of each image in it: nothing may be spilled
# to memory, parameters must not be copied to it, and a block of 1024 threads must take more than half of a
# multiprocessor's 65536 registers, so that blocks have multiprocessors to themselves.
#   cmake -DNVCC=... -DTARGETS=... -DOUT=... -DSOURCE=... -P compile_kernel.cmake

execute_process(
  COMMAND "${NVCC}" -std=c++17 -O3 -Xptxas=-v -fatbin ${TARGETS} -o "${OUT}" "${SOURCE}"
  RESULT_VARIABLE status OUTPUT_VARIABLE said ERROR_VARIABLE said)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} was not compiled:\n${said}")
endif()
string(REGEX MATCHALL "[0-9]+ bytes (spill (stores|loads)|stack frame)" spills "${said}")
string(REGEX MATCHALL "Used [0-9]+ registers" registers "${said}")
if(NOT spills OR NOT registers)
  message(FATAL_ERROR "the assembler said nothing of registers and spills:\n${said}")
endif()
foreach(spill ${spills})
  if(NOT spill MATCHES "^0 bytes")
    message(FATAL_ERROR "${SOURCE}: ${spill}; take fewer loads at a time\n${said}")
  endif()
endforeach()
foreach(used ${registers})
  string(REGEX REPLACE "[^0-9]" "" count "${used}")
  if(count LESS_EQUAL 32)
    message(FATAL_ERROR "${SOURCE}: two blocks with ${count} registers a thread share a multiprocessor\n${said}")
  endif()
endforeach()
