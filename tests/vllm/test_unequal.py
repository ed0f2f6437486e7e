# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Owner and reader that are cut in other ways: ranks, pipeline stages, block sizes. The same tokens, and the bytes that
the model's own description says, from every rank that has them and from no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    BLOCK,
    DECODE,
    PREFILL,
    SLEEPING,
    Engine,
    Spec,
    block_bytes,
    disaggregated,
    name,
    text,
    tokens,
    wait_until_idle,
)

if TYPE_CHECKING:
    from pool import EnginePool

# Neither ranks that spin until their peer is done nor a compiler suit a machine of two cores.
FEW_CORES = (*SLEEPING, ("TORCHDYNAMO_DISABLE", "1"))


def cut(role: str, *options: tuple[str, str]) -> Spec:
    return Spec(role, options=options, environment=FEW_CORES)


def ranks(role: str, count: int) -> Spec:
    return cut(role, ("--tensor-parallel-size", str(count)))


def stages(role: str, count: int) -> Spec:
    # Compiled: without, nothing warms vLLM 0.32 up on a CPU, and its second stage fails on the first request.
    compiled = ("--no-enforce-eager", "--enable-prefix-caching")
    return Spec(role, options=(("--pipeline-parallel-size", str(count)), compiled), environment=SLEEPING)


def blocks(role: str, size: int) -> Spec:
    return cut(role, ("--block-size", str(size)))


OWNER, READER = "kv_producer", "kv_consumer"
# Owner, reader, the reader's workers, and the share of a prompt's bytes that each of them pulls.
PAIRS = {
    "TP 2-4": (ranks(OWNER, 2), ranks(READER, 4), 4, 1 / 2),  # two heads, so that two ranks have each
    "TP 4-2": (ranks(OWNER, 4), ranks(READER, 2), 2, 1 / 2),
    "TP 4-1": (ranks(OWNER, 4), DECODE, 1, 1),
    "PP 2-1": (stages(OWNER, 2), DECODE, 1, 1),
    "PP 1-2": (PREFILL, stages(READER, 2), 2, 1 / 2),
    "PP 2-TP 2": (stages(OWNER, 2), ranks(READER, 2), 2, 1 / 2),
    # Attention on a CPU takes multiples of 32.
    "block 32-64": (PREFILL, blocks(READER, 64), 1, 1),
    "block 64-32": (blocks(OWNER, 64), DECODE, 1, 1),
    "block 96-64": (blocks(OWNER, 96), blocks(READER, 64), 1, 1),
}


def rounded(tokens_to_move: int, size: int) -> int:
    return -(-tokens_to_move // size) * size


@pytest.mark.vllm
@pytest.mark.kinds
@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=pytest.mark.engines(AGGREGATED, *pair[:2]), id=key) for key, pair in PAIRS.items()],
)
def test_engines_that_are_cut_in_other_ways(pool: EnginePool, pair: tuple[Spec, Spec, int, float]) -> None:
    owner_spec, reader_spec, workers, share = pair
    aggregated, owner, reader = pool.get(AGGREGATED, owner_spec, reader_spec)
    sizes = [int(dict(spec.options).get("--block-size", BLOCK)) for spec in (owner_spec, reader_spec)]
    for length in (2, 17, 33, 49, 200, 700):
        prompt, request_id = text(length), name("cut")
        got = tokens(disaggregated(owner, reader, prompt, request_id))
        records = pulled(reader, request_id)
        assert sorted(record["rank"] for record in records) == list(range(workers))
        # Whole blocks of the reader's, as far as the owner's reach.
        positions = min(rounded(length - 1, sizes[1]), rounded(length, sizes[0]))
        assert [record["bytes"] for record in records] == [positions * block_bytes(pool) // BLOCK * share] * workers
        assert got == tokens(aggregated.complete(prompt, name("reference")))
    wait_until_idle(owner, reader)


def pulled(reader: Engine, request_id: str) -> list[dict[str, Any]]:
    records = reader.pulls(request_id)
    assert {record["status"] for record in records} == {"ok"}, records
    return records
