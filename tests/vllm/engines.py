# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Real vLLM engines for the tests: started once for each configuration, kept while there is room."""

from __future__ import annotations

import importlib.util
import itertools
import json
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from kvdirect.harness.accounting import Sample, metrics, total
from kvdirect.harness.processes import ManagedProcess, vllm_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# One to compare with, one that lends, one that reads, and those of the tests at hand. An engine takes 1.5 GiB and, when
# it has nothing to do, no time; starting it takes twenty seconds on two cores.
MAX_ALIVE = 6
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


@dataclass(frozen=True, slots=True)
class Spec:
    """How an engine is started; equal specs share one process.

    Attributes:
        role: "" for an engine without a connector.
        extra: kv_connector_extra_config as (key, value) pairs, values as JSON.
        options: command-line options that override the usual ones.
        by_flag: start with --kv-connector instead of --kv-transfer-config.
        policy: kv_load_failure_policy.
        kv_port: of the handshake; 0 for any free one.
        engine_id: that other engines know it by; empty: a fresh one.
        beside: another connector's kv-transfer-config, as JSON, for vLLM's MultiConnector; empty: only ours.
        environment: more variables, as (name, value) pairs.
    """

    role: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    by_flag: bool = False
    policy: str = "fail"
    kv_port: int = 0
    engine_id: str = ""
    beside: str = ""
    environment: tuple[tuple[str, str], ...] = ()


PREFILL = Spec("kv_producer")
DECODE = Spec("kv_consumer")
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
        return httpx.post(self.url + path, json=body, headers={"X-Request-Id": request_id}, timeout=120.0)

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
        return httpx.get(f"{self.url}/health", timeout=10.0).status_code == 200


@dataclass
class EnginePool:
    """At most MAX_ALIVE engines; the one that was used longest ago makes room."""

    model: Path
    folder: Path
    starts: int = 0
    seconds: float = 0.0
    _alive: OrderedDict[Spec, Engine] = field(default_factory=OrderedDict)

    def get(self, *specs: Spec) -> list[Engine]:
        """Engines for these specs; those that are missing start together."""
        assert len(specs) <= MAX_ALIVE
        for spec in specs:
            if spec in self._alive:
                self._alive.move_to_end(spec)
        missing = [spec for spec in specs if spec not in self._alive]
        while len(self._alive) + len(missing) > MAX_ALIVE:
            oldest = next(spec for spec in self._alive if spec not in specs)
            self.stop(oldest)
        began = time.monotonic()
        for spec in missing:
            self._alive[spec] = self._start(spec)
        for spec in missing:
            self._wait(spec, began)
        if missing:
            self.seconds += time.monotonic() - began
        return [self._alive[spec] for spec in specs]

    @property
    def alive(self) -> list[Spec]:
        return list(self._alive)

    def restart(self, engine: Engine) -> None:
        """Start it again after its end, at the same address: the command is the same, ports and engine id included."""
        self.starts += 1
        began = time.monotonic()
        engine.process.start()
        self._wait(engine.spec, began)
        self.seconds += time.monotonic() - began

    def stop(self, spec: Spec) -> None:
        engine = self._alive.pop(spec)
        engine.process.ask_to_stop()
        engine.process.stop()

    def stop_all(self) -> None:
        for engine in self._alive.values():
            engine.process.ask_to_stop()
        for spec in list(self._alive):
            self.stop(spec)

    def _start(self, spec: Spec) -> Engine:
        self.starts += 1
        name = f"engine-{self.starts:02d}-{spec.role or 'aggregated'}"
        pull_log = self.folder / f"{name}.pulls.jsonl"
        extra = SLOW_MACHINE | {key: json.loads(value) for key, value in spec.extra}
        if spec.role in {"kv_consumer", "kv_both"}:
            extra["pull_log"] = str(pull_log)
        options = [word for pair in (USUAL | dict(spec.options)).items() for word in pair]
        transfer: dict[str, Any] | None = None
        if spec.by_flag:
            rest = {"kv_port": spec.kv_port, "kv_connector_extra_config": extra, "kv_load_failure_policy": spec.policy}
            options += ["--kv-connector", "kvdirect", "--kv-role", spec.role]
            options += ["--kv-transfer-config", json.dumps(rest)]
        elif spec.role:
            transfer = {
                "kv_connector": "kvdirect",
                "kv_role": spec.role,
                "kv_port": spec.kv_port,
                "kv_connector_extra_config": extra,
                "kv_load_failure_policy": spec.policy,
            }
            if spec.engine_id:
                transfer["engine_id"] = spec.engine_id
            if spec.beside:
                both = {"connectors": [transfer, json.loads(spec.beside)]}
                transfer = {"kv_connector": "MultiConnector", "kv_role": spec.role, "kv_connector_extra_config": both}
        process = vllm_engine(name, str(self.model), self.folder, options=options, transfer=transfer, offline=True)
        process.environment = {**process.environment, **dict(spec.environment)}
        process.start()
        return Engine(process, pull_log, spec)

    def _wait(self, spec: Spec, began: float) -> None:
        engine = self._alive[spec]
        try:
            while not engine.process.ready():
                late = time.monotonic() - began > START_DEADLINE
                assert not late, f"not ready after {START_DEADLINE:.0f} s; {engine.process.last_words(40)}"
                time.sleep(0.25)
        except BaseException:
            self.stop(spec)
            raise


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
    with httpx.stream(
        "POST", engine.url + path, json={**body, "stream": True}, headers=headers, timeout=120.0
    ) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[6:])


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
