# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# `make bench`: micro-benchmarks, saved in .benchmarks and compared with the last ones. `make bench-bars`: the figures of
# docs/benchmarks.md, beside the libraries that `make bench-peers` gave environments of their own. `make bench-serving`: whole
# requests through vLLM engines, and the figures that they must reach. `make bench-router`: the router beside another one, before
# fake engines. `make bench-rows`: rows gathered by id from two stores. `make simulate`: serving clusters in simulation.
# `make bench-elastic`: three real engines whose roles change, beside their simulation.

.PHONY: bench bench-bars bench-elastic bench-peers bench-router bench-rows bench-serving bench-serving-peers simulate simulate-cross-check

bench: $(VENV)/.built $(VENV)/.bench
	mkdir -p .benchmarks
	saved=$$(find .benchmarks -name '*.json' -print -quit) && \
	  $(BIN)/python -m pytest bench/micro --benchmark-autosave $${saved:+--benchmark-compare}

bench-bars: $(VENV)/.built .venv-bench-nixl/.installed
	$(BIN)/python -m kvdirect_bench.targets

# Two requests of a contender in a row: short turns keep the machine's drift out of the rounds' ratios.
bench-serving: $(VENV)/.vllm $(VENV)/.built .venv-bench-serving-nixl/.installed
	$(BIN)/python bench/serving_bench.py --contenders aggregated,kvdirect,nixl,nixl-best --requests 2 --bars

bench-router: $(VENV)/.built .venv-bench-router/.installed
	$(BIN)/python bench/router_bench.py

bench-elastic: $(VENV)/.vllm $(VENV)/.built
	$(BIN)/python bench/elastic_bench.py $(ELASTIC_ARGS)

# Rows by id, beside numpy.take, torch's rpc, gRPC, Ray and DGL's KVStore.
bench-rows: $(VENV)/.built .venv-bench-rows/.installed
	.venv-bench-rows/bin/python bench/rows_bench.py

# Needs no build: neither the library nor vLLM has a part in it. SIMULATE_ARGS takes any option of the program.
simulate: .venv-sim/.installed
	PYTHONPATH=bench:vllm_plugin .venv-sim/bin/python -m kvdirect_bench.cluster.fit --check
	.venv-sim/bin/python bench/simulate.py $(SIMULATE_ARGS)

simulate-cross-check: .venv-sim-vidur/.installed
	PYTHONPATH=bench:vllm_plugin .venv-sim-vidur/bin/python -m kvdirect_bench.cluster.cross_check

.venv-sim/.installed: pyproject.toml tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== step times as measured, a simulator's clock, and plots (a download of about 180 MB)"
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(@D)/bin/python -m pip install --quiet --group sim
	touch $@

# Without most of its dependencies: its plots, its profilers and what they upload have no part in it.
.venv-sim-vidur/.installed: tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== vidur, to compare with (a download of about 150 MB)"
	$(@D)/bin/python -m pip install --quiet --no-deps vidur==0.0.26
	$(@D)/bin/python -m pip install --quiet simpy ddsketch fasteners huggingface_hub matplotlib pandas plotly plotly_express scikit-learn seaborn wandb
	touch $@

# Beside the torch of $(VENV), which is not copied.
.venv-bench-rows/.installed: tools/bench.mk $(VENV)/.examples
	test -x $(@D)/bin/python || $(BIN)/python -m venv $(@D)
	packages=$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  theirs=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  echo "import site; site.addsitedir('$$theirs')" > "$$packages/kvdirect-of-the-other-environment.pth"
	@echo "== Ray, gRPC and DGL, to compare with (a download of about 90 MB)"
	$(@D)/bin/python -m pip install --quiet ray==2.60.0 grpcio==1.85.3
	$(@D)/bin/python -m pip install --quiet dgl==1.1.3 || echo "DGL 1.1.3 could not be installed (it has wheels for Python 3.11 at most): it is left out"
	touch $@

bench-serving-peers: .venv-bench-serving-nixl/.installed

bench-peers: .venv-bench-nixl/.installed .venv-bench-mooncake/.installed .venv-bench-ucxx/.installed

$(VENV)/.bench: pyproject.toml $(VENV)/.tools
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

# Without its dependencies: torch is one, and host memory needs none of it. `nixl` is the face of the wheel for a CUDA.
.venv-bench-nixl/.installed: tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== NIXL, to compare with (a download of about 60 MB)"
	$(@D)/bin/python -m pip install --quiet numpy
	$(@D)/bin/python -m pip install --quiet --no-deps nixl==1.5.1 nixl-cu13==1.5.1
	touch $@

# It also wants the system's libibverbs, and says so where that is missing (Debian: libibverbs1).
.venv-bench-mooncake/.installed: tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== Mooncake's transfer engine, to compare with (a download of about 50 MB)"
	$(@D)/bin/python -m pip install --quiet numpy
	$(@D)/bin/python -m pip install --quiet --no-deps mooncake-transfer-engine-non-cuda==0.3.13.post1
	touch $@

# Its core interface and host memory need no more than these; its other dependencies are for CUDA. Loading wants librmm.
.venv-bench-ucxx/.installed: tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== ucxx, to compare with (a download of about 70 MB)"
	$(@D)/bin/python -m pip install --quiet numpy
	$(@D)/bin/python -m pip install --quiet --no-deps ucxx-cu13==0.52.0 libucxx-cu13==0.52.0 libucx-cu13==1.21.0 \
	  librmm-cu13==26.10.0 rapids-logger==0.3.0
	touch $@

# NIXL beside the vLLM of $(VENV), which is not copied: its packages are looked for there when they are not here.
.venv-bench-serving-nixl/.installed: tools/bench.mk $(VENV)/.vllm
	test -x $(@D)/bin/python || $(BIN)/python -m venv $(@D)
	@echo "== NIXL beside vLLM, to compare with (a download of about 60 MB)"
	$(@D)/bin/python -m pip install --quiet --no-deps nixl==1.5.1 nixl-cu13==1.5.1
	packages=$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  theirs=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  echo "import site; site.addsitedir('$$theirs')" > "$$packages/vllm-of-the-other-environment.pth"
	touch $@

.venv-bench-router/.installed: tools/bench.mk
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== vllm-router, to compare with"
	$(@D)/bin/python -m pip install --quiet vllm-router==0.1.17
	touch $@
