# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Looks at a router's instances all the time, and tells when each took another role and how long the old one lasted."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import httpx

from kvdirect.harness.http_client import http

if TYPE_CHECKING:
    from types import TracebackType

_EVERY = 0.1
_DEADLINE = 10.0
_NEVER = float("inf")
_OTHER = {"prefill": "decode", "decode": "prefill"}


@dataclass(frozen=True, slots=True)
class RoleChange:
    """An instance took another role.

    Attributes:
        when: It was first seen in it, on `time.monotonic`'s clock.
        url: Which instance.
        role: The new one.
        drained: Seconds until it had nothing left of the old one; infinite where that was not seen.
        prefill: Instances of that role from then on.
    """

    when: float
    url: str
    role: str
    drained: float
    prefill: int


class RoleWatch:
    """Looks while the context is open.

    Attributes:
        changes: So far, in order.
    """

    def __init__(self, url: str) -> None:
        """Prepare to look at the router there."""
        self.changes: list[RoleChange] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="role-watch", daemon=True)
        self._roles: dict[str, str] = {}  # by URL, the one in which it takes requests

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._stop.wait(_EVERY):
            try:
                answer = http().get(f"{self._url}/status", timeout=_DEADLINE).raise_for_status().json()
                found = [(one["url"], one["role"], one["state"]) for one in answer["instances"]]
            except (httpx.HTTPError, ValueError, LookupError):
                continue  # the router's end is noticed by those who ask it
            self.see(time.monotonic(), found)

    def see(self, now: float, instances: list[tuple[str, str, str]]) -> None:
        """Take in one look: URL, role and state of each instance."""
        up = {url: role for url, role, state in instances if state == "up"}
        there = {(url, role) for url, role, _ in instances}
        prefill = sum(role == "prefill" for role in up.values())
        for url, role in up.items():
            if self._roles.get(url, role) != role:
                self.changes.append(RoleChange(now, url, role, _NEVER, prefill))
        self._roles |= up
        for place, change in enumerate(self.changes):
            if change.drained == _NEVER and (change.url, _OTHER[change.role]) not in there:
                self.changes[place] = replace(change, drained=now - change.when)

    def wait_drained(self, seconds: float) -> None:
        """Go on when no change lasts any more, and at the latest after so long."""
        deadline = time.monotonic() + seconds
        while any(one.drained == _NEVER for one in self.changes) and time.monotonic() < deadline:
            time.sleep(_EVERY)
