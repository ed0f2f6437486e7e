# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Other projects' routers in front of engines with our connector: the same tokens, pulled, and nothing left behind.

`vllm-router` and Dynamo's choice of a protocol are their own programs; the others are played (foreign_clients.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
    Engine,
    block_bytes,
    blocks_to_move,
    completion_body,
    ended_leases,
    name,
    text,
    wait_until_ended,
    wait_until_idle,
)
from foreign_clients import (
    Aibrix,
    Foreign,
    LlmdSidecar,
    ProductionStack,
    ProductionStackBefore,
    ToyProxy,
    go_json,
    sonic_json,
    through_doubles,
)

if TYPE_CHECKING:
    import httpx
    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PLAYED: tuple[type[Foreign], ...] = (ToyProxy, ProductionStack, LlmdSidecar, Aibrix)


def completion(prompt: str, **more: object) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, completion_body(prompt, 12, **more)


def chat(prompt: str, **more: object) -> tuple[str, dict[str, Any]]:
    """With the newer name of the limit, and characters that encoders treat differently."""
    messages = [{"role": "system", "content": "<b>&\u2028é"}, {"role": "user", "content": prompt}]
    body = completion_body("", 0, messages=messages, max_completion_tokens=12, **more)
    del body["prompt"], body["max_tokens"]
    return CHAT, body


def tokens_of(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        answers = [answer.json()]
    else:
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        answers = [json.loads(line) for line in lines]
    return [token for one in answers for choice in one["choices"] for token in choice.get("token_ids") or ()]


class Watch:
    """What happens at both engines from here on."""

    def __init__(self, owner: Engine, reader: Engine) -> None:
        self.owner, self.reader = owner, reader
        self.before, self.completed = len(reader.pulls()), ended_leases(owner, "completed")

    def one_pull(self) -> dict[str, Any]:
        """The one pull that there was; what it was from has ended, and nothing is held."""
        [record] = self.reader.pulls()[self.before :]
        assert record["status"] == "ok", record
        wait_until_ended(self.owner, "completed", self.completed + 1)
        wait_until_idle(self.reader)
        return record


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", [completion, chat])
@pytest.mark.parametrize("router", PLAYED)
def test_played(pool: EnginePool, trio: list[Engine], router: type[Foreign], kind: Any, streamed: bool) -> None:  # noqa: ANN401
    aggregated, owner, reader = trio
    prompt = text(200)
    more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {"stream": False}
    path, body = kind(prompt, min_tokens=4, **more)
    expected = tokens_of(aggregated.post(path, body, name("reference")))
    assert len(expected) == 12
    watch = Watch(owner, reader)
    answer = router(owner.url, reader.url).ask(path, body, name("foreign"))
    assert tokens_of(answer) == expected
    record = watch.one_pull()
    if kind is completion:
        assert record["bytes"] == blocks_to_move(200) * block_bytes(pool)
