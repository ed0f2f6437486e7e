# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Make a tiny Llama with random weights and a byte-level tokenizer: `python tools/tiny_model.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from kvdirect.harness.model import make_tiny_llama

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/tiny_model.py FOLDER")
    make_tiny_llama(Path(sys.argv[1]))
