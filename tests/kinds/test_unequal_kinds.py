# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Kinds of cache between engines of other tensor parallelism: the tokens, and the bytes that each rank needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from row_engines import name
from test_kinds import TOKENS, expected_bytes, lend, prompts, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Pair
    from test_kinds import Prompt

# What every rank of the reader pulls although others do, too: B and C of two layers, where they have one group.
SHARED = {"Mamba2": 2 * 2 * 32 * 3 * 4}
RANKS = ((1, 2), (2, 1))
CASES = [(row, *ranks) for row in ("window", "Mamba2", "gated delta net") for ranks in RANKS]


# In bfloat16 ranks of another number round otherwise, and one token of many may be another. Log-probabilities of the
# first one are off by 0.03 then; where a layer's state is missing, by 0.3 and more.
TOLERANCE = 0.1


def decoded(pair: Pair, asked: Sequence[Prompt]) -> dict[str, dict[str, Any]]:
    """Answers from tickets, one after the other, by request."""
    requests = [
        {"id": name("decode"), "prompt": prompt, "max_tokens": TOKENS, "kv_transfer_params": ticket}
        for prompt, ticket in zip(asked, lend(pair, asked), strict=True)
    ]
    return {request["id"]: pair.reader.ask([request])[0] for request in requests}


def right(pair: Pair, answer: dict[str, Any], expected: dict[str, Any]) -> bool:
    if pair.row.dtype == "float32":
        return bool(answer["tokens"] == expected["tokens"])
    off = abs(answer["logprobs"][0] - expected["logprobs"][0])
    return bool(answer["tokens"][0] == expected["tokens"][0]) and off < TOLERANCE


@pytest.mark.kinds
@pytest.mark.parametrize("unequal", CASES, indirect=True, ids=lambda case: f"{case[0]} {case[1]}-{case[2]}")
def test_kinds_between_unequal_ranks(unequal: Pair) -> None:
    row, ranks = unequal.row, int(unequal.reader.options.get("tensor_parallel_size", 1))
    lengths = [length for length in row.lengths if length > 1][::3]
    asked = prompts(lengths)
    expected = reference(unequal, asked)
    answers = decoded(unequal, asked)
    unequal.owner.wait_until_idle()
    records = unequal.reader.records()
    for request_id, length in zip(answers, lengths, strict=True):
        mine = [record for record in records if record["request_id"].startswith(request_id + "-")]
        assert sorted(record["rank"] for record in mine) == list(range(ranks))
        assert {record["status"] for record in mine} == {"ok"}, mine
        pulled = sum(record["bytes"] for record in mine)
        assert pulled == expected_bytes(unequal, length) + (ranks - 1) * SHARED.get(row.name, 0)
    assert [right(unequal, *two) for two in zip(answers.values(), expected, strict=True)] == [True] * len(lengths)
    if ranks == 1:  # the caches of several are in other processes
        unequal.reader.reset()
        unequal.reader.zero(unequal.reader.groups[0]["layers"][0])
        cleared = decoded(unequal, asked)
        assert not any(right(unequal, *two) for two in zip(cleared.values(), expected, strict=True))
