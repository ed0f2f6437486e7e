# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The client for requests to the engines of this host."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_LINE = 64 << 20


@cache
def http() -> httpx.Client:
    """One for all: making a client reads the system's certificates, which takes twenty times as long as a request.

    Connections end with their requests, as engines do that are started again at the same address.
    """
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


def event_data(response: httpx.Response) -> Iterator[bytes]:
    """The data of each server-sent event of one line, up to `[DONE]`, as it comes.

    Lines end where their bytes say so (HTML, section 9.2.5). httpx's `iter_lines` also ends them at every character
    that Unicode calls a line's end, and JSON may have those within its strings.

    Raises:
        ValueError: A line of more than 64 MiB.
    """
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data: ").rstrip(b"\r")
            if line.startswith(b"data: ") and data != b"[DONE]":
                yield data
        if len(rest) > _LONGEST_LINE:
            raise ValueError(f"{response.url} sent a line of more than {_LONGEST_LINE} bytes")
