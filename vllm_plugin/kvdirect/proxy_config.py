# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's settings, checked once, when they are made."""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

_MIB = 1 << 20


class ProxyConfigError(ValueError):
    """A setting of the router cannot be used; the message names it, its value and what is expected."""


def _checked_url(role: str, url: str) -> str:
    """Return `url` without trailing slashes, or raise ProxyConfigError."""
    expected = "expected a base URL such as http://127.0.0.1:8100"
    wrong = f"{role} URL {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ProxyConfigError(f"{wrong}: {exc}; {expected}") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ProxyConfigError(f"{wrong}: no http:// or https:// host in it; {expected}")
    if port == 0 or any(character.isspace() or not character.isprintable() for character in url):
        raise ProxyConfigError(f"{wrong}: port 0 or a blank in it; {expected}")
    if parts.username is not None or parts.password is not None:
        raise ProxyConfigError(
            f"a {role} URL holds a user name or password; leave it out: the client's Authorization header is passed on"
        )
    if parts.query or parts.fragment:
        raise ProxyConfigError(f"{wrong}: has a query or fragment; {expected}")
    base = url.rstrip("/")
    if base.endswith("/v1"):
        raise ProxyConfigError(f"{wrong}: leave out the /v1, the proxy adds it; {expected}")
    return base


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Settings of the router.

    Attributes:
        prefill: base URLs of the prefill instances, at least one.
        decode: base URLs of the decode instances, at least one; an instance that does both may be in both.
        host: address the server listens on.
        port: port the server listens on; 0 picks a free one.
        health_interval: seconds between two health checks of an instance.
        health_timeout: seconds one health check may take.
        health_failures: failed checks in a row that take an instance out; one good check brings it back.
        connect_timeout: seconds to open a connection to an instance.
        prefill_timeout: seconds for a whole prefill request; later, the decode instance prefills.
        decode_timeout: seconds without a byte from the decode instance before the request fails.
        body_timeout: seconds a client may take to send its request.
        drain_timeout: seconds running requests get to finish once the server is told to stop.
        max_body_bytes: largest request body accepted, in bytes.

    Raises:
        ProxyConfigError: a value cannot be used.
    """

    prefill: tuple[str, ...]
    decode: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    health_interval: float = 5.0
    health_timeout: float = 5.0
    health_failures: int = 2
    connect_timeout: float = 5.0
    prefill_timeout: float = 600.0
    decode_timeout: float = 1800.0
    body_timeout: float = 60.0
    drain_timeout: float = 30.0
    max_body_bytes: int = 32 * _MIB

    def __post_init__(self) -> None:
        for role in ("prefill", "decode"):
            urls = tuple(_checked_url(role, url) for url in getattr(self, role))
            if not urls:
                raise ProxyConfigError(f"no {role} instance given: expected at least one {role} URL")
            twice = sorted({url for url in urls if urls.count(url) > 1})
            if twice:
                raise ProxyConfigError(f"{role} URL {twice[0]!r} is given twice; expected each instance once")
            object.__setattr__(self, role, urls)
        if not self.host:
            raise ProxyConfigError("host is empty; expected an address such as 127.0.0.1, or 0.0.0.0 for all")
        if not 0 <= self.port <= 65535:
            raise ProxyConfigError(f"port is {self.port}; expected 0 (any free port) to 65535")
        for name in ("health_failures", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise ProxyConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in (
            "health_interval",
            "health_timeout",
            "connect_timeout",
            "prefill_timeout",
            "decode_timeout",
            "body_timeout",
            "drain_timeout",
        ):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ProxyConfigError(f"{name} is {seconds}; expected a number of seconds above 0")
