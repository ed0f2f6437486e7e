# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The engines of a live trace: small, alike, each able to do both roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvdirect.harness.model import LlamaShape
from kvdirect.harness.processes import vllm_engine
from kvdirect_bench.serving.contenders import sleeping

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kvdirect.harness.processes import ManagedProcess

    from .quota import Quota

# A few million weights: a step then takes half a CPU some tens of milliseconds.
SHAPE = LlamaShape(layers=8, hidden=384, intermediate=1024, heads=6, kv_heads=3, spread=0.1)
NAMES = ("first", "second", "third")
LENGTH = 1024
# Tokens and sequences of a step, and the memory of a cache that does not run out.
STEP_TOKENS, SEQUENCES = 1024, 8
_KV_BYTES = 200 << 20


def make_engines(model: Path, folder: Path, quotas: Sequence[Quota]) -> list[ManagedProcess]:
    """All of them, not yet started; each in its control group, where there are any."""
    engines = []
    for place, name in enumerate(NAMES):
        engine = vllm_engine(
            name,
            str(model),
            folder,
            options=(
                *("--dtype", "float32", "--max-model-len", str(LENGTH)),
                *("--max-num-batched-tokens", str(STEP_TOKENS), "--max-num-seqs", str(SEQUENCES)),
                *("--kv-cache-memory-bytes", str(_KV_BYTES)),
            ),
            transfer={"kv_connector": "kvdirect", "kv_port": 0, "kv_role": "kv_both"},
            offline=True,
        )
        engine.environment = {**engine.environment, **sleeping()}
        if quotas:
            engine.command = quotas[place].around(engine.command)
        engines.append(engine)
    return engines
