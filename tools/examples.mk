# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# The examples that are packages. `make graph` trains on WordNet with features and embeddings in store processes, and draws
# what happened, in build/graph/out; GRAPH_ARGS takes the options of `python -m graph`. `make matching` trains its model,
# judges it on scenes that it has not seen, and draws what it finds, in build/matching; MATCHING_ARGS takes the options of
# `python -m remote_sensing`.

.PHONY: graph matching

GRAPH_ARGS ?=
MATCHING_ARGS ?=

graph: $(VENV)/.built $(VENV)/.examples
	PYTHONPATH=examples $(BIN)/python -m graph $(GRAPH_ARGS)

matching: $(VENV)/.built $(VENV)/.examples
	PYTHONPATH=examples $(BIN)/python -m remote_sensing --out build/matching $(MATCHING_ARGS)

# Of vLLM they need nothing but its torch, which is a download of about 200 MB instead of a gigabyte.
$(VENV)/.examples: pyproject.toml tools/examples.mk tools/install_torch_cpu.sh | $(VENV)/.tools
	@echo "== what the examples need: torch, OpenCV, scikit-image, matplotlib, torch-geometric"
	tools/install_torch_cpu.sh $(BIN)/python
	$(BIN)/python -m pip install --quiet --group examples
	touch $@
