# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# `make ray-example`: two engines under Ray Serve, beside one that does both. Ray lies in an environment of its own.

.PHONY: ray-example

ray-example: $(VENV)/.built .venv-ray/.installed
	.venv-ray/bin/python -m pytest tests/ray_serve
	.venv-ray/bin/python examples/ray_serve_pd.py

# Beside the vLLM of $(VENV), which is not copied. Ray's extra `llm` asks for an older vLLM, so what Ray Serve's part for
# language models imports is listed here.
.venv-ray/.installed: tools/ray.mk $(VENV)/.vllm
	test -x $(@D)/bin/python || $(BIN)/python -m venv $(@D)
	packages=$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  theirs=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
	  echo "import site; site.addsitedir('$$theirs')" > "$$packages/vllm-of-the-other-environment.pth"
	@echo "== Ray Serve beside vLLM (a download of about 200 MB)"
	$(@D)/bin/python -m pip install --quiet "ray[serve]==2.60.0" pyarrow boto3 jsonref jsonschema hf_transfer async-timeout typer
	touch $@
