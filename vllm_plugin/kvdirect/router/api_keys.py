# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Clients' API keys: a file of them, read anew when it changes, and what each may have.

One a line, with what it is limited to: `KEY name=alice max-in-flight=8 requests-per-minute=600`. A line that begins
with # is a comment.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from kvdirect.errors import UsageError
from kvdirect.log import SeldomLog

from .auth import TOKEN_FORM, bearer, usable_token
from .bodies import RouterError
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

_log = logging.getLogger("kvdirect.proxy")
MOST_KEYS = 4096
_MOST_BYTES = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = ("max-in-flight", "requests-per-minute")
UNNAMED = "unnamed"
_LOOKED_SECONDS = 1.0  # the file is looked at so seldom


class ApiKeysError(UsageError):
    """A file of keys cannot be used; the message names the file and the line, never a key."""


class ApiKey:
    """What a key is limited to, and what it has."""

    def __init__(self, name: str, max_in_flight: int | None, requests_per_minute: int | None) -> None:
        self.name = name
        self.max_in_flight = max_in_flight
        self.requests_per_minute = requests_per_minute
        self.in_flight = 0
        self.requests = 0
        self.limited = 0
        self._left = float(requests_per_minute or 0)  # requests that may come now
        self._at = time.monotonic()

    def take(self) -> None:
        """Count a request.

        Raises:
            RouterError: 429; the key has as many as it may.
        """
        if self.max_in_flight is not None and self.in_flight >= self.max_in_flight:
            raise self._refused(f"{self.max_in_flight} requests of this API key are in flight, its limit", 1)
        if self.requests_per_minute is not None:
            now = time.monotonic()
            each = 60 / self.requests_per_minute
            self._left = min(self.requests_per_minute, self._left + (now - self._at) / each)
            self._at = now
            if self._left < 1:
                wait = math.ceil((1 - self._left) * each)
                raise self._refused(f"this API key has {self.requests_per_minute} requests a minute, its limit", wait)
            self._left -= 1
        self.requests += 1

    def _refused(self, text: str, seconds: int) -> RouterError:
        self.limited += 1
        return RouterError(429, f"{text}; try again later", outcome=Outcome.LIMITED, retry_after=seconds)


class ApiKeys:
    """The keys as the file has them now, or had them when it could be used last.

    They are kept as digests that are of use in this process alone, so that neither its memory nor the time that it
    takes to find one tells anything of a key.
    """

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ApiKeysError: It cannot be used.
        """
        self._path = Path(path)
        self._secret = secrets.token_bytes(32)
        self._log = SeldomLog(_log)
        self._seen = self._stamp()
        self._keys = self._load()
        self._looked = time.monotonic()

    @contextmanager
    def request(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
        """A request that these headers come with, while it is worked on.

        Raises:
            RouterError: 401, no key of ours is in them; 429, it has what it may have.
        """
        key = self._key_in(headers)
        key.take()
        key.in_flight += 1
        try:
            yield
        finally:
            key.in_flight -= 1

    def _key_in(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey:
        self._look()
        given = b""
        for name, value in headers:
            if name == b"authorization":
                given = bearer(value)
                break
            if name == b"x-api-key":  # as Anthropic's clients send it
                given = value.strip()
        key = self._keys.get(self._digest(given))
        if key is None:
            text = "no API key" if not given else "this API key is not known"
            raise RouterError(
                401, f"{text}; expected one of the router's as Authorization: Bearer KEY", outcome=Outcome.REFUSED
            )
        return key

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client; the labels are the operator's names."""
        requests = CounterMetricFamily("kvdirect_router_key_requests", "Requests with a key.", labels=["key"])
        limited = CounterMetricFamily("kvdirect_router_key_limited", "Those beyond its limits.", labels=["key"])
        in_flight = GaugeMetricFamily("kvdirect_router_key_in_flight", "Its requests in flight.", labels=["key"])
        sums: dict[str, list[int]] = {}
        for key in self._keys.values():
            have = sums.setdefault(key.name, [0, 0, 0])
            sums[key.name] = [have[0] + key.requests, have[1] + key.limited, have[2] + key.in_flight]
        for name, values in sums.items():
            for family, value in zip((requests, limited, in_flight), values, strict=True):
                family.add_metric([name], value)
        yield from (requests, limited, in_flight)

    def _look(self) -> None:
        """Read the file anew if it has changed."""
        now = time.monotonic()
        if now - self._looked < _LOOKED_SECONDS:
            return
        self._looked = now
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            keys = self._load()
        except ApiKeysError as error:
            self._log.warning("API keys that changed cannot be used, the former stay: %s", error)
            return
        for digest, key in keys.items():
            former = self._keys.get(digest)
            if former is not None and (former.name, former.max_in_flight, former.requests_per_minute) == (
                key.name,
                key.max_in_flight,
                key.requests_per_minute,
            ):
                keys[digest] = former
        self._keys = keys
        _log.info("%d API keys are known now", len(keys))

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret).digest()

    def _load(self) -> dict[bytes, ApiKey]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ApiKeysError(f"{self._path}: {error.strerror or error}") from error
        if len(raw) > _MOST_BYTES:
            raise ApiKeysError(f"{self._path}: larger than {_MOST_BYTES} bytes")
        keys: dict[bytes, ApiKey] = {}
        names: set[str] = set()
        for number, line in enumerate(raw.decode("latin-1").split("\n"), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            where = f"{self._path} line {number}"
            digest, key = self._parsed(words, where)
            if digest in keys or key.name in names:
                raise ApiKeysError(f"{where}: its key or its name is there twice; expected each once")
            keys[digest] = key
            names |= {key.name} - {UNNAMED}
        if not 0 < len(keys) <= MOST_KEYS:
            raise ApiKeysError(f"{self._path}: {len(keys)} keys in it; expected 1 to {MOST_KEYS}, one a line")
        return keys

    def _parsed(self, words: list[str], where: str) -> tuple[bytes, ApiKey]:
        key, *settings = words
        if not usable_token(key):
            raise ApiKeysError(f"{where}: no usable key; expected {TOKEN_FORM}")
        given: dict[str, str] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals or name in given or name not in {"name", *_LIMITS}:
                raise ApiKeysError(f"{where}: expected name=, {'= or '.join(_LIMITS)}= behind the key, each once")
            given[name] = value
        if not _NAME.fullmatch(given.get("name", UNNAMED)):
            raise ApiKeysError(f"{where}: expected a name of 1 to 64 letters, digits, '.', '_' and '-'")
        limits = [self._limit(name, given.get(name), where) for name in _LIMITS]
        return self._digest(key.encode("ascii")), ApiKey(given.get("name", UNNAMED), limits[0], limits[1])

    def _limit(self, name: str, value: str | None, where: str) -> int | None:
        if value is None:
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise ApiKeysError(f"{where}: {name}={value}; expected a number from 1 on")
        return int(value)
