#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# `make fuzz`: feeds what decodes foreign bytes with ever new ones: C++ with libFuzzer under the address and
# undefined-behaviour sanitizers, Python with atheris. Each target begins with its folder of the corpus in the tree, and
# keeps what it finds in build/fuzz/corpus. The first finding ends a target; the input is in build/fuzz/findings.
# Usage: tools/fuzz.sh PYTHON SECONDS INPUTS [TARGET]: each target ends after so many seconds or inputs; -1: no such end.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/$1
seconds=$2
inputs=$3
wanted=${4:-}
build=build/fuzz
cpp_targets=$(sed -n 's/^FUZZ_TARGET(\(.*\)) {$/\1/p' tests/cpp/fuzz/*.cpp)
python_targets=$(cd tests && "$python" -m fuzz)
if [ -n "$wanted" ] && ! grep -qx "$wanted" <<< "$cpp_targets"$'\n'"$python_targets"; then
  echo "no target is called $wanted; there are:" $cpp_targets $python_targets >&2
  exit 2
fi

compiler() {
  local version
  for version in 20 19 18 17 16; do
    command -v "clang++-$version" && return
  done
  command -v clang++ && return
  echo "make fuzz needs clang with libFuzzer, 16 or newer, for the C++ targets: apt-get install clang-16 libclang-rt-16-dev" >&2
  return 1
}

build_cpp() {
  local clang ucx
  clang=$(compiler)
  ucx=$("$python" -c "import libucx, pathlib; print(pathlib.Path(libucx.__file__).parent / 'lib')")
  export LD_LIBRARY_PATH=$ucx
  "$(dirname "$python")/cmake" -S . -B "$build/cpp" -G Ninja "-DCMAKE_MAKE_PROGRAM=$(dirname "$python")/ninja" \
    --log-level=WARNING "-DCMAKE_CXX_COMPILER=$clang" "-DCMAKE_CXX_COMPILER_LAUNCHER=$(command -v ccache || true)" \
    -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link -DKVDIRECT_SANITIZE=address -DKVDIRECT_CUDA=OFF -DKVDIRECT_TESTS=ON \
    -DKVDIRECT_LIBFUZZER=ON "-Ducx_DIR=$ucx/cmake/ucx"
  "$(dirname "$python")/cmake" --build "$build/cpp" --target kvdirect_fuzz
}

# libFuzzer's own words are the same for both: they say how many inputs were run.
fuzz() {
  local target=$1 seeds=$2
  shift 2
  mkdir -p "$build/corpus/$target" "$build/findings"
  echo "== $target"
  "$@" "$build/corpus/$target" "$seeds" "-max_total_time=$seconds" "-runs=$inputs" -timeout=25 -rss_limit_mb=2048 \
    "-artifact_prefix=$build/findings/$target-" -print_final_stats=1 -print_funcs=0 -verbosity=0 -close_fd_mask=1 2> "$build/$target.log" \
    || { tail -n 40 "$build/$target.log" >&2; return 1; }
  sed -n 's/^stat::number_of_executed_units: */inputs: /p; s/^Done \([0-9]*\) runs.*/inputs: \1/p' "$build/$target.log" | head -n 1
}

export UCX_MEM_MMAP_HOOK_MODE=none
export UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=tools/lsan.suppressions:print_suppressions=0
status=0
mkdir -p "$build"
for target in $cpp_targets; do
  [ -z "$wanted" ] || [ "$wanted" = "$target" ] || continue
  [ -n "${built:-}" ] || { build_cpp; built=yes; }
  KVDIRECT_FUZZ_TARGET=$target fuzz "$target" "tests/cpp/fuzz/corpus/$target" "$build/cpp/tests/cpp/fuzz/kvdirect_fuzz" || status=1
done
for target in $python_targets; do
  [ -z "$wanted" ] || [ "$wanted" = "$target" ] || continue
  PYTHONPATH=tests${PYTHONPATH:+:$PYTHONPATH} fuzz "$target" "tests/fuzz/corpus/$target" "$python" -m fuzz "$target" || status=1
done
exit $status
