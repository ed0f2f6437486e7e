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

import msgspec
from msgspec import structs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from kvdirect.errors import UsageError
from kvdirect.log import SeldomLog

from .auth import TOKEN_FORM, bearer, usable_token
from .bodies import RouterError
from .counts import MOST_KEYS, Area
from .outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from .counts import CountTable

_log = logging.getLogger("kvdirect.proxy")
_MOST_BYTES = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LIMITS = ("max-in-flight", "requests-per-minute")
UNNAMED = "unnamed"
_LOOKED_SECONDS = 1.0  # the file is looked at so seldom
_ROUNDING = 1e-6  # seconds


class ApiKeysError(UsageError):
    """A file of keys cannot be used; the message names the file and the line, never a key."""


class ApiKey(msgspec.Struct, frozen=True):
    """A key as the file has it.

    Attributes:
        digest: By which it is found, in hexadecimal digits.
        name: The operator's.
        max_in_flight: Requests at a time; None: any number.
        requests_per_minute: None: any number.
        place: Where its numbers are in the table of counts.
    """

    digest: str
    name: str
    max_in_flight: int | None
    requests_per_minute: int | None
    place: int = -1


class KeyUse:
    """What a key has, and whether it may have more."""

    def __init__(self, key: ApiKey, counts: CountTable) -> None:
        self.key = key
        self.in_flight = counts.count(Area.KEY_GAUGE, key.place)
        self.requests, self.limited = (counts.count(Area.KEY_COUNTER, 2 * key.place + index) for index in (0, 1))
        # When all that was taken has come back. One cell is written by all: of two who write it in the same
        # microsecond, one counts.
        self.clock = counts.clock(key.place)

    def take(self) -> None:
        """Count a request.

        Raises:
            RouterError: 429; the key has as many as it may.
        """
        most = self.key.max_in_flight
        if most is not None and self.in_flight.total >= most:
            raise self._refused(f"{most} requests of this API key are in flight, its limit", 1)
        rate = self.key.requests_per_minute
        if rate is not None:
            now = time.monotonic()
            each = 60 / rate
            full = max(now, self.clock.own)
            wait = full + each - now - 60
            if wait > _ROUNDING:
                text = f"this API key has {rate} requests a minute, its limit"
                raise self._refused(text, math.ceil(wait))
            self.clock.own = full + each
        self.requests.add()

    def _refused(self, text: str, seconds: int) -> RouterError:
        self.limited.add()
        return RouterError(429, f"{text}; try again later", outcome=Outcome.LIMITED, retry_after=seconds)

    def clear(self) -> None:
        """Nobody has used it yet; its place was another one's before."""
        for count in (self.in_flight, self.requests, self.limited, self.clock):
            count.clear()


class ApiKeys:
    """The keys that clients may present.

    They are kept as digests that are of use to these processes alone, so that neither their memory nor the time that it
    takes to find one tells anything of a key.
    """

    def __init__(self, secret: bytes, counts: CountTable) -> None:
        """Know none."""
        self.secret = secret
        self._counts = counts
        self._uses: dict[str, KeyUse] = {}

    @property
    def known(self) -> list[ApiKey]:
        """All of them."""
        return [use.key for use in self._uses.values()]

    def know(self, keys: Iterable[ApiKey]) -> None:
        """Know these and no others."""
        self._uses = {
            key.digest: use if (use := self._uses.get(key.digest)) and use.key == key else KeyUse(key, self._counts)
            for key in keys
        }

    def look(self) -> None:
        """See that they are what they should be now."""

    @contextmanager
    def request(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[None]:
        """A request that these headers come with, while it is worked on.

        Raises:
            RouterError: 401, no key of ours is in them; 429, it has what it may have.
        """
        use = self._presented(headers)
        use.take()
        use.in_flight.add()
        try:
            yield
        finally:
            use.in_flight.add(-1)

    def _presented(self, headers: Iterable[tuple[bytes, bytes]]) -> KeyUse:
        self.look()
        presented = {name: value for name, value in headers if name in {b"authorization", b"x-api-key"}}
        # The second as Anthropic's clients send it; another scheme of the first is somebody else's, on the way here.
        given = bearer(presented.get(b"authorization", b"")) or presented.get(b"x-api-key", b"").strip()
        use = self._uses.get(self._digest(given))
        if use is None:
            text = "no API key" if not given else "this API key is not known"
            raise RouterError(
                401, f"{text}; expected one of the router's as Authorization: Bearer KEY", outcome=Outcome.REFUSED
            )
        return use

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client; the labels are the operator's names."""
        requests = CounterMetricFamily("kvdirect_router_key_requests", "Requests with a key.", labels=["key"])
        limited = CounterMetricFamily("kvdirect_router_key_limited", "Those beyond its limits.", labels=["key"])
        in_flight = GaugeMetricFamily("kvdirect_router_key_in_flight", "Its requests in flight.", labels=["key"])
        sums: dict[str, list[int]] = {}
        for use in self._uses.values():
            have = sums.setdefault(use.key.name, [0, 0, 0])
            counts = (use.requests, use.limited, use.in_flight)
            sums[use.key.name] = [number + count.total for number, count in zip(have, counts, strict=True)]
        for name, values in sums.items():
            for family, value in zip((requests, limited, in_flight), values, strict=True):
                family.add_metric([name], value)
        yield from (requests, limited, in_flight)

    def _digest(self, key: bytes) -> str:
        return hashlib.blake2b(key, key=self.secret).hexdigest()


class KeyFile(ApiKeys):
    """The keys as the file has them now, or had them when it could be used last."""

    def __init__(self, path: str, counts: CountTable) -> None:
        """Read the file.

        Raises:
            ApiKeysError: It cannot be used.
        """
        super().__init__(secrets.token_bytes(32), counts)
        self._path = Path(path)
        self._log = SeldomLog(_log)
        self._seen = self._stamp()
        self._use(self._load())
        self._looked = time.monotonic()

    def look(self) -> None:
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
        self._use(keys)
        _log.info("%d API keys are known now", len(keys))

    def _use(self, keys: Iterable[ApiKey]) -> None:
        """Know them, each at a place of its own: its former one, or one that nothing is in flight at."""
        former = {key.digest: key for key in self.known}
        taken = {key.place for key in former.values()}
        free = (place for place in range(self._counts.keys) if place not in taken and self._is_idle(place))
        placed = []
        for key in keys:
            old = former.get(key.digest)
            same = old is not None and (old.name, *_limits(old)) == (key.name, *_limits(key))
            placed.append(structs.replace(key, place=old.place if old is not None and same else next(free)))
        new = {key.place for key in placed} - taken
        self.know(placed)
        for use in self._uses.values():
            if use.key.place in new:
                use.clear()

    def _is_idle(self, place: int) -> bool:
        return not self._counts.count(Area.KEY_GAUGE, place).total

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _load(self) -> list[ApiKey]:
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ApiKeysError(f"{self._path}: {error.strerror or error}") from error
        if len(raw) > _MOST_BYTES:
            raise ApiKeysError(f"{self._path}: larger than {_MOST_BYTES} bytes")
        keys: dict[str, ApiKey] = {}
        names: set[str] = set()
        for number, line in enumerate(raw.decode("latin-1").split("\n"), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            where = f"{self._path} line {number}"
            key = self._parsed(words, where)
            if key.digest in keys or key.name in names:
                raise ApiKeysError(f"{where}: its key or its name is there twice; expected each once")
            keys[key.digest] = key
            names |= {key.name} - {UNNAMED}
        if not 0 < len(keys) <= MOST_KEYS:
            raise ApiKeysError(f"{self._path}: {len(keys)} keys in it; expected 1 to {MOST_KEYS}, one a line")
        return list(keys.values())

    def _parsed(self, words: list[str], where: str) -> ApiKey:
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
        return ApiKey(self._digest(key.encode("ascii")), given.get("name", UNNAMED), limits[0], limits[1])

    def _limit(self, name: str, value: str | None, where: str) -> int | None:
        if value is None:
            return None
        if not re.fullmatch(r"[1-9][0-9]{0,8}", value):
            raise ApiKeysError(f"{where}: {name}={value}; expected a number from 1 on")
        return int(value)


def _limits(key: ApiKey) -> tuple[int | None, int | None]:
    return key.max_in_flight, key.requests_per_minute
