# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect serve` is a vLLM engine with our connector, and its process is vLLM's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engines import (
    DECODE,
    MODEL_NAME,
    PREFILL,
    START_DEADLINE,
    USUAL,
    Engine,
    blocks_to_move,
    disaggregated,
    name,
    only_pull,
    text,
)

from kvdirect.harness.processes import CPU_ENVIRONMENT, ManagedProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool import EnginePool

pytestmark = pytest.mark.vllm

STOP_DEADLINE = 60.0


@pytest.fixture
def served(pool: EnginePool, tmp_path: Path) -> Iterator[Engine]:
    """A prefill engine, started as the documentation says."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "kvdirect", "serve", str(pool.model), "--served-model-name", MODEL_NAME),
        *("--kv-role", "kv_producer", "--kv-transfer-config.kv_port", "0"),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-num-seqs", "8"),
        *(word for pair in USUAL.items() for word in pair),
    ]
    environment = {**CPU_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    process = ManagedProcess("serve", command, f"http://127.0.0.1:{port}", tmp_path / "serve.log", environment)
    process.start()
    try:
        deadline = time.monotonic() + START_DEADLINE
        while not process.ready():
            assert time.monotonic() < deadline, process.last_words(40)
            time.sleep(0.25)
        yield Engine(process, Path(os.devnull), PREFILL)
    finally:
        process.ask_to_stop()
        process.stop()


@pytest.mark.engines(DECODE)
def test_an_engine_that_others_pull_from_and_that_stops_when_told(served: Engine, pool: EnginePool) -> None:
    [reader] = pool.get(DECODE)
    request_id = name("serve")
    disaggregated(served, reader, text(150), request_id)
    record = only_pull(reader, request_id)
    assert (record["status"], record["blocks"]) == ("ok", blocks_to_move(150))
    # The process that was started is vLLM itself: it is told to stop, and its status is what we see.
    assert b"vllm.entrypoints" in Path(f"/proc/{served.process.group}/cmdline").read_bytes()
    started = served.process._process
    assert started is not None
    started.send_signal(signal.SIGTERM)
    assert started.wait(STOP_DEADLINE) == 0, served.log


def test_what_vllm_refuses_is_vllms_own_answer(pool: EnginePool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvdirect", "serve", str(pool.model), "--no-such-thing", "1"],
        env={**os.environ, **CPU_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=START_DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert "error: unrecognized arguments: --no-such-thing" in done.stderr
