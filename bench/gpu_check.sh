#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Everything that only a GPU can show, in one call of less than eight minutes, and one table at the end.
#
# Steps are functions that are called by name:
# shellcheck disable=SC2329
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash bench/gpu_check.sh [--build-only] [--only STEP,...] [--per-block LIST]

Builds the extension into kvtransfer/ and, on the first visible GPU, runs
  tests         tests/gpu
  bars          pulls beside the GPU's own copy and what copies block by block (python -m kvdirect_bench.gpu_targets)
  memcheck      compute-sanitizer on the copy kernel's test, for wrong accesses
  racecheck     the same, for races
  example       examples/transformers_pd.py --device cuda
  interference  what pulls cost a matrix product (bench/gpu_interference.py)

  --build-only  build, and need no GPU
  --only        these steps; build is one of them
  --per-block   what copies block by block, as for kvdirect_bench.gpu_targets

Exit status 0: everything was run and is right, 1: something is not, 2: something is missing here, or wrong usage.
PYTHON (python3) must have numpy and nanobind, and for the steps that use them pytest, torch with CUDA and transformers.
UCX is a libucx that it can import, or where KVDIRECT_UCX_DIR says (the folder of ucx-config.cmake). Programs are looked
for on PATH, then beside PYTHON, in bin/ of PYTHONPATH's folders and in the CUDA toolkit (CUDA_HOME). Logs and figures go
to OUT (build/gpu/results).
TEXT
}

refuse() {
  printf 'gpu_check.sh: error: %s\n' "$1" >&2
  exit 2
}

steps=(build tests bars memcheck racecheck example interference)
chosen=" ${steps[*]} "
per_block=""
build_only=""
while (($#)); do
  case $1 in
    --build-only) build_only=yes chosen=" build " ;;
    --only)
      chosen=" ${2:?--only: expected STEP,...} "
      chosen=${chosen//,/ }
      shift
      ;;
    --per-block) per_block=${2:?--per-block: expected a list} && shift ;;
    -h | --help) usage && exit 0 ;;
    *) refuse "$1: unknown (see \`bash bench/gpu_check.sh --help\`)" ;;
  esac
  shift
done
for name in $chosen; do
  [[ " ${steps[*]} " == *" $name "* ]] || refuse "--only $name: expected some of ${steps[*]}"
done

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/build/gpu
results=$(realpath -m "${OUT:-$BUILD/results}")
cd "$ROOT"
# Seconds for everything; the table takes none. Building by itself may take as long as it wants.
most=465
limit=$most
[[ -z $build_only ]] || limit=3600

# ---- what is here --------------------------------------------------------------------------------------------------

python=$(command -v "${PYTHON:-python3}" || true)
[[ -z $python ]] || PATH=$PATH:$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
IFS=: read -ra folders <<<"${PYTHONPATH:-}"
for folder in "${folders[@]}" "${CUDA_HOME:-/usr/local/cuda}" /usr/local/cuda-*; do
  [[ -z $folder ]] || PATH=$PATH:$folder/bin:$folder/compute-sanitizer
done
export PATH
export PYTHONPATH=$ROOT:$ROOT/bench${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1

missing=()

wants() {
  [[ " $chosen " == *" $1 "* ]]
}

has_headers='import os, sys, sysconfig; sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))'

need_program() {
  command -v "$1" >/dev/null || missing+=("$1: not on PATH${2:+ ($2)}")
}

need_module() {
  [[ -z $python ]] || "$python" -c "import $1" 2>/dev/null || missing+=("$1: $python cannot import it${2:+ ($2)}")
}

# One line: name and driver of the first GPU; nothing where there is none.
gpu_line() {
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1
}

look_for_gpu() {
  [[ -n $(gpu_line || true) ]] || missing+=("a GPU: nvidia-smi lists none")
  ! wants tests || need_module pytest
  ! wants example || need_module transformers
  if wants bars || wants example || wants interference; then
    need_module torch
    [[ -z $python ]] || ! "$python" -c 'import torch' 2>/dev/null ||
      "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
      missing+=("a GPU that PyTorch can use: torch.cuda.is_available() is false for $python")
  fi
  if wants memcheck || wants racecheck; then
    need_program compute-sanitizer "it comes with the CUDA toolkit"
  fi
}

look_for_tools() {
  [[ -n $python ]] || missing+=("Python: ${PYTHON:-python3} is not on PATH")
  need_program cmake
  need_program ninja
  need_program "${CXX:-c++}" "the C++ compiler; CXX may say which"
  need_program nvcc "CUDA's compiler; CUDA_HOME may say where"
  need_module numpy
  need_module nanobind
  [[ -z $python ]] || "$python" -c "$has_headers" ||
    missing+=("Python.h: not there for $python (a package like python3-dev has it)")
  if [[ -n ${KVDIRECT_UCX_DIR:-} ]]; then
    [[ -f $KVDIRECT_UCX_DIR/ucx-config.cmake ]] || missing+=("UCX: KVDIRECT_UCX_DIR=$KVDIRECT_UCX_DIR has no ucx-config.cmake")
  else
    need_module libucx "UCX; or set KVDIRECT_UCX_DIR to the folder of ucx-config.cmake"
  fi
}

[[ -n $build_only ]] || look_for_gpu
look_for_tools
if ((${#missing[@]})); then
  printf 'gpu_check.sh: missing: %s\n' "${missing[@]}" >&2
  exit 2
fi

# ---- the steps -----------------------------------------------------------------------------------------------------

# These run in shells of their own, so that each can be ended; they take their settings from the environment.
export ROOT BUILD python results per_block

build() {
  local ucx=${KVDIRECT_UCX_DIR:-}
  [[ -n $ucx ]] || ucx=$("$python" -c 'import libucx, pathlib; print(pathlib.Path(libucx.__file__).parent / "lib/cmake/ucx")')
  CUDACXX=$(command -v nvcc) cmake -S . -B "$BUILD/ext" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dnanobind_DIR="$("$python" -c 'import nanobind; print(nanobind.cmake_dir())')" \
    -Ducx_DIR="$ucx" -DKVDIRECT_OUTPUT_DIR="$ROOT/kvtransfer" -DKVDIRECT_TEST_HOOKS=ON -DKVDIRECT_BENCH=ON
  # The kernel names the lines of its source, for the sanitizer; its code is the same.
  NVCC_APPEND_FLAGS=-lineinfo cmake --build "$BUILD/ext" --target _core _native
  nvcc -std=c++20 -O2 -cudart none -I csrc -o "$BUILD/copy_kernel_check" \
    tests/cpp/copy_kernel_check.cpp csrc/cuda/driver.cpp csrc/base/error.cpp -ldl
  "$python" - <<'CODE'
import kvtransfer

if not kvtransfer.CUDA_BUILD:
    raise SystemExit("the extension was built without its CUDA parts; see what CMake says of nvcc above")
print(f"kvtransfer {kvtransfer.__version__} with UCX {kvtransfer.ucx_version()} from {kvtransfer.ucx_file()}")
CODE
}

# Only the plugin that the tests' settings name: others here may not suit. And a real GPU, or nothing.
tests() {
  local more=()
  "$python" -c 'import pytest_timeout' 2>/dev/null && more=(-p pytest_timeout)
  env -u KVDIRECT_SIM_CUDA PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
    "$python" -m pytest tests/gpu -o addopts=-ra -p no:cacheprovider "${more[@]}"
}

bars() {
  "$python" -m kvdirect_bench.gpu_targets --json "$results/bars.json" ${per_block:+--per-block "$per_block"}
}

sanitized() {
  compute-sanitizer --tool "$1" --error-exitcode 3 "$BUILD/copy_kernel_check" "$BUILD/ext/copy_kernel.fatbin"
}

memcheck() { sanitized memcheck; }

racecheck() { sanitized racecheck; }

example() {
  "$python" examples/transformers_pd.py --device cuda
}

interference() {
  "$python" bench/gpu_interference.py --json "$results/interference.json"
}

# What a step's output must contain besides its exit status: a step that skipped everything is not done.
proof() {
  case $1 in
    build) echo 'kvtransfer .* with UCX' ;;
    tests) echo '[0-9]+ passed' ;;
    bars) echo ' met$' ;;
    memcheck) echo 'ERROR SUMMARY: 0 errors' ;;
    racecheck) echo 'RACECHECK SUMMARY: 0 hazards' ;;
    example) printf '%s\n' '^transformers_pd: ([0-9]+) of \1 prompts identical,.* on cuda' ;;
    interference) echo '^default ' ;;
  esac
}

# A step's result in a few words.
words_of() {
  case $1 in
    bars) printf '%s of %s bars met\n' "$(grep -c ' met$' "$2")" "$(grep -cE ' (met|MISSED)$' "$2")" ;;
    interference) sed -nE 's/^default +([0-9.]+) +([0-9.]+) +[0-9.]+ +([0-9.]+) .*/default: \1 GB\/s alone, \2 beside it, product \3 times as long/p' "$2" ;;
    memcheck | racecheck) grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$2" | tail -n 1 ;;
    *) grep -v '^$' "$2" | tail -n 1 | sed -E 's/^=+ | =+$//g' ;;
  esac
}

export -f build tests bars sanitized memcheck racecheck example interference

failed=0
table=()

record() {
  table+=("$(printf '%-13s %-7s %4s s  %s' "$1" "$2" "$3" "${4:0:150}")")
  [[ $2 == ok ]] || failed=1
}

# run STEP SECONDS
run() {
  local name=$1 seconds=$2 status=0 began=$SECONDS log=$BUILD/step.log
  wants "$name" || return 0
  ((seconds < limit - SECONDS)) || seconds=$((limit - SECONDS))
  if ((seconds < 5)); then
    record "$name" "NOT RUN" 0 "no time was left"
    return
  fi
  printf '== %s\n' "$name" | tee -a "$results/log.txt"
  timeout --kill-after=5 "$seconds" bash -euo pipefail -c "$name" >"$log" 2>&1 </dev/null || status=$?
  cat "$log" >>"$results/log.txt"
  local result=ok words shown=10
  words=$(words_of "$name" "$log" || true)
  if ((status == 124 || status == 137)); then
    result=FAILED words="ended after $seconds s: $words"
  elif ((status)); then
    result=FAILED
  elif ! grep -qE "$(proof "$name")" "$log"; then
    result=FAILED words="nothing was shown: $words"
  fi
  [[ $name != bars && $result == ok ]] || shown=60
  tail -n "$shown" "$log"
  record "$name" "$result" "$((SECONDS - began))" "$words"
}

SECONDS=0
mkdir -p "$BUILD" "$results"
: >"$results/log.txt"
run build $((limit > most ? limit : 150))
run tests 150
run bars 240
run memcheck 45
run racecheck 45
run example 90
run interference 75

device=$(gpu_line || true)
device=${device:-none, none}
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
{
  printf '\nKVDirect on a GPU\n'
  printf '%-13s %s\n' date "$(date -u '+%Y-%m-%d %H:%M UTC')" device "${device%,*}" driver "${device##*, }" commit "$commit"
  printf '%s\n' "${table[@]}"
} | tee "$results/table.txt"
exit "$failed"
