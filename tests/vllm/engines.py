# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Real vLLM engines for the tests: how they start, what they are asked, and what they hold; pool.py keeps them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from span_receiver import OVER_HTTP

from kvdirect.harness.accounting import metrics, total
from kvdirect.harness.http_client import event_data, http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import httpx
    from pool import EnginePool
    from prometheus_client.samples import Sample

    from kvdirect.harness.processes import ManagedProcess

START_DEADLINE = 300.0
MODEL_NAME = "demo"
BLOCK = 32
CACHE_BYTES = 64 << 20
# Small enough that the longer prompts are prefilled in chunks, on every engine of the tests.
BATCHED_TOKENS = 192


def _host_lane() -> str:
    """The lane between two engines on this host: whether the cache is born in shared memory is for vLLM to ask."""
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None, "vLLM is not installed"
    assert vllm.origin is not None
    connector = Path(vllm.origin).parent / "distributed/kv_transfer/kv_connector/v1/base.py"
    return "shm" if "def get_mem_pool_context" in connector.read_text() else "cma"


HOST_LANE = _host_lane()
# Tokens in, tokens out: a path that engines serve when asked to, where vLLM has it.
TOKENS_IN = importlib.util.find_spec("vllm.entrypoints.scale_out") is not None

# Worker and core in one process, as vLLM has them on one GPU. On a CPU the worker has one of its own by default: one
# more to start, and two that poll for each other's messages as fast as they can, for a second after each.
ONE_PROCESS = (("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),)
# Processes that sleep where they would poll: several to an engine outnumber the cores of a small machine.
SLEEPING = (("PYTHONPATH", str(Path(__file__).parent / "few_cores")),)


@dataclass(frozen=True, slots=True)
class Spec:
    """How an engine is started; equal specs share one process.

    Attributes:
        role: "" for an engine without a connector.
        extra: kv_connector_extra_config as (key, value) pairs, values as JSON.
        options: command-line options that override the usual ones: "" for one without a value, None to leave it out.
        by_flag: start with --kv-connector instead of --kv-transfer-config.
        policy: kv_load_failure_policy.
        kv_port: of the handshake; 0 for any free one.
        engine_id: that other engines know it by; empty: a fresh one.
        beside: for vLLM's MultiConnector, a list of kv-transfer-configs as JSON; each overrides ours, so {} is ours.
            Empty: only ours.
        environment: more variables, as (name, value) pairs.

    "FOLDER" in a value stands for the folder of the pool that starts it, "RECEIVER" for the URL of its receiver
    of spans.
    """

    role: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str | None], ...] = ()
    by_flag: bool = False
    policy: str = "fail"
    kv_port: int = 0
    engine_id: str = ""
    beside: str = ""
    environment: tuple[tuple[str, str], ...] = ONE_PROCESS


# Most tests use these two, which are as a CPU has them; the others are as a GPU has them. They tell of requests
# in every way that there is.
TOLD: dict[str, Any] = {
    "extra": (("log_requests", "true"),),
    "options": (("--otlp-traces-endpoint", "RECEIVER"),),
    "environment": (*SLEEPING, *OVER_HTTP),
}
# The development mode serves /pause.
PREFILL = Spec("kv_producer", **{**TOLD, "environment": (*TOLD["environment"], ("VLLM_SERVER_DEV_MODE", "1"))})
DECODE = Spec("kv_consumer", **TOLD)
AGGREGATED = Spec()
# Few blocks, few running requests, few leases, which end soon: what is held too long is missed at once. As a reader it
# takes the lane that needs the owner's help, so that a stopped owner holds a pull.
SMALL = Spec(
    "kv_both",
    extra=(("lanes", '["message"]'), ("lease_first_term", "20"), ("lease_slots", "32")),
    options=(
        ("--kv-cache-memory-bytes", str(24 * 128 << 10)),
        ("--max-model-len", "704"),
        ("--max-num-seqs", "2"),
        ("--max-num-batched-tokens", "4"),
        ("--long-prefill-token-threshold", "2"),  # so that two prefills run beside each other
    ),
    policy="recompute",
)
# The default suits a data centre; here the first connect may meet a dozen processes on two cores.
SLOW_MACHINE: dict[str, Any] = {"handshake_timeout": 30.0}
USUAL = {
    "--dtype": "float32",
    "--block-size": str(BLOCK),
    "--max-model-len": "2048",
    "--max-num-batched-tokens": str(BATCHED_TOKENS),
    "--kv-cache-memory-bytes": str(CACHE_BYTES),
    **({"--enable-scale-out": ""} if TOKENS_IN else {}),
}


@dataclass
class Engine:
    """One running engine."""

    process: ManagedProcess
    pull_log: Path
    spec: Spec

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def log(self) -> str:
        return self.process.log.read_text(errors="replace")

    def post(self, path: str, body: Mapping[str, Any], request_id: str) -> httpx.Response:
        return http().post(self.url + path, json=body, headers={"X-Request-Id": request_id}, timeout=120.0)

    def complete(self, prompt: str, request_id: str, *, max_tokens: int = 16, **more: object) -> dict[str, Any]:
        """One completion, greedy; the whole response."""
        response = self.post("/v1/completions", completion_body(prompt, max_tokens, **more), request_id)
        assert response.status_code == 200, f"{response.text}; {self.complaints(request_id)}"
        answer: dict[str, Any] = response.json()
        return answer

    def complaints(self, request_id: str) -> str:
        """Why its pulls failed and what the log says last, for the message of an assertion."""
        reasons = [record["reason"] for record in self.pulls(request_id) if record["reason"]]
        lines = [line[:300] for line in self.log.splitlines() if "ERROR" in line or "WARNING" in line]
        return "\n".join([f"pulls: {reasons}; the log:", *lines[-12:]])

    def samples(self) -> list[Sample]:
        return metrics(self.url)

    def metric(self, name: str, **labels: str) -> float:
        return total(self.samples(), name, **labels)

    def pulls(self, request_id: str = "") -> list[dict[str, Any]]:
        """Records of the pull log, those of one request or all."""
        lines = self.pull_log.read_text().splitlines() if self.pull_log.exists() else []
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [record for record in records if request_id in record["request_id"]]

    def healthy(self) -> bool:
        return http().get(f"{self.url}/health", timeout=10.0).status_code == 200


def completion_body(prompt: str, max_tokens: int, **more: object) -> dict[str, Any]:
    return {
        "model": MODEL_NAME,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


ASK_TO_KEEP: dict[str, Any] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def prefill(owner: Engine, prompt: str, request_id: str) -> dict[str, Any]:
    """What a router asks of the prefill engine; the parameters that it got back."""
    answer = owner.complete(prompt, request_id, max_tokens=1, stream=False, kv_transfer_params=ASK_TO_KEEP)
    params: dict[str, Any] = answer["kv_transfer_params"]
    return params


def disaggregated(
    owner: Engine,
    reader: Engine,
    prompt: str,
    request_id: str,
    *,
    max_tokens: int = 16,
    on_the_way: Callable[[dict[str, Any]], dict[str, Any]] = lambda params: params,
) -> dict[str, Any]:
    """Prefill at one engine, decode at the other, as simple routers do it."""
    params = on_the_way(prefill(owner, prompt, request_id))
    return reader.complete(prompt, request_id, max_tokens=max_tokens, kv_transfer_params=params)


def tokens(answer: Mapping[str, Any]) -> list[int]:
    ids: list[int] = answer["choices"][0]["token_ids"]
    return ids


def stream(
    engine: Engine, body: dict[str, Any], request_id: str, *, path: str = "/v1/completions"
) -> Iterator[dict[str, Any]]:
    """Server-sent chunks as they come."""
    headers = {"X-Request-Id": request_id}
    with http().stream(
        "POST", engine.url + path, json={**body, "stream": True}, headers=headers, timeout=120.0
    ) as response:
        assert response.status_code == 200, response.read()
        yield from map(json.loads, event_data(response))


def wait_until(what: Callable[[], bool], why: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {why}"
        time.sleep(0.05)


def ended_leases(engine: Engine, reason: str) -> float:
    return engine.metric("vllm:kvdirect_num_ended_leases_total", reason=reason)


def wait_until_idle(*engines: Engine, seconds: float = 30.0) -> None:
    """Nothing runs, nothing waits, no block is held, every lease has ended; and the engine is alive."""

    def busy(engine: Engine) -> list[str]:
        samples = engine.samples()
        gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        held = [name for name in gauges if total(samples, name)]
        granted, ended = (total(samples, f"vllm:kvdirect_num_{what}_leases_total") for what in ("granted", "ended"))
        return held + ([f"{granted - ended:.0f} leases"] if granted != ended else [])

    deadline = time.monotonic() + seconds
    for engine in engines:
        while left := busy(engine):
            assert time.monotonic() < deadline, f"{engine.process.name} after {seconds:.0f} s still has {left}"
            time.sleep(0.05)
        assert engine.healthy()


def wait_until_ended(engine: Engine, reason: str, count: float) -> None:
    """So many leases have ended so, and then nothing is left.

    In this order: vLLM publishes a step's numbers after it has answered the step's requests, so an engine looks idle
    for a moment.
    """
    wait_until(lambda: ended_leases(engine, reason) >= count, f"{count:.0f} leases {reason}", 60.0)
    wait_until_idle(engine)
    assert ended_leases(engine, reason) == count


_NUMBERS = itertools.count()
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box with quiet jugglers and pack my liquor jug "


def text(length: int) -> str:
    """A prompt of `length` tokens that begins like no other, so that no prefix of it is cached anywhere."""
    start = f"{next(_NUMBERS):06d} "
    return (start + WORDS * (length // len(WORDS) + 1))[:length] if length > len(start) else WORDS[-length:]


def name(what: str) -> str:
    return f"{what}-{next(_NUMBERS)}-"


def block_bytes(pool: EnginePool) -> int:
    """Bytes of one block over all layers, K and V, from the model's own description."""
    config = json.loads((pool.model / "config.json").read_text())
    return int(config["num_hidden_layers"] * 2 * config["num_key_value_heads"] * config["head_dim"] * 4 * BLOCK)


def blocks_to_move(prompt_tokens: int, local_hits: int = 0) -> int:
    """Whole blocks that hold the prompt but its last token, which the reader computes, less those it has."""
    return -(-(prompt_tokens - 1) // BLOCK) - local_hits // BLOCK


def only_pull(reader: Engine, request_id: str) -> dict[str, Any]:
    records = reader.pulls(request_id)
    assert len(records) == 1, records
    return records[0]
