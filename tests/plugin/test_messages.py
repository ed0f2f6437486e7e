# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What comes from other engines and from routers is taken apart strictly, and doubles are still numbers."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvdirect.errors import WireError
from kvdirect.fingerprint import first_difference
from kvdirect.handshake.frames import HEADER, FrameReader, framed
from kvdirect.handshake.messages import MAX_HELLO, Hello, Refusal, Welcome, pack, unpack
from kvdirect.transfer_params import RemoteLease, parse_remote_prefill, wants

FINGERPRINT = (("model", "m"), ("g0.block_size", "128"))
LEASE = RemoteLease(incarnation=(1 << 64) - 1, slot=65535, epoch=0xDEADBEEFCAFEF00D, ranks=1)
PARAMS: dict[str, Any] = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "engine",
    "remote_request_id": "cmpl-1",
    "remote_host": "127.0.0.1",
    "remote_port": 14579,
    "tp_size": 1,
    "remote_num_tokens": 300,
    "kvdirect_lease": LEASE.encode(),
}


@pytest.mark.parametrize(
    "message",
    [
        Hello("e", FINGERPRINT),
        Welcome("e", (1 << 64) - 1, FINGERPRINT, (128, 16), (1, 2), (b"\x00\xff", b"")),
        Refusal("dtype", "a", "b"),
    ],
)
def test_messages_survive_the_trip(message: Hello | Welcome | Refusal) -> None:
    data = framed(pack(message))
    frame = FrameReader(MAX_HELLO)
    while frame.missing:  # a byte at a time
        frame.take(data[:1])
        data = data[1:]
    assert unpack(frame.body) == message
    assert not data


WELCOME = {
    "type": "welcome",
    "engine_id": "x",
    "incarnation": 1,
    "fingerprint": [],
    "block_sizes": [16],
    "kernel_blocks": [1],
    "descriptors": [b"d"],
}


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error(data: bytes) -> None:
    for candidate in (data, framed(data), framed(pack(Hello("e", ())))[:6] + data):
        frame, left = FrameReader(MAX_HELLO), candidate
        try:
            while left and frame.missing:
                step, left = left[: frame.missing], left[frame.missing :]
                frame.take(step)
            unpack(frame.body)
        except WireError:
            continue


def test_oversize_is_refused_with_its_header() -> None:
    with pytest.raises(WireError, match=f"{MAX_HELLO + 1} bytes, at most {MAX_HELLO} are read"):
        FrameReader(MAX_HELLO).take(framed(bytes(MAX_HELLO + 1))[: HEADER.size])


@pytest.mark.parametrize(
    "body",
    [
        {"type": "hello", "engine_id": "x" * 257, "fingerprint": []},
        {"type": "hello", "engine_id": "x", "fingerprint": [["a", "b"]] * 65},
        {"type": "hello", "engine_id": "x", "fingerprint": [["a", "b", "c"]]},
        {"type": "hello", "engine_id": "x", "fingerprint": [], "extra": 1},
        {"type": "hello", "engine_id": 5, "fingerprint": []},
        {**WELCOME, "descriptors": []},
        {**WELCOME, "descriptors": ["text"]},
        {**WELCOME, "block_sizes": [0]},
        {**WELCOME, "kernel_blocks": [1] * 257},
        {"type": "unheard of"},
    ],
)
def test_bounds_and_types_are_checked(body: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        unpack(msgspec.msgpack.encode(body))


def test_first_difference_names_the_field_and_both_values() -> None:
    assert first_difference(FINGERPRINT, FINGERPRINT) is None
    assert first_difference(FINGERPRINT, (("model", "m"), ("g0.block_size", "64"))) == ("g0.block_size", "128", "64")
    assert first_difference(FINGERPRINT, FINGERPRINT[:1]) == ("g0.block_size", "128", "(absent)")
    assert first_difference(FINGERPRINT[:1], FINGERPRINT) == ("g0.block_size", "(absent)", "128")


@given(
    st.builds(
        RemoteLease,
        incarnation=st.integers(0, (1 << 64) - 1),
        slot=st.integers(0, 65535),
        epoch=st.integers(1, (1 << 64) - 1),
        ranks=st.integers(1, 65535),
    )
)
def test_lease_survives_the_trip_as_text(token: RemoteLease) -> None:
    assert RemoteLease.decode(token.encode()) == token


@pytest.mark.parametrize(
    "text",
    ["", "1:2:3:4", "2:1:1:1:1", "1:1:1:0:1", "1:1:10000:1:1", "1:1:1:1:0", "1:1:1:1:1 ", "1:G:1:1:1", "1:1:1:-1:1"],
)
def test_bad_leases_are_refused(text: str) -> None:
    with pytest.raises(WireError, match="kvdirect_lease"):
        RemoteLease.decode(text)


def as_doubles(value: Any) -> Any:  # noqa: ANN401  (any JSON)
    """What a router leaves that knows no integers."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    if isinstance(value, dict):
        return {key: as_doubles(value[key]) for key in sorted(value)}
    return value


def test_numbers_may_come_as_doubles_and_keys_in_any_order() -> None:
    exact = parse_remote_prefill(PARAMS)
    assert exact.lease == LEASE
    assert exact.blocks == ((1, 2, 3),)
    travelled = json.loads(json.dumps(as_doubles(PARAMS)))
    assert travelled["remote_port"] == 14579.0
    assert isinstance(travelled["remote_block_ids"][0][0], float)
    again = parse_remote_prefill(travelled)
    assert again == exact
    assert all(isinstance(block, int) for block in again.blocks[0])
    assert isinstance(again.port, int)


def test_keys_of_other_connectors_are_ignored() -> None:
    assert parse_remote_prefill({**PARAMS, "transfer_mode": "pull", "dcp_size": 1}) == parse_remote_prefill(PARAMS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote_port", "14579"),
        ("remote_port", 14579.5),
        ("remote_port", 0),
        ("remote_port", True),
        ("remote_port", None),
        ("remote_host", None),
        ("remote_host", "h" * 257),
        ("remote_engine_id", 7),
        ("remote_request_id", ""),
        ("remote_num_tokens", -1),
        ("remote_num_tokens", float("nan")),
        ("remote_block_ids", None),
        ("remote_block_ids", []),
        ("remote_block_ids", [1, 2]),
        ("remote_block_ids", [[1, "2"]]),
        ("remote_block_ids", [[1, -2]]),
        ("remote_block_ids", [[1, 2.5]]),
        ("kvdirect_lease", None),
        ("kvdirect_lease", 5),
    ],
)
def test_wrong_parameters_name_their_key(key: str, value: object) -> None:
    with pytest.raises(WireError, match=key):
        parse_remote_prefill({**PARAMS, key: value})


def test_flags() -> None:
    assert wants({"do_remote_prefill": True}, "do_remote_prefill")
    assert wants({"do_remote_prefill": 1.0}, "do_remote_prefill")
    assert not wants({"do_remote_prefill": 0.0}, "do_remote_prefill")
    assert not wants({"do_remote_prefill": None}, "do_remote_prefill")
    assert not wants(None, "do_remote_prefill")
    with pytest.raises(WireError, match="do_remote_prefill"):
        wants({"do_remote_prefill": "yes"}, "do_remote_prefill")


def test_numbers_that_python_does_not_write_are_wrong_parameters_too() -> None:
    huge = 10**5000
    for key in ("remote_port", "remote_num_tokens", "remote_request_id", "remote_block_ids", "kvdirect_lease"):
        for value in (huge, -huge, [[huge]], {"a": [huge]}):
            with pytest.raises(WireError, match=f"{key}: expected .* a number of thousands of digits"):
                parse_remote_prefill({**PARAMS, key: value})
    with pytest.raises(WireError, match=r"do_remote_prefill: expected .* a number of thousands of digits"):
        wants({"do_remote_prefill": huge}, "do_remote_prefill")


def test_an_error_shows_no_more_of_a_value_than_fits() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "x" * 10_000_000, list(range(1_000_000)), {str(i): i for i in range(1000)}):
        with pytest.raises(WireError) as caught:
            parse_remote_prefill({**PARAMS, "remote_port": value})
        assert len(str(caught.value)) < 250
