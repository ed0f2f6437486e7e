# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's HTTP client against servers that speak byte by byte, also wrongly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from kvdirect.router.exchange import Exchange, ExchangeError
from kvdirect.router.http_client import Client, ConnectError
from kvdirect.router.origin import Origin

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\n"
Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Answers each request with what `speak` writes; `connections` has the number of requests on each."""

    speak: Speak
    url: str = ""
    connections: list[int] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    ended: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.connections)
        self.connections.append(0)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                    self.connections[number] += 1
                    await self.speak(writer)
        finally:
            self.ended += 1
            writer.close()


@contextlib.asynccontextmanager
async def serving(speak: Speak) -> AsyncIterator[tuple[Server, Client]]:
    server = Server(speak)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with Client() as client:
        try:
            yield server, client
        finally:
            listening.close()


def says(*parts: bytes, close: bool = False) -> Speak:
    async def speak(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005)  # so that most parts are reads of their own
        if close:
            writer.close()

    return speak


async def ask(server: Server, client: Client, content: bytes | None = None) -> Exchange:
    return await client.send("GET", server.url, "/x", [(b"a", b"b")], content, connect_seconds=5.0)


async def whole(exchange: Exchange) -> bytes:
    body = b""
    while part := await exchange.part(5.0):
        body += part
    exchange.close()
    return body


def run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("parts", "close", "body"),
    [
        ([OK], False, b"ok"),
        ([bytes([byte]) for byte in OK], False, b"ok"),
        (
            [HEAD + b"transfer-encoding: chunked\r\n\r\n2\r", b"\nok\r\n", b"1;x=y\r\n!\r\n0\r\nt: v\r\n\r\n"],
            False,
            b"ok!",
        ),
        ([b"HTTP/1.1 100 Continue\r\na: b\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nc: d\r\n\r\n" + OK], False, b"ok"),
        ([HEAD + b"\r\nuntil ", b"the end"], True, b"until the end"),
        ([b"HTTP/1.0 200 OK\r\n\r\nold"], True, b"old"),
        ([b"HTTP/1.1 204 No\r\n\r\n"], False, b""),
    ],
    ids=["whole", "bytes", "chunked", "announced", "until-end", "http-1.0", "no-body"],
)
def test_answers(parts: list[bytes], close: bool, body: bytes) -> None:
    async def work() -> None:
        async with serving(says(*parts, close=close)) as (server, client):
            exchange = await ask(server, client)
            assert not {name for name, _ in exchange.headers} & {b"a", b"c", b"t"}
            assert await whole(exchange) == body
            assert await whole(await ask(server, client)) == body
            assert server.connections == ([1, 1] if close else [2])
            assert server.heads[0].startswith(b"GET /x HTTP/1.1\r\nhost: 127.0.0.1:")

    run(work())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "closed before the answer was complete"),
        ([HEAD], "closed before the answer was complete"),
        ([HEAD + b"content-length: 5\r\n\r\nha"], "closed before the answer was complete"),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n"], "closed before the answer was complete"),
        ([b"SSH-2.0-x\r\n"], "is not HTTP/1.1"),
        ([HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok"], "is not HTTP/1.1"),
        ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], "closed|not HTTP"),
        ([HEAD, *[b"x: " + b"y" * 8000 + b"\r\n"] * 400], "a head of more than"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 400] * 12, "a head of more than"),
    ],
    ids=[
        "nothing",
        "half-head",
        "short",
        "half-chunked",
        "ssh",
        "two-lengths",
        "upgrade",
        "endless-head",
        "announcing",
    ],
)
def test_what_is_no_answer_is_an_error(parts: list[bytes], words: str) -> None:
    async def work() -> None:
        async with serving(says(*parts, close=True)) as (server, client):
            with pytest.raises(ExchangeError, match=words):
                await whole(await ask(server, client))

    run(work())


@pytest.mark.parametrize(
    "parts",
    [[OK + OK], [OK + b"junk"], [OK, b"unasked"], [HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok"]],
    ids=["twice", "junk", "unasked", "close"],
)
def test_a_connection_that_is_not_clean_is_not_used_again(parts: list[bytes]) -> None:
    async def work() -> None:
        async with serving(says(*parts)) as (server, client):
            for _ in range(3):
                assert await whole(await ask(server, client)) == b"ok"
                await asyncio.sleep(0.05)
            assert server.connections == [1, 1, 1]

    run(work())


def test_a_connection_rests_for_less_than_the_five_seconds_that_servers_keep_it() -> None:
    async def work() -> None:
        async with serving(says(OK)) as (server, client):
            await whole(await ask(server, client))
            assert server.ended == 0
            async with asyncio.timeout(4.5):
                while server.ended == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    run(work())


def test_what_nobody_takes_is_not_read() -> None:
    sent = 0

    async def speak(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async def work() -> None:
        async with serving(speak) as (server, client):
            exchange = await ask(server, client)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
            assert sent < 16 << 20  # what sockets hold, of 400 MB a second
            taken, wanted = 0, sent + (4 << 20)
            while taken < wanted:  # it goes on when some was taken
                taken += len(await exchange.part(5.0))
            exchange.close()
            while server.ended == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(work())


def test_a_part_that_does_not_come_in_time_and_one_that_does() -> None:
    async def work() -> None:
        async with serving(says(HEAD + b"content-length: 9\r\n\r\n1", b"2", b"3")) as (server, client):
            exchange = await ask(server, client)
            body = b""
            while len(body) < 3:
                body += await exchange.part(0.5)
            with pytest.raises(TimeoutError):
                await exchange.part(0.5)
            assert body == b"123"
            exchange.close()

    run(work())


def test_a_refused_connection_is_told_from_a_broken_one() -> None:
    async def work() -> None:
        async with Client() as client:
            with pytest.raises(ConnectError, match="ConnectionRefusedError"):
                await client.send("GET", "http://127.0.0.1:1", "/", [], None, connect_seconds=5.0)

    run(work())


def test_what_a_request_names_of_its_url() -> None:
    assert Origin.of("http://h:8/p q/é") == Origin("h", 8, False, b"h:8", b"/p%20q/%C3%A9")
    assert Origin.of("https://[::1]") == Origin("::1", 443, True, b"[::1]", b"")
    assert Origin.of("http://Bücher.example:1").named == b"xn--bcher-kva.example:1"
    with pytest.raises(ValueError, match="too long"):
        Origin.of("http://" + "x" * 70)


@pytest.mark.parametrize("rest", [b"x: y\r\n" * 40_000, b"1;" + b"z" * 300 + b"\r\na\r\n"])
def test_what_is_around_a_body_is_bounded(rest: bytes) -> None:
    """Trailers without end, and chunks with more around them than in them: nobody sees them, and they cost time."""
    begin = b"2\r\nok\r\n" + (b"0\r\n" if rest.startswith(b"x") else b"")
    more = [rest] if rest.startswith(b"x") else [rest * 100] * 20

    async def run() -> None:
        async with serving(says(HEAD + b"transfer-encoding: chunked\r\n\r\n" + begin, *more)) as (server, client):
            with pytest.raises(ExchangeError, match="around its body"):
                await whole(await ask(server, client))

    asyncio.run(run())


def test_a_head_is_bounded_also_where_it_ends_in_the_same_read() -> None:
    head = HEAD + b"".join(b"x%d: %b\r\n" % (number, b"y" * 1000) for number in range(100))

    async def run() -> None:
        async with serving(says(head + b"content-length: 2\r\n\r\nok")) as (server, client):
            with pytest.raises(ExchangeError, match="a head of more than"):
                await whole(await ask(server, client))

    asyncio.run(run())


def test_an_idle_connection_that_the_other_side_has_ended_is_not_taken() -> None:
    async def run() -> None:
        async with serving(says(OK)) as (server, client):
            assert await whole(await ask(server, client)) == b"ok"
            (kept,) = client._idle[Origin.of(server.url)]
            kept._transport.close()  # as it does itself in the turn in which the end comes
            assert await whole(await ask(server, client)) == b"ok"
            assert server.connections == [1, 1]

    asyncio.run(run())


def test_a_connection_over_which_a_request_has_not_gone_out_is_not_used_again() -> None:
    """The instance answered before it took all of it."""

    async def run() -> None:
        async with serving(says(OK)) as (server, client):
            large = await ask(server, client, b"x" * (64 << 20))
            assert await whole(large) == b"ok"
            assert not client._idle
            assert await whole(await ask(server, client)) == b"ok"
            assert server.connections == [1, 1]

    asyncio.run(run())
