#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Everything that only a GPU can show, and one table at the end.
#
# Steps are functions that are called by name:
# shellcheck disable=SC2329
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash bench/gpu_check.sh [--build-only] [--plan 1|2|3] [--only STEP,...] [--rehearse]
                                [--per-block LIST] [--pull-bytes N]

Builds the extension into kvtransfer/ and, on the first visible GPU, runs
  memcheck      compute-sanitizer on the copy kernel's test, for wrong accesses
  racecheck     the same, for races
  tests         tests/gpu
  example       examples/transformers_pd.py --device cuda
  bars          pulls beside the GPU's own copy and what copies block by block (python -m kvdirect_bench.gpu_targets)
  interference  pulls with so many multiprocessors, and what they cost a matrix product (bench/gpu_interference.py)
  profile       ncu on the copy kernel's test

  --build-only  build, and need no GPU
  --plan        1: build and what says right or wrong; 2: build and bars; 3: build, interference and profile. Each is one
                call of less than nine minutes
  --only        these steps; build is one of them
  --rehearse    with as few bytes as can be, to see that all steps go through; the figures mean nothing
  --per-block   what copies block by block, as for kvdirect_bench.gpu_targets
  --pull-bytes  of a pull of the bars; 4g on a GPU of 100 GiB and more, 2g from 45 GiB on, else 1g

Exit status 0: everything was run and is right, 1: something is not, or a step was left out because something that it
needs is missing here, 2: what all steps need is missing, or wrong usage.
PYTHON (python3) must have numpy and nanobind, and for the steps that use them pytest, torch with CUDA and transformers.
UCX is a libucx that it can import, or where KVDIRECT_UCX_DIR says (the folder of ucx-config.cmake). Programs are looked
for on PATH, then beside PYTHON, in bin/ of PYTHONPATH's folders and in the CUDA toolkit (CUDA_HOME). log.txt, table.txt,
bars.json and interference.json go to OUT (build/gpu/results); `python -m kvdirect_bench.gpu_figures` reads them.
TEXT
}

refuse() {
  printf 'gpu_check.sh: error: %s\n' "$1" >&2
  exit 2
}

steps=(build memcheck racecheck tests example bars interference profile)
plans=("" "build memcheck racecheck tests example" "build bars" "build interference profile")
chosen=" ${steps[*]} "
per_block="" pull_bytes="" build_only="" rehearse=""
# Seconds for everything; the table takes none. Building by itself may take as long as it wants.
most=1560
while (($#)); do
  case $1 in
    --build-only) build_only=yes chosen=" build " most=3600 ;;
    --plan)
      [[ ${2:-} == [123] ]] || refuse "--plan ${2:-}: expected 1, 2 or 3"
      chosen=" ${plans[$2]} " most=520
      shift
      ;;
    --only)
      chosen=" ${2:?--only: expected STEP,...} "
      chosen=${chosen//,/ }
      shift
      ;;
    --rehearse) rehearse=yes ;;
    --per-block) per_block=${2:?--per-block: expected a list} && shift ;;
    --pull-bytes) pull_bytes=${2:?--pull-bytes: expected a number} && shift ;;
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
SECONDS=0

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

# What all steps need, and by step what only that one needs.
missing=()
declare -A lacking=()

wants() {
  [[ " $chosen " == *" $1 "* ]]
}

has_headers='import os, sys, sysconfig; sys.exit(not os.path.isfile(sysconfig.get_path("include") + "/Python.h"))'
has_cuda='import torch; print("yes" if torch.cuda.is_available() else "a GPU that PyTorch can use: is_available() is false")'

# need_program PROGRAM WHY [STEP...]: without steps, all need it.
need_program() {
  command -v "$1" >/dev/null || lack "$1: not on PATH ($2)" "${@:3}"
}

# need_module MODULE [STEP...]
need_module() {
  "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" ||
    lack "$1: $python cannot import it" "${@:2}"
}

lack() {
  (($# > 1)) || missing+=("$1")
  for step in "${@:2}"; do
    lacking[$step]=${lacking[$step]:-missing: $1}
  done
}

# Of the first GPU, as nvidia-smi names it; nothing where there is none.
gpu_says() {
  nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -n 1 || true
}

look_for_gpu() {
  device=$(gpu_says name)
  [[ -n $device ]] || missing+=("a GPU: nvidia-smi lists none")
  need_program compute-sanitizer "it comes with the CUDA toolkit" memcheck racecheck
  need_program ncu "it comes with the CUDA toolkit" profile
  # Between two processes nothing works there.
  [[ $(gpu_says compute_mode) != Exclusive* ]] ||
    lack "a GPU that two processes may use: its compute mode is $(gpu_says compute_mode)" tests example bars interference
  [[ -n $python ]] || return 0
  need_module pytest tests
  need_module transformers example
  if wants example || wants bars || wants interference; then
    local cuda
    cuda=$("$python" -c "$has_cuda" 2>/dev/null || echo "torch: $python cannot import it")
    [[ $cuda == yes ]] || lack "$cuda" example bars interference
  fi
}

look_for_tools() {
  if [[ -z $python ]]; then
    missing+=("Python: ${PYTHON:-python3} is not on PATH")
    return
  fi
  need_module numpy
  wants build || return 0
  need_program cmake "a package of that name"
  need_program ninja "a package of that name"
  need_program "${CXX:-c++}" "the C++ compiler; CXX may say which"
  need_program nvcc "CUDA's compiler; CUDA_HOME may say where"
  need_module nanobind
  "$python" -c "$has_headers" || missing+=("Python.h: not there for $python (a package like python3-dev has it)")
  if [[ -z ${KVDIRECT_UCX_DIR:-} ]]; then
    need_module libucx
  elif [[ ! -f $KVDIRECT_UCX_DIR/ucx-config.cmake ]]; then
    missing+=("UCX: KVDIRECT_UCX_DIR=$KVDIRECT_UCX_DIR has no ucx-config.cmake")
  fi
}

device=""
[[ -n $build_only ]] || look_for_gpu
look_for_tools
if ((${#missing[@]})); then
  printf 'gpu_check.sh: missing: %s\n' "${missing[@]}" >&2
  exit 2
fi

# ---- the steps -----------------------------------------------------------------------------------------------------

# These run in shells of their own, so that each can be ended; they take their settings from the environment.
if [[ -z $pull_bytes && -n $device ]]; then
  memory=$(gpu_says memory.total)
  pull_bytes=$((memory >= 100000 ? 4 : memory >= 45000 ? 2 : 1))g
  [[ -z $rehearse ]] || pull_bytes=4m
fi
export ROOT BUILD python results per_block pull_bytes rehearse

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
  "$python" -m kvdirect_bench.gpu_targets --json "$results/bars.json" --pull-bytes "$pull_bytes" \
    ${per_block:+--per-block "$per_block"} ${rehearse:+--sizes 16k --rounds 1}
}

sanitized() {
  compute-sanitizer --tool "$1" --error-exitcode 3 "$BUILD/copy_kernel_check" "$BUILD/ext/copy_kernel.fatbin"
}

memcheck() { sanitized memcheck; }

racecheck() { sanitized racecheck; }

example() {
  # A rehearsal has no time for the large model.
  local size=large
  [[ -z ${rehearse:-} ]] || size=small
  "$python" examples/transformers_pd.py --device cuda --size "$size"
}

interference() {
  "$python" bench/gpu_interference.py --json "$results/interference.json" --sms 8,16,24,33,44,66,all --bulk \
    ${rehearse:+--size 64 --pull-bytes 1m --rounds 1 --seconds 0.05}
}

profile() {
  ncu --clock-control none --launch-count 8 --metrics \
    dram__throughput.avg.pct_of_peak_sustained_elapsed,lts__throughput.avg.pct_of_peak_sustained_elapsed,gpu__time_duration.sum \
    "$BUILD/copy_kernel_check" "$BUILD/ext/copy_kernel.fatbin"
}

# What a step's output must contain besides its exit status: a step that skipped everything is not done.
proof() {
  case $1 in
    build) echo 'kvtransfer .* with UCX' ;;
    tests) echo '[0-9]+ passed' ;;
    bars) echo ' (met|MISSED)$' ;;
    memcheck) echo 'ERROR SUMMARY: 0 errors' ;;
    racecheck) echo 'RACECHECK SUMMARY: 0 hazards' ;;
    example) printf '%s\n' '^transformers_pd: ([0-9]+) of \1 prompts identical,.* on cuda' ;;
    interference) echo '^default ' ;;
    profile) echo 'dram__throughput' ;;
  esac
}

# A step's result in a few words.
words_of() {
  case $1 in
    # The last table judges all contests; each is judged in one of its own before.
    bars) tac "$2" | sed '/^bar  *wanted/q' | awk '/ met$/ { met++ } / (met|MISSED)$/ { all++ } END { print met + 0 " of " all + 0 " bars met" }' ;;
    interference) sed -nE 's/^default +([0-9.]+) +([0-9.]+) +[0-9.]+ +([0-9.]+) .*/default: \1 GB\/s alone, \2 beside it, product \3 times as long/p' "$2" ;;
    memcheck | racecheck) grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$2" | tail -n 1 ;;
    *) grep -v '^$' "$2" | tail -n 1 | sed -E 's/^=+ | =+$//g' ;;
  esac
}

export -f build tests bars sanitized memcheck racecheck example interference profile

failed=0
table=()

record() {
  table+=("$(printf '%-13s %-8s %4s s  %s' "$1" "$2" "$3" "${4:0:150}")")
  [[ $2 == ok ]] || failed=1
}

# run STEP SECONDS
run() {
  local name=$1 seconds=$2 status=0 began=$SECONDS log=$BUILD/step.log
  wants "$name" || return 0
  if [[ -n ${lacking[$name]:-} ]]; then
    record "$name" "LEFT OUT" 0 "${lacking[$name]}"
    return
  fi
  ((seconds < most - SECONDS)) || seconds=$((most - SECONDS))
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

# The driver leaves a GPU that no process uses, and takes seconds to come back to it: one holds it until the end.
hold_gpu='
import ctypes, os, sys, time

cuda, context, script = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p(), int(sys.argv[1])
print("held:", cuda.cuInit(0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), flush=True)
while os.getppid() == script:
    time.sleep(0.2)
'

# What decides about the figures, before there are any.
describe_machine() {
  local what
  for what in name driver_version compute_mode mig.mode.current persistence_mode clocks.sm clocks.max.sm memory.total; do
    printf '%-18s %s\n' "$what" "$(gpu_says "$what")"
  done
  printf '%-18s %s\n' kernel "$(uname -r)" "loopback device" "$(cat /sys/class/net/lo/operstate)"
}

mkdir -p "$BUILD" "$results"
: >"$results/log.txt"
if [[ -n $device ]]; then
  describe_machine | tee -a "$results/log.txt"
  "$python" -c "$hold_gpu" $$ >>"$results/log.txt" 2>&1 &
  holder=$!
  trap 'kill "$holder" 2>/dev/null || true' EXIT
fi
run build $((most > 1560 ? most : 200))
run memcheck 90
run racecheck 90
run tests 300
run example 120
run bars 400
run interference 180
run profile 60

commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
{
  printf '\nKVDirect on a GPU\n'
  printf '%-13s %s\n' date "$(date -u '+%Y-%m-%d %H:%M UTC')" device "${device:-none}" driver "$(gpu_says driver_version)" \
    commit "$commit"
  printf '%s\n' "${table[@]}"
} | tee "$results/table.txt"
exit "$failed"
