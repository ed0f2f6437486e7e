# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Names whose server does not answer hold nobody beyond the deadline, and few threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kvdirect.lookups import MOST_LOOKUPS, lookup

if TYPE_CHECKING:
    from pathlib import Path

# In a place of its own, whose name server takes questions and answers none.
PROGRAM = """
import json, socket, sys, threading, time
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import Hello, Welcome
from kvdirect.handshake.server import HandshakeServer
from kvdirect.lookups import MOST_LOOKUPS

silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
said = {}

def asked(name, timeout=1.0):
    began = time.monotonic()
    try:
        answer = ask(name, 9, Hello("reader", ()), timeout=timeout)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    return [time.monotonic() - began, str(answer)]

said["late"] = asked("owner-0.example")
same = [threading.Thread(target=asked, args=("owner-0.example",)) for _ in range(MOST_LOOKUPS)]
others = [threading.Thread(target=asked, args=(f"owner-{n}.example",)) for n in range(1, MOST_LOOKUPS)]
for thread in same + others:
    thread.start()
time.sleep(0.5)
said["threads"] = sum(thread.name == "kvdirect-lookup" for thread in threading.enumerate())
said["too many"] = asked("one-more.example")
server = HandshakeServer("127.0.0.1", 0)
server.offer(Welcome("owner", 1, (), (16,), (1,), (b"d",)))
began = time.monotonic()
ask("127.0.0.1", server.port, Hello("reader", ()), timeout=20)
said["an address"] = time.monotonic() - began
server.close()
print(json.dumps(said))
"""


def without_mounts() -> str:
    """Why no file can be put in the place of another here, empty if it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if missing := [tool for tool in ("ip", "unshare", "mount") if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False).stderr


@pytest.mark.skipif(bool(without_mounts()), reason=f"no name server of our own: {without_mounts()}")
def test_a_name_server_that_does_not_answer(tmp_path: Path) -> None:
    config = tmp_path / "resolv.conf"
    config.write_text("nameserver 127.0.0.1\noptions timeout:10 attempts:3\n")
    script = f'ip link set lo up; mount --bind {config} /etc/resolv.conf; exec "$0" -c "$1"'
    began = time.monotonic()
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-ec", script, sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 25  # the lookups that still wait do not keep the process
    said = json.loads(done.stdout)
    seconds, error = said["late"]
    assert seconds < 5
    assert error.startswith("ConnectError: handshake: the owner's name 'owner-0.example' does not resolve")
    assert "no name server answered within 1 s" in error
    # All that ask for one name wait for one answer.
    assert said["threads"] == MOST_LOOKUPS
    seconds, error = said["too many"]
    assert seconds < 0.5
    assert f"one-more.example is not looked up: {MOST_LOOKUPS} other names wait" in error
    assert said["an address"] < 2


def test_what_is_no_name_is_an_error_of_the_system() -> None:
    for name in ("a" * 70 + ".example", "no-such-name.invalid"):
        with pytest.raises(OSError):  # noqa: PT011  (each resolver has its own words)
            lookup(name, 20)
    assert lookup("localhost", 20)
