# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router where uvloop is not installed, on asyncio's own loop; all other tests have it on uvloop if it is there."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_backend import Backend, Reply, wait_until
from raw_http import connect
from router_process import Proxy


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Backend, Proxy]]:
    """A decode instance, and a router that finds no uvloop."""
    (tmp_path / "uvloop.py").write_text('raise ModuleNotFoundError("hidden by a test", name="uvloop")\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy:
        yield decode, proxy


def test_it_serves_and_drains(pair: tuple[Backend, Proxy]) -> None:
    decode, proxy = pair
    decode.reply = Reply(params={"ticket": 1})
    assert proxy.complete().json()["served_by"] == "decode"
    assert proxy.complete(stream=True).content.endswith(b"data: [DONE]\n\n")
    decode.reply = Reply(hold=True)
    with proxy.client.stream("POST", "/v1/completions", json={"prompt": ["a", "b"], "stream": True}) as answer:
        parts = answer.iter_bytes()
        assert b"first" in next(parts)
        proxy.process.terminate()
        wait_until(lambda: proxy.client.get("/health").status_code == 503, "it to drain")
        decode.gate.set()
        assert b"".join(parts).endswith(b"data: [DONE]\n\n")
    assert proxy.finish() == 0


def test_without_descriptors_there_are_few_lines_in_the_log(pair: tuple[Backend, Proxy]) -> None:
    _, proxy = pair
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as strangers:
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (30, limit[1]))
        for _ in range(60):
            strangers.enter_context(connect(proxy.url))
        wait_until(lambda: "no connection can be accepted now" in proxy.log, "the line")
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, limit)
        wait_until(lambda: proxy.client.get("/health").status_code == 200, "the next client")
    assert len(proxy.log.splitlines()) < 20
