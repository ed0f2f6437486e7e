# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Both legs at once in the words of Mooncake's connector: `GET /query`, transfer_id, remote_bootstrap_addr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from test_awaited import port_of, until_decided
from vllm.v1.request import RequestStatus

from kvdirect.errors import WireError
from kvdirect.handshake.server import HandshakeServer
from kvdirect.transfer_params import claim_in, parse_awaited

if TYPE_CHECKING:
    from collections.abc import Callable

    from played_scheduler import Played

TRANSFER = "xfer-5f0c5a52-3c07-4d0b-8a5e-6a1a6c0d9f11"


def test_the_dance_of_a_router_that_knows_mooncake(play: Callable[..., Played]) -> None:
    owner, reader = play("kv_producer", bootstrap=True), play("kv_consumer")
    address = f"http://127.0.0.1:{port_of(owner)}"
    answer = httpx.get(f"{address}/query", timeout=10.0)
    assert answer.status_code == 200
    assert answer.json() == {"0": {"engine_id": "self", "worker_addr": {}}}
    there = owner.add(100, {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": TRANSFER})
    asks = {"remote_bootstrap_addr": address, "remote_engine_id": answer.json()["0"]["engine_id"]}
    here = reader.add(
        100, {"do_remote_decode": False, "do_remote_prefill": True, "transfer_id": TRANSFER, **asks}, max_tokens=2
    )
    reader.answer(reader.schedule()[0])
    assert reader.all_blocks_are_free
    for _ in range(2):
        owner.answer(owner.schedule()[0])
    assert there.is_finished()
    _, metadata = until_decided(reader, here)
    assert here.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    (order,) = metadata.pulls
    assert (order.start, order.stop, order.watermark) == (0, 128, 99)


def test_it_answers_only_where_it_is_switched_on_and_only_that(play: Callable[..., Played]) -> None:
    silent = play("kv_producer")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port_of(silent)}/query", timeout=10.0)
    assert silent.scheduler.connector.scheduler._server.dropped == {"not_ours": 1}
    talks = play("kv_producer", bootstrap=True)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port_of(talks)}/metrics", timeout=10.0)


def test_an_engine_that_starts_still_says_so() -> None:
    server = HandshakeServer("127.0.0.1", 0, bootstrap=3)
    try:
        assert httpx.get(f"http://127.0.0.1:{server.port}/query", timeout=10.0).status_code == 503
    finally:
        server.close()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("http://10.0.0.1:8998", ("10.0.0.1", 8998)),
        ("10.0.0.1:8998", ("10.0.0.1", 8998)),
        ("http://[fd00::1]:8998", ("fd00::1", 8998)),
        ("http://prefill-0.prefill.svc:8998/", ("prefill-0.prefill.svc", 8998)),
    ],
)
def test_addresses(text: str, where: tuple[str, int]) -> None:
    params = {"transfer_id": TRANSFER, "remote_bootstrap_addr": text}
    assert parse_awaited(params) == (*where, claim_in(params))


@pytest.mark.parametrize(
    "text", ["http://10.0.0.1", "https://10.0.0.1:8998", "http://10.0.0.1:99999", "http://[fd00:8998", 8998, ""]
)
def test_addresses_that_make_no_sense(text: object) -> None:
    with pytest.raises(WireError, match="remote_bootstrap_addr: expected"):
        parse_awaited({"transfer_id": TRANSFER, "remote_bootstrap_addr": text})


@pytest.mark.parametrize("transfer", ["", "x" * 257, 7, None, ["a"]])
def test_transfer_ids_that_are_none(transfer: Any) -> None:  # noqa: ANN401
    params = {"transfer_id": transfer, "remote_bootstrap_addr": "http://10.0.0.1:8998"}
    assert claim_in(params) == ""
    assert parse_awaited(params) is None


def test_the_routers_own_claim_comes_first_and_each_transfer_has_another() -> None:
    own = "0123456789abcdef" * 2
    assert claim_in({"kvdirect_claim": own, "transfer_id": TRANSFER}) == own
    assert claim_in({"kvdirect_claim": "x", "transfer_id": TRANSFER}) == ""
    claims = {claim_in({"transfer_id": f"{TRANSFER}{number}"}) for number in range(100)}
    assert len(claims) == 100
    assert all(len(claim) == 32 for claim in claims)
