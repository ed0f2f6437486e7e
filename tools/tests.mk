# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# The Python tests in two processes, for `make -j2`, which `make test` and `make check` call. Each line says which it is of.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: engines others quick-plugin quick-others

# On Ctrl-C pytest has more to say. The slowest are named, so that the whole stays within its time.
run = .venv/bin/python -m pytest --durations=40 $(1) 2>&1 | (trap "" INT; sed -u "s/^/$@ | /")

# Those with vLLM engines, and what is long of the others: both take about as long as all that is left.
LONG := tests/plugin/test_handshake_attacks.py

engines:
	$(call run,tests -m "vllm and not kinds")
	$(call run,$(LONG))

others:
	$(call run,tests --ignore $(LONG) -m "not vllm and not kinds")

# What is soon done: without what starts many processes or vLLM anew.
quick-plugin:
	$(call run,tests/plugin tests/router/test_flow.py --ignore tests/plugin/test_versions.py)

QUICK := $(addprefix tests/,planner library doctor sim_cuda bench docs/test_matches_code.py) \
  $(addprefix --ignore tests/,bench/test_programs.py bench/test_gpu_programs.py doctor/test_machine.py) \
  $(addprefix tests/transfer/test_pull.py::test_,bytes_equal_numpy_and_nothing_else_is_touched a_hole_is_never_written \
    different_block_sizes a_permuted_copy_is_noticed every_lane_serves_one_peer)

quick-others:
	$(call run,$(QUICK))
