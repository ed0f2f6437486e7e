# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# The CUDA parts: the driver API, loaded at run time, and two kernels, which nvcc makes a fatbin of that goes into
# the extension. Neither libcuda nor the CUDA runtime is linked, so one build serves hosts with and without GPUs.

set(KVDIRECT_CUDA AUTO CACHE STRING "CUDA parts: ON, OFF, or AUTO (where nvcc and cuda.h are found)")
set(KVDIRECT_CUDA_FOUND OFF)
if(NOT KVDIRECT_CUDA STREQUAL "OFF")
  find_program(KVDIRECT_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  if(KVDIRECT_NVCC)
    file(REAL_PATH "${KVDIRECT_NVCC}" KVDIRECT_NVCC_FILE)
    get_filename_component(KVDIRECT_NVCC_FOLDER "${KVDIRECT_NVCC_FILE}" DIRECTORY)
    # Not the system's: Linux has a cuda.h of its own, for something else.
    find_path(KVDIRECT_CUDA_HEADERS cuda.h
      HINTS "${KVDIRECT_NVCC_FOLDER}/../include" ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
      PATH_SUFFIXES include targets/x86_64-linux/include targets/sbsa-linux/include NO_DEFAULT_PATH)
  endif()
  if(KVDIRECT_NVCC AND KVDIRECT_CUDA_HEADERS)
    # Fabric handles are the youngest of what cuda.h must declare.
    file(STRINGS "${KVDIRECT_CUDA_HEADERS}/cuda.h" KVDIRECT_CUDA_VERSION REGEX "^#define CUDA_VERSION [0-9]+")
    string(REGEX REPLACE "[^0-9]" "" KVDIRECT_CUDA_VERSION "${KVDIRECT_CUDA_VERSION}")
    if(KVDIRECT_CUDA_VERSION GREATER_EQUAL 12030)
      set(KVDIRECT_CUDA_FOUND ON)
    elseif(KVDIRECT_CUDA STREQUAL "ON")
      message(FATAL_ERROR "KVDIRECT_CUDA=ON: ${KVDIRECT_CUDA_HEADERS}/cuda.h is older than CUDA 12.3; set CUDA_HOME")
    else()
      message(STATUS "CUDA parts: ${KVDIRECT_CUDA_HEADERS}/cuda.h is older than CUDA 12.3")
    endif()
  elseif(KVDIRECT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "KVDIRECT_CUDA=ON: no nvcc, or no cuda.h beside it; install the CUDA toolkit or set CUDA_HOME")
  endif()
endif()

if(NOT KVDIRECT_CUDA_FOUND)
  message(STATUS "CUDA parts: left out")
  target_sources(kvdirect_core PRIVATE csrc/cuda/absent.cpp csrc/cuda/box_list.cpp csrc/cuda/tile_list.cpp
                 csrc/cuda/packed_tiles.cpp)
  return()
endif()

message(STATUS "CUDA parts: with ${KVDIRECT_NVCC}")
# What serving runs on: A100, H100 and H200, B200, RTX PRO; PTX of the first for all that come later.
set(KVDIRECT_CUDA_TARGETS -gencode arch=compute_80,code=[sm_80,compute_80])
execute_process(COMMAND "${KVDIRECT_NVCC}" --list-gpu-code OUTPUT_VARIABLE KVDIRECT_CUDA_KNOWN)
foreach(arch 90 100 120)
  if(KVDIRECT_CUDA_KNOWN MATCHES "sm_${arch}\n")
    list(APPEND KVDIRECT_CUDA_TARGETS -gencode arch=compute_${arch},code=sm_${arch})
  endif()
endforeach()

set(KVDIRECT_COPY_FATBIN "${CMAKE_CURRENT_BINARY_DIR}/copy_kernel.fatbin")
add_custom_command(
  OUTPUT "${KVDIRECT_COPY_FATBIN}"
  COMMAND "${CMAKE_COMMAND}" "-DNVCC=${KVDIRECT_NVCC}" "-DTARGETS=${KVDIRECT_CUDA_TARGETS}"
          "-DOUT=${KVDIRECT_COPY_FATBIN}" "-DSOURCE=${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/copy_kernel.cu"
          -P "${CMAKE_CURRENT_SOURCE_DIR}/cmake/compile_kernel.cmake"
  DEPENDS csrc/cuda/copy_kernel.cu csrc/cuda/copy_box.h csrc/cuda/bulk_kernel.h csrc/cuda/bulk_slots.h
          cmake/compile_kernel.cmake
  COMMENT "Compiling the copy kernels" VERBATIM)
set_source_files_properties(csrc/cuda/copy_image.cpp PROPERTIES
  OBJECT_DEPENDS "${KVDIRECT_COPY_FATBIN}" COMPILE_DEFINITIONS "KVDIRECT_COPY_FATBIN=\"${KVDIRECT_COPY_FATBIN}\"")

file(GLOB KVDIRECT_CUDA_SOURCES CONFIGURE_DEPENDS csrc/cuda/*.cpp)
list(FILTER KVDIRECT_CUDA_SOURCES EXCLUDE REGEX "absent.cpp$")
target_sources(kvdirect_core PRIVATE ${KVDIRECT_CUDA_SOURCES})
target_include_directories(kvdirect_core SYSTEM PUBLIC "${KVDIRECT_CUDA_HEADERS}")
target_compile_definitions(kvdirect_core PUBLIC KVDIRECT_WITH_CUDA)
