# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Streams meet aborts, preemptions, returns and resets: no wrong byte is accepted, and nothing is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from stream_soak import fates, soak

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 150


@pytest.mark.parametrize("lane", ["message", "shm", "cma"])
def test_no_stale_byte_is_accepted_and_nothing_is_left(model: Path, lane: str) -> None:
    with soak(model, [lane]) as one:
        account = one.run(fates(REQUESTS, seed=7))
    assert account["wrong_positions"] == 0
    assert account["streamed"] > REQUESTS / 10, account  # how many depends on the machine
    assert sum(account["decodes"].values()) == sum(account["prefills"].values()) == REQUESTS
    assert set(account["faults"]) == {"reader aborts", "owner aborts", "preempted", "given back", "all revoked"}


def test_bytes_that_are_not_the_prompts_are_noticed(model: Path) -> None:
    with soak(model, ["message"], fault="permute") as one:
        account = one.run(fates(5, seed=7))
    assert account["wrong_positions"] > 0
