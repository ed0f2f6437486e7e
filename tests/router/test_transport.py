# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What clients may do to a connection, and how it ends all the same."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from played_backend import DEADLINE, Backend, Reply, wait_until
from raw_http import all_of, connect
from router_process import Proxy, Stack

from kvdirect.router.bounded_http import BoundedHttp
from kvdirect.router.config import ProxyConfig
from kvdirect.router.connections import Connections
from kvdirect.router.crew import Crew

CONFIG = ProxyConfig(prefill=("http://127.0.0.1:1",), decode=("http://127.0.0.1:1",))


async def hurried(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 (ASGI's)
    """Answers before the body has come."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def serve(talk: Callable[[socket.socket, BoundedHttp], Awaitable[None]], *, keep_alive: int) -> None:
    """Serve one connection of BoundedHttp, and talk to it."""
    config = uvicorn.Config(hurried, log_config=None, lifespan="off", ws="none", timeout_keep_alive=keep_alive)
    config.load()
    make = partial(BoundedHttp, Connections(Crew.alone(CONFIG), 4), 20.0)
    theirs, ours = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        ours.setblocking(False)
        _, served = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: make(config=config, server_state=uvicorn.server.ServerState(), app_state={}), ours
        )
        await talk(theirs, served)


def test_a_connection_whose_body_ends_after_its_answer_does_not_stay_for_ever() -> None:
    async def talk(sock: socket.socket, _: BoundedHttp) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 200")
        await loop.sock_sendall(sock, b"cd")
        async with asyncio.timeout(DEADLINE):
            while await loop.sock_recv(sock, 4096):
                pass

    asyncio.run(serve(talk, keep_alive=1))


def test_a_connection_that_takes_nothing_gives_way_at_once() -> None:
    async def talk(sock: socket.socket, served: BoundedHttp) -> None:
        del sock
        served.transport.write(b"x" * (16 << 20))
        served.give_way()
        async with asyncio.timeout(DEADLINE):
            while served.transport.get_write_buffer_size():  # noqa: ASYNC110 (the transport's, which tells nobody)
                await asyncio.sleep(0.01)

    asyncio.run(serve(talk, keep_alive=60))


@pytest.mark.parametrize("framing", ["content-length: 36", "transfer-encoding: chunked"])
def test_a_request_that_would_rather_speak_something_else_keeps_its_body(stack: Stack, framing: str) -> None:
    body = b'{"model":"m","prompt":["ab","cdef"]}'
    assert len(body) == 36
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if "chunked" in framing else body
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nConnection: close, Upgrade, HTTP2-Settings\r\n{framing}\r\n"
    head += "Upgrade: h2c\r\nHTTP2-Settings: AAEA\r\n\r\n"
    with connect(stack.proxy.url) as sock:
        sock.sendall(head.encode() + sent)
        answer = all_of(sock)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert stack.decode.only.raw == body


def test_a_client_that_does_not_even_take_the_error_has_left() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--idle-timeout", "1") as proxy:
        decode.reply = Reply(first=b"data: " + b"x" * 30_000_000 + b"\n\n", break_off=True)
        body = b'{"stream": true, "prompt": ["a", "b"]}'
        with connect(proxy.url) as sock:
            sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: proxy.counter("requests", "client_gone") == 1, "it to be let go", 3 * DEADLINE)
            proxy.wait_idle()  # and its log has no trace, which Proxy looks for


def test_what_a_client_has_not_read_of_a_closed_connection_does_not_stay() -> None:
    """The kernel would keep it for as long as the client acknowledges probes."""
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--idle-timeout", "1") as proxy:
        decode.reply = Reply(raw=b"x" * 30_000_000)
        body = b'{"prompt": ["a", "b"]}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        with connect(proxy.url) as sock:
            sock.sendall(head + body)
            wait_until(lambda: proxy.outcomes() == {"ok": 1}, "it to be answered")
            # Its own and that of who asks.
            wait_until(lambda: proxy.state()["connections"]["open"] == 1, "it to be gone", 5 * DEADLINE)
