# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The README's engines, router and curl lines, as they are written; only ports and MODEL are put in."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import TYPE_CHECKING

import accounts
import httpx
import pytest
from documents import ROOT
from programs import running, shell, start_router

from kvdirect.harness.model import make_tiny_llama
from kvdirect.harness.processes import CPU_ENVIRONMENT, free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# What makes an engine small, and lets others run beside it.
SMALL = (
    "--served-model-name MODEL --enforce-eager --dtype float32 --max-model-len 512 --max-num-seqs 4 "
    "--kv-cache-memory-bytes 33554432 --kv-transfer-config.kv_port 0"
)


def test_engines_router_and_clients(tmp_path: Path) -> None:
    prefill, decode, proxy, completion, status = accounts.ENGINES
    model = make_tiny_llama(tmp_path / "model")
    ports = {"8100": str(free_port()), "8200": str(free_port())}
    environment = {**CPU_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}

    def here(text: str) -> str:
        for written, real in ports.items():
            text = re.sub(rf"\b{written}\b", real, text)
        return text

    with contextlib.ExitStack() as stack:
        engines = []
        for command in (prefill, decode):
            script = here(command).replace("MODEL", f"{model} --host 127.0.0.1 {SMALL}")
            engines.append(stack.enter_context(running(f"exec {script}", tmp_path, **environment)))
        for engine in engines:
            engine.wait("Application startup complete", 600)
        router = start_router(stack, here(proxy).replace("--port 8000", "--port 0"), tmp_path, tmp_path)
        ports["8000"] = router.rpartition(":")[2]
        shell(f"curl -sf --retry 60 --retry-all-errors --retry-delay 1 {router}/health", tmp_path)

        answer = json.loads(shell(here(completion), tmp_path))
        assert answer["usage"]["completion_tokens"] == 16, answer
        told = json.loads(shell(here(status), tmp_path))
        assert told["counters"]["prefills"]["disaggregated"] == 1, told
        wait_for_a_pull(here("http://127.0.0.1:8200"))
        assert_documented_metrics_exist([here(f"http://127.0.0.1:{port}") for port in ("8000", "8100", "8200")])


def wait_for_a_pull(url: str) -> None:
    """Engines tell their metrics now and then."""
    deadline = time.monotonic() + 60
    while not re.search(r'^vllm:kvdirect_bytes_transferred_count{.*lane="\w+".*} 1\.0$', page(url), re.MULTILINE):
        assert time.monotonic() < deadline, page(url)
        time.sleep(0.5)


def page(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=30).text


def assert_documented_metrics_exist(urls: list[str]) -> None:
    """Every metric that the operations page names is on one of these pages."""
    exposed = "\n".join(page(url) for url in urls)
    text = (ROOT / "docs/operations.md").read_text()
    names = set(re.findall(r"`((?:vllm:kvdirect|kvdirect_router)_\w+)`", text))
    assert len(names) >= 12
    assert [name for name in sorted(names) if f"# TYPE {name} " not in exposed] == []
