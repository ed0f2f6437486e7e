# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets, and what a user may set."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

from kvdirect.config import Settings, parse_settings
from kvdirect.errors import WireError
from kvdirect.transfer_params import RemoteLease, parse_remote_prefill, wants
from kvtransfer import ConfigError

from .pieces import Input

_GOOD: dict[str, Any] = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "engine",
    "remote_request_id": "cmpl-1",
    "remote_host": "127.0.0.1",
    "remote_port": 14579,
    "tp_size": 1,
    "remote_num_tokens": 300,
    "kvdirect_lease": "1:ffffffffffffffff:ffff:deadbeefcafef00d:1",
}
_KEYS = tuple(get_type_hints(Settings))


def _value(parts: Input, depth: int = 0) -> object:
    """Whatever JSON can say, and doubles that it cannot."""
    kind = parts.below(9 if depth < 4 else 7)
    if kind == 7:
        return [_value(parts, depth + 1) for _ in range(parts.below(4))]
    if kind == 8:
        return {parts.text(): _value(parts, depth + 1) for _ in range(parts.below(4))}
    plain = (None, True, False, parts.below(70000) - 10, (1 << parts.below(100)) - parts.below(3), _double(parts))
    return plain[kind] if kind < 6 else parts.text()


def _double(parts: Input) -> float:
    return parts.one_of((0.0, -1.0, 0.5, 14579.0, 1e300, float("inf"), float("nan"), 2.0**31))


def _object(parts: Input) -> dict[str, Any]:
    try:
        value = json.loads(parts.rest())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def tickets(data: bytes) -> None:
    """A ticket is read, or refused by name; a lease that is read is written as it was meant."""
    parts = Input(data)
    if parts.below(4) == 0:
        params = _object(parts)
    else:
        params = dict(_GOOD)
        for _ in range(parts.below(4)):
            params[parts.one_of(tuple(_GOOD))] = _value(parts)
        if parts.below(2):
            params["kvdirect_lease"] = parts.text()
    for key in ("do_remote_prefill", "do_remote_decode"):
        try:
            wants(params, key)
        except WireError as error:
            assert key in str(error)  # noqa: PT017
    try:
        remote = parse_remote_prefill(params)
    except WireError as error:
        assert len(str(error)) < 1000  # noqa: PT017
        return
    assert RemoteLease.decode(remote.lease.encode()) == remote.lease
    assert 1 <= remote.port <= 65535
    assert all(0 <= block < 1 << 31 for table in remote.blocks for block in table)


def settings(data: bytes) -> None:
    """Settings are taken, or refused by name; an engine takes those that were."""
    parts = Input(data)
    given = _object(parts) if parts.below(4) == 0 else {}
    for _ in range(parts.below(5)):
        given[parts.one_of(_KEYS)] = _value(parts)
    try:
        taken = parse_settings(given)
    except ConfigError as error:
        assert str(error)  # noqa: PT017
        return
    taken.engine()
