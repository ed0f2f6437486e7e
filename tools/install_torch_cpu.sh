#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Install torch for the CPU into the environment of the given Python, the version that vLLM is developed with or another:
#
#   tools/install_torch_cpu.sh .venv/bin/python [2.13.0]
set -euo pipefail

python=$1
torch=${2:-2.13.0}

pip() { "$python" -m pip "$@"; }

# "+cpu" names the CPU build, so that pip can never fall back to several GB of CUDA. Where pip is configured to find it,
# it is taken from there; elsewhere it comes from PyTorch's own index. aarch64 wheels on PyPI are CPU builds already.
want="torch==$torch+cpu"
[ "$(uname -m)" = aarch64 ] && want="torch==$torch"
if ! "$python" -c "import torch, sys; sys.exit(not torch.__version__.startswith('$torch'))" 2>/dev/null; then
  pip install --quiet "$want" 2>/dev/null || {
    echo "taking $want from PyTorch's CPU index"
    pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu "$want"
  }
fi
