# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One proxy for all tests that leave it and its two backends running."""

from collections.abc import Iterator

import pytest
from played_backend import Backend, Reply
from router_process import Proxy, Stack

PARAMS = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "engine-1",
    "remote_block_ids": [[3, 1, 2], [7, 8]],
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
}


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], "--max-body-bytes", "100000", "--body-timeout", "1") as proxy,
    ):
        yield Stack(proxy, prefill, decode)


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The shared proxy, both backends healthy and silent; prefill hands over PARAMS."""
    running.prefill.reset()
    running.decode.reset()
    running.prefill.reply = Reply(params=PARAMS)
    running.proxy.wait_health("prefill", True)
    running.proxy.wait_health("decode", True)
    running.proxy.wait_idle()
    yield running
    running.prefill.gate.set()
    running.decode.gate.set()


@pytest.fixture
def params() -> dict[str, object]:
    return dict(PARAMS)
