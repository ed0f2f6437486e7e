# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Kinds of cache between engines of other tensor parallelism: the tokens, and the bytes that each rank needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_kinds import TOKENS, expected_bytes, lend, prompts, reference

if TYPE_CHECKING:
    from conftest import Pair

from row_engines import name

# What every rank of the reader pulls although others do, too: B and C of two layers, where they have one group.
SHARED = {"Mamba2": 2 * 2 * 32 * 3 * 4}
RANKS = ((1, 2), (2, 1))
CASES = [(row, *ranks) for row in ("window", "Mamba2", "gated delta net") for ranks in RANKS]


@pytest.mark.kinds
@pytest.mark.parametrize("unequal", CASES, indirect=True, ids=lambda case: f"{case[0]} {case[1]}-{case[2]}")
def test_kinds_between_unequal_ranks(unequal: Pair) -> None:
    row, ranks = unequal.row, int(unequal.reader.options.get("tensor_parallel_size", 1))
    lengths = [length for length in row.lengths if length > 1][::3]
    asked = prompts(lengths)
    expected = reference(unequal, asked)
    requests = [
        {"id": name("decode"), "prompt": prompt, "max_tokens": TOKENS, "kv_transfer_params": ticket}
        for prompt, ticket in zip(asked, lend(unequal, asked), strict=True)
    ]
    answers = [unequal.reader.ask([request])[0] for request in requests]
    unequal.owner.wait_until_idle()
    records = unequal.reader.records()
    for request, length in zip(requests, lengths, strict=True):
        mine = [record for record in records if record["request_id"].startswith(request["id"] + "-")]
        assert sorted(record["rank"] for record in mine) == list(range(ranks))
        assert {record["status"] for record in mine} == {"ok"}, mine
        pulled = sum(record["bytes"] for record in mine)
        assert pulled == expected_bytes(unequal, length) + (ranks - 1) * SHARED.get(row.name, 0)
    assert [answer["tokens"] for answer in answers] == [answer["tokens"] for answer in expected]
