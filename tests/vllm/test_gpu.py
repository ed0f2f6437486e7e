# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two real engines on one GPU, the cache pulled from GPU memory into GPU memory: the same tokens as one engine.

With CUDA graphs and asynchronous scheduling, as vLLM starts by itself, in both layouts and on both model runners.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from engines import Spec, block_bytes, blocks_to_move, disaggregated, name, only_pull, text, tokens

import kvtransfer

if TYPE_CHECKING:
    from engines import Engine
    from pool import EnginePool


def missing() -> str:
    """Why this cannot run here; empty if it can."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    platforms = pytest.importorskip("vllm.platforms", reason="vLLM is not installed here")
    if not torch.cuda.is_available():
        return "no CUDA GPU"
    if not platforms.current_platform.is_cuda():
        return "the vLLM that is installed here is not the one for CUDA"
    return "" if "cuda_ipc" in kvtransfer.KNOWN_LANES else "this build of kvtransfer has no CUDA parts"


MISSING = missing()
pytestmark = [pytest.mark.vllm, pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

# float32, so that chunks of other sizes do not flip a token; three engines share the GPU.
OPTIONS = (("--attention-backend", "TRITON_ATTN"), ("--gpu-memory-utilization", "0.2"))
ONLY = (("lanes", '["cuda_ipc"]'), ("require_lane", '"cuda_ipc"'))
LENGTHS = (2, 33, 64, 150, 400, 700, 1500)


def engines(pool: EnginePool, layout: str, runner: str, *, fault: str = "") -> list[Engine]:
    """One to compare with, the owner, the reader."""
    environment = (("VLLM_KV_CACHE_LAYOUT", layout), ("VLLM_USE_V2_MODEL_RUNNER", runner))
    extra = ONLY + ((("fault", f'"{fault}"'),) if fault else ())
    return pool.get(
        Spec(options=OPTIONS, environment=environment),
        Spec("kv_producer", extra=ONLY, options=OPTIONS, environment=environment),
        Spec("kv_consumer", extra=extra, options=OPTIONS, environment=environment),
    )


@pytest.mark.parametrize(("layout", "runner"), [("NHD", "0"), ("HND", "1"), ("HND", "0"), ("NHD", "1")])
def test_same_tokens_and_exactly_the_bytes(pool: EnginePool, layout: str, runner: str) -> None:
    """One after the other, and then all at once: decoding goes on while blocks land."""
    aggregated, owner, reader = engines(pool, layout, runner)
    prompts = [text(length) for length in LENGTHS * 3]
    expected = [tokens(aggregated.complete(prompt, name("reference"), max_tokens=64)) for prompt in prompts]

    def run(prompt: str) -> list[int]:
        request_id = name("gpu")
        got = tokens(disaggregated(owner, reader, prompt, request_id, max_tokens=64))
        record = only_pull(reader, request_id)
        assert (record["status"], record["lane"]) == ("ok", "cuda_ipc")
        assert record["bytes"] == blocks_to_move(len(prompt)) * block_bytes(pool)
        return got

    alone = len(LENGTHS)
    assert [run(prompt) for prompt in prompts[:alone]] == expected[:alone]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, prompts[alone:])) == expected[alone:]


def test_spoiled_blocks_change_most_completions(pool: EnginePool) -> None:
    """Else the comparison above would say nothing."""
    aggregated, owner, reader = engines(pool, "HND", "0", fault="zero")
    wrong = 0
    for length in LENGTHS[1:]:
        prompt = text(length)
        expected = tokens(aggregated.complete(prompt, name("reference")))
        wrong += tokens(disaggregated(owner, reader, prompt, name("corrupted"))) != expected
    assert wrong > len(LENGTHS) // 2
