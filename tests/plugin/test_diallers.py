# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Threads that dial owners."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError

import pytest

from kvdirect.worker.diallers import Diallers

# Ends while it waits for an owner that has taken its connection and says nothing.
READER = """
import sys, time
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import Hello
from kvdirect.worker.diallers import Diallers

diallers = Diallers(2)
port = int(sys.argv[1])
calls = [diallers.submit(ask, "127.0.0.1", port, Hello("reader", ()), timeout=60.0) for _ in range(3)]
sys.stdin.readline()
diallers.shutdown(wait=False, cancel_futures=True)
assert [call.cancelled() for call in calls] == [False, False, True]
print("over", flush=True)
"""


def test_a_process_ends_though_an_owner_stands_still() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        command = [sys.executable, "-c", READER, str(owner.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            try:
                owner.settimeout(60)
                connections = [owner.accept()[0] for _ in range(2)]
                out, _ = reader.communicate("end\n", timeout=20)
                assert (out, reader.returncode) == ("over\n", 0)
                for connection in connections:
                    connection.close()
            finally:
                reader.kill()


def test_results_and_errors_come_back_and_are_not_kept() -> None:
    class Thing:
        """What a weak reference can point to."""

    diallers = Diallers(1)
    made = diallers.submit(Thing)
    seen = weakref.ref(made.result(10))
    with pytest.raises(ZeroDivisionError):
        diallers.submit(lambda: 1 // 0).result(10)
    del made
    gc.collect()
    assert seen() is None
    diallers.shutdown()


def test_no_more_threads_than_it_may_have() -> None:
    diallers, gate = Diallers(3), threading.Event()
    others = set(threading.enumerate())
    calls = [diallers.submit(gate.wait, 30) for _ in range(20)]
    time.sleep(0.1)
    # Others' threads may end meanwhile.
    assert len(set(threading.enumerate()) - others) == 3
    diallers.shutdown(wait=False, cancel_futures=True)
    gate.set()
    ended = [call for call in calls if not call.cancelled()]
    assert len(ended) == 3
    assert all(call.result(10) for call in ended)
    with pytest.raises(CancelledError):
        calls[-1].result(10)
