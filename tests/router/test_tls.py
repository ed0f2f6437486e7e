# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""HTTPS with a real certificate: the bounds hold there too, and nobody stays who does not finish TLS's handshake."""

import datetime as dt
import ipaddress
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from played_backend import DEADLINE, Backend, Reply
from router_process import START_DEADLINE, command


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    private.chmod(0o600)
    return pem, private


@contextmanager
def serving(backend: Backend, *options: str) -> Iterator[str]:
    """The URL of a router that speaks TLS."""
    words = ["--port", "0", "--prefill", backend.url, "--decode", backend.url, "--body-timeout", "1"]
    line, environment = command("proxy", *words, *options)
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            end = time.monotonic() + START_DEADLINE
            while not (found := re.match(r"kvdirect proxy listening on (https://\S+)", process.stdout.readline())):
                assert time.monotonic() < end
                assert process.poll() is None
            yield found[1]
        finally:
            process.terminate()
            assert "Traceback" not in process.stdout.read()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module")
def router(certificate: tuple[Path, Path]) -> Iterator[tuple[str, Backend, ssl.SSLContext]]:
    pem, key = certificate
    options = ("--ssl-certfile", str(pem), "--ssl-keyfile", str(key), "--max-connections", "20")
    with Backend("both") as both, serving(both, *options) as url:
        yield url, both, ssl.create_default_context(cafile=str(pem))


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=DEADLINE)


def test_requests_and_streams_are_served(router: tuple[str, Backend, ssl.SSLContext]) -> None:
    url, both, context = router
    both.reset()
    with httpx.Client(base_url=url, verify=context, trust_env=False, timeout=DEADLINE) as client:
        assert client.post("/v1/completions", json={"prompt": "p" * 90_000}).json()["served_by"] == "both"
        both.reply = Reply(hold=True)
        with client.stream("POST", "/v1/completions", json={"prompt": ["a", "b"], "stream": True}) as answer:
            chunks = answer.iter_raw()
            assert b"first" in next(chunks)
            both.gate.set()
            assert b"[DONE]" in b"".join(chunks)


def test_a_head_without_end_is_refused(router: tuple[str, Backend, ssl.SSLContext]) -> None:
    url, _, context = router
    with context.wrap_socket(connect(url), server_hostname="127.0.0.1") as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 40_000)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["nothing", "half a hello"]
)
def test_who_does_not_finish_the_handshake_is_closed_in_time(
    router: tuple[str, Backend, ssl.SSLContext], sent: bytes
) -> None:
    """--body-timeout bounds a head, and this too: 1 s here, where asyncio has 60."""
    url, _, _ = router
    begin = time.monotonic()
    with connect(url) as sock:
        sock.sendall(sent)
        while sock.recv(1 << 16):
            pass
    assert time.monotonic() - begin < DEADLINE


def test_who_does_not_finish_the_handshake_makes_room(router: tuple[str, Backend, ssl.SSLContext]) -> None:
    url, _, context = router
    with ExitStack() as held:
        silent = [held.enter_context(connect(url)) for _ in range(60)]
        answer = httpx.get(f"{url}/status", verify=context, trust_env=False, timeout=DEADLINE)
        assert answer.json()["connections"]["open"] <= 20
        assert answer.json()["connections"]["turned_away"] >= 40
        assert silent[0].recv(1) == b""


def test_plain_http_and_rubbish_get_nothing(router: tuple[str, Backend, ssl.SSLContext]) -> None:
    url, _, context = router
    with connect(url) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert not sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert httpx.get(f"{url}/health", verify=context, trust_env=False, timeout=DEADLINE).status_code == 200


def test_clients_show_a_certificate_where_that_is_wanted(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    pem, key = certificate
    mine, my_key = make_certificate(tmp_path, "client")
    options = ("--ssl-certfile", str(pem), "--ssl-keyfile", str(key), "--ssl-ca-certs", str(mine))
    with Backend("both") as both, serving(both, *options) as url:
        context = ssl.create_default_context(cafile=str(pem))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health", verify=context, trust_env=False, timeout=DEADLINE)
        context.load_cert_chain(mine, my_key)
        assert httpx.get(f"{url}/health", verify=context, trust_env=False, timeout=DEADLINE).status_code == 200


def test_a_client_that_is_slow_to_read_gets_all_of_an_answer_that_ends_its_connection(
    router: tuple[str, Backend, ssl.SSLContext],
) -> None:
    """What was written before the close has the time that a client has else, and not asyncio's few seconds."""
    url, both, context = router
    both.reset()
    both.reply = Reply(raw=b"x" * 30_000_000)
    body = b'{"prompt": ["a", "b"]}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with context.wrap_socket(connect(url), server_hostname="127.0.0.1") as sock:
        sock.sendall(head + body)
        sock.settimeout(6 * DEADLINE)
        answer = bytearray(sock.recv(1))  # it has begun
        time.sleep(7.0)
        while part := sock.recv(1 << 20):
            answer += part
    assert answer.partition(b"\r\n\r\n")[2] == b"x" * 30_000_000
