# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Writes the corpora's first inputs anew, from what real engines and the real encoders say: `python -m fuzz.seeds`."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

from transfer.frames import Address, Id, frame
from transfer.layout import Layout, publish, shared

import kvtransfer as kt
from kvdirect.handshake.frames import framed
from kvdirect.handshake.messages import NONE, RUNNING, UNKNOWN, Hello, Refusal, Resolve, Tickets, Welcome, digest, pack

TESTS = Path(__file__).resolve().parent.parent
_PAIRS = (("model", "m"), ("g0.block_size", "128"))
# The order of the decoders in tests/cpp/fuzz/messages.cpp.
_DECODERS = (
    *("data", "hello", "welcome", "refuse", "proof", "pull", "verdict", "cancel", "renew", "complete"),
    *("challenge", "answer", "digest", "note"),
)
_PROOF_BYTES = 32  # at a welcome's end


def _keep(folder: Path, inputs: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in inputs.items():
        (folder / f"seed-{name}").write_bytes(data)


def _engines() -> tuple[list[bytes], bytes, bytes]:
    """Descriptors of a few engines, and a hello and a welcome between two of them."""
    descriptors = []
    for layout in (Layout(blocks=4), Layout(blocks=4, heads=1, first_head=1), Layout(blocks=4, order="blpthe")):
        with kt.Engine(kt.EngineConfig(lanes=("shm", "cma", "message")), name="seed") as engine:
            publish(engine, shared(layout.make(1)), layout=layout)
            descriptors.append(engine.descriptor())
            address = Address.of(descriptors[-1])
            with address.dial() as sock:
                kind, welcome = address.ask(sock)
                assert kind is Id.WELCOME
    return descriptors, address.hello()[8:], welcome[:-_PROOF_BYTES]


def _cpp() -> None:
    descriptors, hello, welcome = _engines()
    lease = struct.pack("<IQ", 1, 2)
    run = struct.pack("<IQQ", 0, 4096, 512)
    bodies = {
        "data": struct.pack("<QQ", 2, 3),
        "hello": hello,
        "welcome": welcome,
        "refuse": b"\x04" + struct.pack("<H", 7) + b"differs",
        "proof": bytes(range(24)),
        "pull": struct.pack("<Q", 3) + lease + struct.pack("<QIIII", 640, 1000, 3, 1, 2) + run + run,
        "verdict": struct.pack("<QBH", 1, 1, 4) + b"gone",
        "cancel": struct.pack("<Q", 1),
        "renew": lease + struct.pack("<d", 60.0),
        "complete": lease + struct.pack("<I", 1),
        "challenge": bytes(range(32)),
        "answer": bytes(range(32)),
        "digest": struct.pack("<Q", 1) + bytes(range(16)),
        "note": struct.pack("<I", 3) + b"now",
    }
    corpus = TESTS / "cpp" / "fuzz" / "corpus"
    _keep(corpus / "messages", {name: bytes([_DECODERS.index(name)]) + body for name, body in bodies.items()})
    _keep(corpus / "descriptor", {str(i): descriptor for i, descriptor in enumerate(descriptors)})
    maps = [_map(descriptor) for descriptor in descriptors]
    ids = bytes((4, 1, 2, 3, 0, 0)) * 3
    pairs = {f"{i}{k}": _sized(maps[i]) + _sized(maps[k]) + ids for i in range(3) for k in range(3)}
    _keep(corpus / "maps", pairs)
    data = frame(Id.DATA, struct.pack("<QQ", 1, 0) + bytes(range(100)))
    skipped = frame(Id.DATA, struct.pack("<QQ", 2, 0) + bytes(50))
    talk = frame(Id.RENEW, bodies["renew"]) + data + frame(Id.VERDICT, bodies["verdict"]) + skipped + data
    _keep(
        corpus / "stream",
        {"talk": b"\x02\x00\x06\x40" + talk, "bytes": b"\x00\x00" + talk, "big": b"\x01\xff\x10" + data * 9},
    )
    # Steps: a kind, a number, and what the kind takes.
    pull = bytes((8, 1, 1, 1, 0, 2, 5, 0, 0, 0, 10, 0, 0, 0, 100, 6, 1, 0, 0, 10, 0, 0, 0, 100, 1))
    steps = {
        "pulls": pull * 5,
        "proofs": (pull[:1] + b"\x03" + pull[2:]) * 3 + pull,
        "waits": pull[:3] + b"\x04" + pull[4:] + bytes((6, 0)) + pull,
        "ends": pull * 2 + bytes((7, 0)) + pull + bytes((4, 0, 1)) + pull,
        "talk": bytes((3, 1, 1, 4, 1, 1, 5, 0, 2, 1)) + pull,
        "raw": bytes((0, 1, 30)) + frame(Id.PROBE) * 4,
        "note": bytes((1, 0, Id.NOTE, 7)) + bodies["note"],
    }
    _keep(corpus / "sessions", steps)
    hello_frame = frame(Id.HELLO, hello)
    _keep(corpus / "strangers", {"hello": hello_frame, "more": hello_frame + frame(Id.PROBE), "probe": frame(Id.PROBE)})


def _map(descriptor: bytes) -> bytes:
    """What its end is: a length, the map, and eight bytes of a checksum."""
    body = descriptor[:-8]
    at = next(at for at in range(len(body)) if at + 4 + struct.unpack_from("<I", body, at)[0] == len(body))
    return body[at + 4 :]


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _python() -> None:
    corpus = Path(__file__).resolve().parent / "corpus"
    messages = {
        "hello": pack(Hello("e", _PAIRS)),
        "other": pack(Hello("e", (("model", "another"),))),
        "welcome": pack(Welcome("e", (1 << 64) - 1, _PAIRS, (128, 16), (1, 2), (b"\x00\xff", b""))),
        "refusal": pack(Refusal("dtype", "a", "b")),
        "resolve": pack(Resolve(("0" * 32, "a" * 32), streamed=True)),
        "held": pack(Resolve(("a" * 32,), unlike=digest([RUNNING]), hold_ms=1000)),
        "tickets": pack(Tickets((b"{}", UNKNOWN, RUNNING, NONE))),
    }
    _keep(corpus / "hellos", messages)
    _keep(corpus / "frames", {name: b"\x02\x00\x05" + framed(body) for name, body in messages.items()})
    zeromq = b"\x00\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03"
    _keep(
        corpus / "frames",
        {"zeromq": zeromq, "http": b"\x01\x03GET / HTTP/1.1\r\n\r\n", "query": b"\x01\x03GET /query HTTP/1.1\r\n\r\n"},
    )
    ticket = {
        "remote_block_ids": [[1, 2.0]],
        "remote_port": 14579.0,
        "kvdirect_lease": "1:1:2:3:1",
        "kvdirect_so_far": 64,
    }
    _keep(
        corpus / "tickets",
        {"json": b"\x00" + json.dumps(ticket).encode(), "edited": b"\x01\x02\x02\x02\x00\x09\x06\x05a"},
    )
    given = {"host": "10.0.0.1", "lanes": ["message"], "lease_slots": 9}
    _keep(
        corpus / "settings",
        {"json": b"\x00" + json.dumps(given).encode(), "edited": b"\x01\x03\x00\x05\x03abc\x03\x00\x02"},
    )
    chat = {"model": "m", "messages": [{"role": "user", "content": "h\u00e4\ud800"}], "max_tokens": 4, "stream": True}
    lists = {"prompt": [[1, 2], [3]], "kv_transfer_params": {"a": 1}, "vllm_xargs": {"kv_transfer_params": 1, "b": 1e5}}
    asked = {
        "chat": json.dumps(chat).encode(),
        "lists": json.dumps(lists).encode(),
        "twice": b'{"n":1,"n":2,"echo":true}',
        "tokens": b'{"token_ids":[1],"sampling_params":{"max_tokens":9,"n":2,"extra_args":{"kv_transfer_params":{}}}}',
        "response": b'{"input":"a","max_output_tokens":9,"truncation":"disabled","tools":[{"type":"function"}]}',
    }
    _keep(corpus / "bodies", asked)
    _keep(corpus / "objects", {**asked, "deep": b'{"a":' * 60 + b"1" + b"}" * 60, "number": b'{"a":1e999}'})
    lines = (
        b"Host: a\nConnection: close, Accept\nAccept: b\nX-Request-Id: 7\nAuthorization: c\nTransfer-Encoding: chunked"
    )
    _keep(corpus / "headers", {"plain": lines, "no-id": lines.replace(b"X-Request-Id: 7\n", b"")})
    end = b'data: {"choices":[{"finish_reason":"abort"}]}\n\n'
    error = b'data: {"error":{"code":500}}\n\n'
    stream = b'data: {"choices":[{"text":"a"}]}\n\n' + end + b"data: [DONE]\n\n"
    windows = stream.replace(b"\n", b"\r\n")
    _keep(
        corpus / "events",
        {
            "lf": b"\x02\x03\x07" + stream,
            "crlf": b"\x01\x00" + windows,
            "cr": b"\x01\x04" + stream.replace(b"\n", b"\r"),
        },
    )
    _keep(corpus / "events", {"error": b"\x01\x09" + error + stream, "open": b"\x01\x09" + stream[:-3]})
    sized = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    chunked = (
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: b\r\n\r\n"
    )
    get = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    talks = {
        "sized": sized,
        "chunked": chunked,
        "pipelined": get * 3 + sized + get,
        "upgrade": get[:-2] + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    }
    _keep(corpus / "heads", {name: b"\x01\x05\x28" + talk for name, talk in talks.items()})


def main() -> int:
    _cpp()
    _python()
    return 0


if __name__ == "__main__":
    sys.exit(main())
