# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where an instance listens, taken from its URL once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, urlsplit

_PATH = "/%:@!$&'()*+,;=~"  # what a path may hold as it is, beside letters, digits and "-._"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instance listens."""

    host: str
    port: int
    tls: bool
    named: bytes  # as a request names it
    base: bytes  # before the path of each request

    @classmethod
    def of(cls, url: str) -> Self:
        """From a base URL.

        Raises:
            ValueError: No request can be sent there.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        encoded = host if ":" in host else host.encode("idna").decode("ascii")  # UnicodeError is a ValueError
        tls = parts.scheme == "https"
        named = parts.netloc if host == encoded else parts.netloc.lower().replace(host, encoded)
        if not encoded:
            raise ValueError(f"no host in {url!r}")
        path = quote(parts.path, safe=_PATH)
        return cls(encoded, parts.port or (443 if tls else 80), tls, named.encode("ascii"), path.encode("ascii"))
