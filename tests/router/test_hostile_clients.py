# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Clients that send without end, never end, or send what they must not: the router's memory and other clients."""

import contextlib
import itertools
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from played_backend import Backend, Reply, wait_until
from raw_http import all_of, connect, resident, send_all_of
from router_process import Proxy, Stack

MIB = 1 << 20
TOKEN = "0123456789abcdef-the-token"  # noqa: S105
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return str(path)


def completion(size: int) -> bytes:
    """A request whose body has so many bytes."""
    body = b'{"prompt":"' + b"x" * (size - 13) + b'"}'
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def endless(begin: bytes, part: bytes, mebibytes: int = 64) -> Iterator[bytes]:
    yield begin
    yield from itertools.repeat(part * (65536 // len(part)), mebibytes * MIB // 65536)


@pytest.mark.parametrize(
    ("begin", "part", "status"),
    [
        (b"GET /health HTTP/1.1\r\n", b"a: b\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\na: ", b"x", b"431"),
        (b"GET /", b"x", b"431"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n", b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\na: ", b"x", b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", b""),
    ],
    ids=["headers", "one value", "the path", "trailers", "one trailer", "a chunk's extension"],
)
def test_what_has_no_end_is_cut_off(stack: Stack, begin: bytes, part: bytes, status: bytes) -> None:
    before = resident(stack.proxy.process.pid)
    turned_away = stack.proxy.state()["connections"]["turned_away"]
    with connect(stack.proxy.url) as sock:
        sent = send_all_of(sock, endless(begin, part))
        assert stack.proxy.client.get("/health").status_code == 200
        assert sent < 16 * MIB, "what lies in sockets' buffers at most"
        assert resident(stack.proxy.process.pid) - before < 8 * MIB
        answer = all_of(sock)
        assert answer.startswith(b"HTTP/1.1 " + status) if status else answer == b""
    assert stack.proxy.state()["connections"]["turned_away"] == turned_away + 1
    assert stack.prefill.seen == stack.decode.seen == []


def test_requests_without_end_before_the_first_is_answered(stack: Stack) -> None:
    before = resident(stack.proxy.process.pid)
    with connect(stack.proxy.url) as sock:
        send_all_of(sock, endless(b"", b"GET /health HTTP/1.1\r\n\r\n", 22))
        assert stack.proxy.client.get("/health", timeout=2).status_code == 200
        assert resident(stack.proxy.process.pid) - before < 16 * MIB


def test_blank_lines_before_a_request_stop_nobody(stack: Stack) -> None:
    with connect(stack.proxy.url) as sock:
        began = time.monotonic()
        sock.sendall(b"\n\r\n" * (1 << 20))
        sock.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert all_of(sock).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 3, "9 s of the router's one thread where each is parsed apart, 0.01 s else"


def test_requests_sent_ahead_are_answered_in_their_order(stack: Stack) -> None:
    asked = [b"GET /v1/models HTTP/1.1\r\nX-Request-Id: %d\r\n\r\n" % number for number in range(20)]
    body = b'{"prompt":"x"}'
    asked[7] = HEAD + b"X-Request-Id: 7\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    last = b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    with connect(stack.proxy.url) as sock:
        for piece in _cut([*asked, last], 50):
            sock.sendall(piece)
        answer = all_of(sock)
    ids = [int(part.split(b"\r\n")[0]) for part in answer.split(b"x-request-id: ")[1:]]
    assert ids == list(range(20))
    assert answer.endswith(b'{"status":"ok"}')


def _cut(parts: list[bytes], size: int) -> list[bytes]:
    whole = b"".join(parts)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def test_what_follows_a_chunked_body_in_the_same_part_is_left_alone(stack: Stack) -> None:
    """Its end is known only once it was parsed: the request is answered, and the connection ends with it."""
    body = b'{"prompt":"x"}'
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with connect(stack.proxy.url) as sock:
        sock.sendall(chunked + b"GET /v1/models HTTP/1.1\r\n\r\n" * 3)
        answer = all_of(sock)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"hello" in answer
    assert [seen.path for seen in stack.decode.seen] == ["/v1/completions"]


def test_trailers_are_no_headers(stack: Stack) -> None:
    body = b'{"prompt":"x"}'
    trailers = b"Authorization: Bearer forged\r\nX-Request-Id: forged\r\n"
    with connect(stack.proxy.url) as sock:
        head = HEAD + b"Authorization: Bearer right\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(head + b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(body), body, trailers))
        assert all_of(sock).startswith(b"HTTP/1.1 200")
    for seen in (stack.prefill.only, stack.decode.only):
        assert seen.headers["authorization"] == "Bearer right"
        assert seen.headers["x-request-id"] != "forged"


@pytest.mark.parametrize(
    "begin", [b"", b"GET /heal", HEAD + b"Content-Length: 3\r\n\r\nx"], ids=["head", "part", "body"]
)
def test_what_does_not_come_in_time_is_not_waited_for(stack: Stack, begin: bytes) -> None:
    with connect(stack.proxy.url) as sock:
        sock.sendall(begin)
        answer = all_of(sock)  # --body-timeout 1
    assert answer.startswith(b"HTTP/1.1 408") if begin else answer == b""


def test_a_body_that_goes_on_after_its_answer_is_not_waited_for(stack: Stack) -> None:
    with connect(stack.proxy.url) as sock:
        sock.sendall(b"POST /nowhere HTTP/1.1\r\nContent-Length: 1000\r\n\r\nx")
        assert all_of(sock).startswith(b"HTTP/1.1 404")


def test_strangers_who_only_connect_keep_nobody_out() -> None:
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url], "--max-connections", "8") as proxy,
        contextlib.ExitStack() as strangers,
    ):
        assert proxy.complete().status_code == 200  # its connection rests, and is not the one that makes room
        idle = [strangers.enter_context(connect(proxy.url)) for _ in range(40)]
        for _ in range(3):
            with connect(proxy.url) as sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
                assert all_of(sock).startswith(b"HTTP/1.1 200")
        assert all_of(idle[0]) == b"", "the one that has waited longest"
        state = proxy.state()["connections"]
        assert state["open"] <= 8
        assert state["turned_away"] >= 32
        assert proxy.complete().status_code == 200


def test_where_every_connection_is_served_the_next_is_a_503() -> None:
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url], "--max-connections", "2") as proxy,
        connect(proxy.url) as one,
        connect(proxy.url) as two,
    ):
        decode.reply = Reply(hold=True)
        for sock in (one, two):
            sock.sendall(completion(20))
        wait_until(lambda: len(decode.seen) == 2, "both requests")
        with connect(proxy.url) as third:
            answer = all_of(third)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"--max-connections" in answer
        decode.gate.set()
        assert one.recv(12) == two.recv(12) == b"HTTP/1.1 200"


def test_without_descriptors_there_are_few_lines_in_the_log() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url]) as proxy,
        contextlib.ExitStack() as strangers,
    ):
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (30, limit[1]))
        for _ in range(60):
            strangers.enter_context(connect(proxy.url))
        wait_until(lambda: "no connection can be accepted now" in proxy.log, "the line")
        time.sleep(2.5)  # it tries again each second, some 2,000 times
        assert len(proxy.log.splitlines()) < 20
        resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, limit)
        wait_until(lambda: proxy.client.get("/health").status_code == 200, "the next client")


def test_bodies_that_never_end_make_room_for_those_that_do() -> None:
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url], "--max-bodies-bytes", str(MIB), "--max-in-flight", "2") as proxy,
        contextlib.ExitStack() as slow,
    ):
        kept = [slow.enter_context(connect(proxy.url)) for _ in range(8)]
        for number, sock in enumerate(kept):
            sock.sendall(completion(200_000)[:-1])
            if number < 5:
                wait_until(lambda: proxy.state()["in_flight"] == number + 1, "it to arrive")  # noqa: B023
            else:
                assert kept[number - 5].recv(12) == b"HTTP/1.1 429", "the one that has been arriving longest"
        for _ in range(3):  # they are not in flight either
            assert proxy.complete(prompt="x" * 500_000).status_code == 200
        kept[-1].sendall(b"}")
        assert kept[-1].recv(12) == b"HTTP/1.1 200", "nobody needed its room"
        too_long = proxy.complete(prompt="x" * MIB)
        assert too_long.status_code == 429
        assert "--max-bodies-bytes" in too_long.json()["error"]["message"]
        assert proxy.complete().status_code == 200


def test_a_nested_body_stops_nobody() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy, connect(proxy.url, 60) as sock:
        decode.reply = Reply(raw=b"{}")
        body = b'{"stream":true,"a":[' + b"[1,2]," * 4_000_000 + b"1]}"
        sock.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        slowest = 0.0
        while not decode.seen:
            began = time.monotonic()
            assert proxy.client.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 3, "6 s to make objects of it"
        assert decode.seen[0].raw[-100:] == body[-100:] or b"[1,2],1]" in decode.seen[0].raw


def test_the_admin_token_is_for_no_instance(token_file: str) -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--admin-token-file", token_file) as proxy:
        for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            answer = proxy.client.post("/v1/completions", json={"prompt": "x"}, headers={"Authorization": header})
            assert answer.status_code == 403
            assert "admin token" in answer.json()["error"]["message"]
            answer = proxy.client.get("/v1/models", headers={"Authorization": header})
            assert answer.status_code == 403
        assert decode.seen == []


def test_no_address_is_believed_that_a_client_gives(token_file: str) -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--admin-token-file", token_file) as proxy:
        headers = {"Authorization": "Bearer wrong-wrong-wrong-wrong", "X-Forwarded-For": "203.0.113.7"}
        assert proxy.client.get("/admin/instances", headers=headers).status_code == 401
        assert "from 127.0.0.1 without the right token" in proxy.log
        assert "203.0.113" not in proxy.log


def test_no_redirect_names_what_the_client_sends_as_host(stack: Stack) -> None:
    answer = stack.proxy.client.get("/admin/instances/", headers={"Host": "203.0.113.1"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_instances_get_the_headers_that_they_need_and_those_that_are_named() -> None:
    with Backend("decode") as decode, Proxy([decode.url], [decode.url], "--forward-header", "X-Tenant") as proxy:
        given = {
            "X-Tenant": "a",
            "X-Forwarded-User": "root",
            "Cookie": "c",
            "X-Session-ID": "s",
            "Accept": "text/plain",
        }
        proxy.client.post("/v1/completions", json={"prompt": "x"}, headers=given)
        for seen in decode.seen:
            assert seen.headers["x-tenant"] == "a"
            assert seen.headers["x-session-id"] == "s"
            assert seen.headers["accept"] == "text/plain"
            assert not {"x-forwarded-user", "cookie"} & seen.headers.keys()


def test_an_upgrade_is_answered_as_any_other_request(stack: Stack) -> None:
    with connect(stack.proxy.url) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + b"\x00" * 1000)
        answer = all_of(sock)
    assert answer.startswith(b"HTTP/1.1 200")


def test_half_closed_clients_get_their_answers(stack: Stack) -> None:
    with connect(stack.proxy.url) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(12) == b"HTTP/1.1 200"
