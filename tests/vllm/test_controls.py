# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Negative controls: with received blocks corrupted, or never pulled, the checks of test_pull.py must fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engines import (
    AGGREGATED,
    PREFILL,
    Engine,
    Spec,
    block_bytes,
    blocks_to_move,
    disaggregated,
    name,
    only_pull,
    text,
    tokens,
)

if TYPE_CHECKING:
    from pool import EnginePool

pytestmark = pytest.mark.vllm

LENGTHS = (20, 33, 64, 100, 150, 250, 400, 700)


def reader_with(fault: str) -> Spec:
    return Spec("kv_consumer", extra=(("fault", f'"{fault}"'),))


def differing(aggregated: Engine, owner: Engine, reader: Engine, pool: EnginePool) -> tuple[int, int]:
    """Completions that are not what one engine says, and pulls whose bytes are not what the geometry says."""
    wrong_tokens = wrong_bytes = 0
    for length in LENGTHS:
        prompt, request_id = text(length), name("control")
        expected = tokens(aggregated.complete(prompt, name("reference")))
        wrong_tokens += tokens(disaggregated(owner, reader, prompt, request_id)) != expected
        wrong_bytes += only_pull(reader, request_id)["bytes"] != blocks_to_move(length) * block_bytes(pool)
    return wrong_tokens, wrong_bytes


@pytest.mark.engines(lambda test: (AGGREGATED, PREFILL, reader_with(test.callspec.params["fault"])))
@pytest.mark.parametrize("fault", ["zero", "permute"])
def test_spoiled_blocks_change_most_completions(pool: EnginePool, fault: str) -> None:
    spec = reader_with(fault)
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, spec)
    wrong_tokens, wrong_bytes = differing(aggregated, owner, reader, pool)
    pool.stop(spec)
    assert "FAULT INJECTION IS ON" in reader.log
    assert wrong_tokens > len(LENGTHS) // 2
    assert wrong_bytes == 0


@pytest.mark.engines(AGGREGATED, PREFILL, reader_with("no_pull"))
def test_without_pulls_the_byte_check_fails(pool: EnginePool) -> None:
    spec = reader_with("no_pull")
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, spec)
    wrong_tokens, wrong_bytes = differing(aggregated, owner, reader, pool)
    pool.stop(spec)
    assert wrong_bytes == len(LENGTHS)
    assert wrong_tokens > len(LENGTHS) // 2
