# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# What shows that the promises of docs/reliability.md and docs/security.md hold, for longer than a test may take:
# `make soak` lets owners and readers live with faults.

.PHONY: soak

# PULLS=100000: no faults, until each lane has ended so many. SEED: that of an earlier run.
MINUTES ?= 30
PULLS ?= 0
SEED ?=

soak: $(VENV)/.built
	cd tests && ../$(BIN)/python -m soak --minutes $(MINUTES) --pulls $(PULLS) $(if $(SEED),--seed $(SEED))
