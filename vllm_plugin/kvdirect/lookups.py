# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Names looked up under a deadline. The system's own call knows none, so it runs in a thread that may be left behind.

The threads are daemons, of which there are few: a name server that does not answer holds these and nobody else.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future

# Names at a time; one more fails at once.
MOST_LOOKUPS = 16

_lock = threading.Lock()
_running: dict[str, Future[list[str]]] = {}


def lookup(name: str, timeout: float) -> list[str]:
    """The addresses of a name, IPv4 ones first; who asks while it is looked up waits for the same answer.

    Raises:
        OSError: There is no such name, no answer in time (TimeoutError), or too many lookups have none yet.
    """
    answer = _begin(name)
    try:
        return answer.result(max(0.0, timeout))
    except TimeoutError:
        if answer.done():  # it is the resolver's own
            raise
        raise TimeoutError(f"{name}: no name server answered within {timeout:g} s") from None


def _begin(name: str) -> Future[list[str]]:
    with _lock:
        if (running := _running.get(name)) is not None:
            return running
        if len(_running) >= MOST_LOOKUPS:
            raise OSError(f"{name} is not looked up: {MOST_LOOKUPS} other names wait for an answer of their server")
        answer: Future[list[str]] = Future()
        thread = threading.Thread(target=_look_up, args=(name, answer), name="kvdirect-lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(f"{name} is not looked up: {error}") from None
        _running[name] = answer
        return answer


def _look_up(name: str, answer: Future[list[str]]) -> None:
    addresses: list[str] = []
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses = [str(place[0]) for *_, place in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    except OSError as error:
        problem = error
    except UnicodeError as error:  # what Python says where a name's parts are too long
        problem = OSError(f"{name}: no name of a host: {error}")
    with _lock:
        del _running[name]
    if problem is None:
        answer.set_result(addresses)
    else:
        answer.set_exception(problem)
