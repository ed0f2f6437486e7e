# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# What shows that the promises of docs/reliability.md and docs/security.md hold, for longer than a test may take.
# `make soak`: owners and readers live with faults. `make soak-streams`: requests that read along with their prefill do.
# `make fuzz`: what decodes foreign bytes gets ever new ones.
# `make mutants`: faults are put into the source, and tests must notice.

.PHONY: soak soak-streams fuzz mutants

# PULLS=100000: no faults, until each lane has ended so many. SEED: that of an earlier run.
MINUTES ?= 30
PULLS ?= 0
SEED ?=

soak: $(VENV)/.built
	cd tests && ../$(BIN)/python -m soak --minutes $(MINUTES) --pulls $(PULLS) $(if $(SEED),--seed $(SEED))

# REQUESTS on each of LANES; of four, three are streamed and end well.
REQUESTS ?= 14000
LANES ?= message shm cma

soak-streams: $(VENV)/.vllm $(VENV)/.built
	cd tests/plugin && for lane in $(LANES); do ../../$(BIN)/python stream_soak.py --requests $(REQUESTS) --lanes $$lane || exit 1; done

# SECONDS or INPUTS of each target, whichever comes first, and which TARGET: `make fuzz TARGET=?` names all.
SECONDS ?= 600
INPUTS ?= -1
TARGET ?=

fuzz: $(VENV)/.vllm $(VENV)/.built $(VENV)/.fuzz
	tools/fuzz.sh $(BIN)/python $(SECONDS) $(INPUTS) $(TARGET)

$(VENV)/.fuzz: pyproject.toml $(VENV)/.tools
	$(BIN)/python -m pip install --quiet --group fuzz
	touch $@

# MUTANTS: only those with one of these in their file or name.
MUTANTS ?=

mutants: $(VENV)/.vllm $(VENV)/.built
	cd tools && ../$(BIN)/python -m mutants $(MUTANTS)
