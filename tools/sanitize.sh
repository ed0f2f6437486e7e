#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# `make sanitize`: builds the C++ tests and the stress driver with the address and undefined-behaviour sanitizers, then
# with the thread sanitizer, and runs them. The first finding ends a process, and the run.
# Usage: tools/sanitize.sh PYTHON SECONDS; SECONDS: how long the stress driver goes on, for each of the two.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
seconds=$2
cmake=$(dirname "$python")/cmake
ucx=$("$python" -c "import libucx, pathlib; print(pathlib.Path(libucx.__file__).parent / 'lib')")
launcher=$(command -v ccache || true)
export LD_LIBRARY_PATH=$ucx
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:check_initialization_order=1:handle_abort=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:handle_abort=1:suppressions=tools/tsan.suppressions
# UCX takes over calls that map memory, and threads that are not yet known to the thread sanitizer run into that.
export UCX_MEM_MMAP_HOOK_MODE=none
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
for sanitizer in address thread; do
  build=build/sanitize-$sanitizer
  echo "== building with the $sanitizer sanitizer"
  # Without the CUDA parts: what is run here moves bytes between host memories.
  "$cmake" -S . -B "$build" -G Ninja "-DCMAKE_MAKE_PROGRAM=$PWD/$(dirname "$python")/ninja" --log-level=WARNING \
    -DCMAKE_CXX_COMPILER_LAUNCHER="$launcher" "-DKVDIRECT_SANITIZE=$sanitizer" -DKVDIRECT_CUDA=OFF -DKVDIRECT_TESTS=ON \
    "-Ducx_DIR=$ucx/cmake/ucx"
  "$cmake" --build "$build" --target kvdirect_tests kvdirect_stress
  # One thread runs the tests; beside them the driver has the other processors.
  timeout 600 "$build/tests/cpp/kvdirect_tests" > "$build/tests.log" 2>&1 &
  tests=$!
  timeout $((seconds + 120)) "$build/tests/cpp/kvdirect_stress" --seconds "$seconds"
  wait "$tests" || { cat "$build/tests.log"; exit 1; }
  tail -n 1 "$build/tests.log"
done
