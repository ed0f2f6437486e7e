# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What takes part: engines, the connector between them, and where each keeps account of its transfers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect.harness.processes import free_port, router, vllm_engine
from kvdirect_bench.pythons import find_python

from .options import AGGREGATED, AT_ONCE, KVDIRECT, NIXL_BEST, STREAMED
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .options import Options

# Holds a sitecustomize.py, which obeys the variables below and says what they do.
_ENGINE_START = Path(__file__).parent / "engine_start"
_SLEEP, _BEST = "KVDIRECT_BENCH_SLEEP", "KVDIRECT_BENCH_NIXL_BEST"
# Of each one that runs at once: blocks are soon used again, as in a server that has run for a while, and up to seven
# engines share a machine's memory.
_CACHED_REQUESTS = 8
_LEAST_CACHE_TOKENS = 4096
_CPUS = sorted(os.sched_getaffinity(0))
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Connector:
    """A connector as vLLM is told of it.

    Attributes:
        settings: of kv-transfer-config, without the role.
        histogram: vLLM's name for the times of its transfers.
        python: runs its engines.
        port_variable: the environment variable for the port that it listens on, where it is told so.
        environment: more variables of its engines.
    """

    settings: Mapping[str, object]
    histogram: str
    python: str | None = None
    port_variable: str = ""
    environment: tuple[tuple[str, str], ...] = ()


def make_service(name: str, model: Path, folder: Path, options: Options) -> Service:
    """The processes of one contender, not yet started.

    Raises:
        BenchError: A library that it needs is missing.
    """
    words = engine_options(options)
    if name == AGGREGATED:
        engine = vllm_engine(name, str(model), folder, options=words, offline=True)
        engine.environment = {**engine.environment, **_environment(options)}
        return Service(name, None, engine, router(None, engine, folder, f"{name}-router"), "")
    connector = _connector(name, options)
    engines = []
    for role in ("producer", "consumer"):
        transfer = {**connector.settings, "kv_role": f"kv_{role}"}
        part = "prefill" if role == "producer" else "decode"
        python = {} if connector.python is None else {"python": connector.python}
        engine = vllm_engine(
            f"{name}-{part}", str(model), folder, options=words, transfer=transfer, offline=True, **python
        )
        more = _environment(options, connector.environment, connector.port_variable)
        engine.environment = {**engine.environment, **more}
        engines.append(engine)
    prefill, decode = engines
    if options.apart:
        prefill.command = ["taskset", "--cpu-list", ",".join(map(str, prefill_cpus())), *prefill.command]
    dispatch = ("--dispatch", "concurrent") if name in {AT_ONCE, STREAMED} else ()
    front = router(prefill, decode, folder, f"{name}-router", options=dispatch)
    return Service(name, prefill, decode, front, connector.histogram)


def prefill_cpus() -> list[int]:
    """Half of those that this process could use at its start; the rest is for everybody else."""
    return _CPUS[: len(_CPUS) // 2]


def keep_to_the_rest() -> None:
    """This process, and what it starts from now on, leave `prefill_cpus` alone."""
    os.sched_setaffinity(0, _CPUS[len(_CPUS) // 2 :])


def engine_options(options: Options) -> list[str]:
    """What every engine is told: room for a whole prompt in one step, so that all of them add in the same order."""
    length = options.prompt_tokens + options.output_tokens
    shape = options.shape
    token_bytes = shape.layers * 2 * shape.kv_heads * shape.head_size * _DTYPE_BYTES[options.dtype]
    tokens = max(_LEAST_CACHE_TOKENS, _CACHED_REQUESTS * length * options.concurrency)
    return [
        *("--dtype", options.dtype, "--max-model-len", str(length)),
        *(
            "--max-num-batched-tokens",
            str(options.step_tokens or max(length, 2048)),
            "--max-num-seqs",
            str(options.concurrency),
        ),
        *("--kv-cache-memory-bytes", str(tokens * token_bytes)),
    ]


def find_nixl(pythons: Mapping[str, str]) -> str:
    """A Python that has vLLM and NIXL: one process cannot hold NIXL's UCX and ours, so it need not be this one.

    Raises:
        BenchError: There is none.
    """
    return find_python("nixl", pythons, environment="serving-nixl", target="bench-serving-peers")


def _connector(name: str, options: Options) -> _Connector:
    if name in {KVDIRECT, AT_ONCE, STREAMED}:
        extra: dict[str, object] = {"lanes": list(options.lanes)} if options.lanes else {}
        if name == STREAMED:
            extra["streamed"] = True
        if options.keep is not None:
            extra["log_requests"] = True
        return _Connector(
            {"kv_connector": "kvdirect", "kv_port": 0, "kv_connector_extra_config": extra},
            "vllm:kvdirect_xfer_time_seconds",
        )
    best = name == NIXL_BEST
    agent = {"num_threads": 0} if best else {}  # beside the one that polls
    return _Connector(
        {"kv_connector": "NixlConnector", "kv_buffer_device": "cpu", "kv_connector_extra_config": agent},
        "vllm:nixl_xfer_time_seconds",
        python=find_nixl(options.pythons),
        port_variable="VLLM_NIXL_SIDE_CHANNEL_PORT",
        environment=((_BEST, "1"),) if best else (),
    )


def _environment(options: Options, more: Sequence[tuple[str, str]] = (), port_variable: str = "") -> dict[str, str]:
    """Variables of one engine beside those that every engine has."""
    changes = {**dict(more), **({_SLEEP: "1"} if options.waiting == "sleep" else {})}
    if changes:
        changes |= _at_start()
    if port_variable:
        changes[port_variable] = str(free_port())
    return changes


def sleeping() -> dict[str, str]:
    """Variables of an engine whose processes sleep while they wait for each other, where engines outnumber cores."""
    return {_SLEEP: "1", **_at_start()}


def _at_start() -> dict[str, str]:
    paths = (str(_ENGINE_START), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
