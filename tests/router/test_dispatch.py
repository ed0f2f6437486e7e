# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Both legs of a request at once, and what becomes of the decode leg when the other one fails."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from played_backend import DEADLINE, Backend, Reply, wait_until
from router_process import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

# As an engine of ours tells: only there is a claim understood.
TICKET = {
    "do_remote_prefill": True,
    "remote_host": "10.0.0.7",
    "remote_port": 14579,
    "remote_request_id": "cmpl-1",
    "kvdirect_lease": "1:0:1:1:1",
}


class Pair:
    """A router that sends both legs at once, once the prefill instance is known; no request is counted of before."""

    def __init__(self, proxy: Proxy, prefill: Backend, decode: Backend) -> None:
        self.proxy, self.prefill, self.decode = proxy, prefill, decode
        self.prefill.reply = Reply(params=TICKET)
        assert self.proxy.complete().status_code == 200
        assert self.decode.only.body["kv_transfer_params"] == TICKET
        self.reset()

    def reset(self) -> None:
        for backend in (self.prefill, self.decode):
            backend.reset()
        self.prefill.reply = Reply(params=TICKET)

    def claim(self) -> str:
        """Of the request that prefill was asked."""
        return str(self.prefill.only.body["kv_transfer_params"]["kvdirect_claim"])


@pytest.fixture
def pair() -> Iterator[Pair]:
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], "--dispatch", "concurrent", "--health-interval", "0.5") as proxy,
    ):
        yield Pair(proxy, prefill, decode)


def params_of(backend: Backend, number: int = 0) -> dict[str, Any] | None:
    found: dict[str, Any] | None = backend.seen[number].body.get("kv_transfer_params")
    return found


def test_decode_is_asked_before_prefill_has_answered(pair: Pair) -> None:
    pair.prefill.reply = Reply(params=TICKET, hold=True)
    pair.decode.reply = Reply(hold=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pair.proxy.complete)
        wait_until(lambda: len(pair.prefill.seen) == len(pair.decode.seen) == 1, "both to be asked")
        claim = pair.claim()
        assert re.fullmatch(r"[0-9a-f]{32}", claim)
        assert params_of(pair.decode) == {
            "do_remote_prefill": True,
            "remote_host": "10.0.0.7",
            "remote_port": 14579,
            "kvdirect_claim": claim,
        }
        assert not asked.done()
        pair.prefill.gate.set()
        pair.decode.gate.set()
        assert asked.result(DEADLINE).status_code == 200
    pair.proxy.wait_idle()
    assert pair.prefill.returned == pair.decode.returned == []
    assert len(pair.decode.seen) == 1


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(status=400), Reply(params=None)])
def test_where_prefill_fails_decode_is_asked_again_without_a_ticket(pair: Pair, reply: Reply) -> None:
    """What it was asked first is cancelled: it would wait for an owner that has nothing."""
    pair.prefill.reply = reply
    pair.decode.reply = Reply(hold=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pair.proxy.complete)
        wait_until(lambda: len(pair.decode.seen) == 2, "decode to be asked again")
        assert params_of(pair.decode, 0) is not None
        assert params_of(pair.decode, 1) is None
        pair.decode.gate.set()
        assert asked.result(DEADLINE).status_code == 200


def test_a_prefill_instance_that_dies_costs_one_more_question(pair: Pair) -> None:
    pair.prefill.stop()
    pair.decode.reply = Reply(hold=True)  # as one that waits for a ticket
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pair.proxy.complete)
        wait_until(lambda: bool(pair.decode.seen) and params_of(pair.decode, -1) is None, "decode to be told of none")
        pair.decode.gate.set()
        assert asked.result(DEADLINE).status_code == 200
    assert len(pair.decode.seen) <= 2


def test_a_client_that_leaves_cancels_both_legs_and_the_claim_is_given_back(pair: Pair) -> None:
    pair.prefill.reply = Reply(params=TICKET, hold=True)
    pair.decode.reply = Reply(hold=True)
    with pytest.raises(httpx.ReadTimeout):
        pair.proxy.client.post("/v1/completions", json={"prompt": "p"}, timeout=0.7)
    wait_until(lambda: pair.prefill.cancelled.is_set() and pair.decode.cancelled.is_set(), "both legs to be cancelled")
    wait_until(lambda: len(pair.prefill.returned) == 1, "the claim to come back")
    body = pair.prefill.returned[0].body
    assert body["kv_transfer_params"] == {"do_remote_prefill": True, "kvdirect_claim": pair.claim()}


def test_the_first_request_of_an_instance_is_sequential() -> None:
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], "--dispatch", "concurrent") as proxy,
    ):
        prefill.reply = Reply(params=TICKET)
        assert proxy.complete().status_code == 200
        assert params_of(decode) == TICKET


def test_other_connectors_are_asked_one_after_the_other() -> None:
    theirs = {key: value for key, value in TICKET.items() if key != "kvdirect_lease"}
    with (
        Backend("prefill") as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url], "--dispatch", "concurrent") as proxy,
    ):
        prefill.reply = Reply(params=theirs)
        for _ in range(2):
            assert proxy.complete().status_code == 200
        assert [one.body["kv_transfer_params"] for one in decode.seen] == [theirs, theirs]
