# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Keeps the engines of the tests: one of each kind, started before it is needed and ended after its last use."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from engines import SLOW_MACHINE, START_DEADLINE, USUAL, Engine, Spec
from span_receiver import SpanReceiver

from kvdirect.harness.processes import StartError, vllm_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

# One to compare with, one that lends, one that reads, and those of this test and the next ones. Most take 1 GiB and,
# when they have nothing to do, no time.
MAX_ALIVE = 12
# Starting an engine is ten seconds and more of importing, which one core does; there are two.
STARTING_AT_ONCE = 2
# What must be free for an engine to start before its time.
MEMORY_TO_SPARE = 3 << 30


@dataclass
class EnginePool:
    """At most MAX_ALIVE engines; the one that is needed latest makes room.

    Attributes:
        starts: engines started, restarts included.
        starting: seconds from an engine's start until it was ready, summed up.
        receiver: of the spans of engines that send any.
        waited: seconds for which tests stood still because an engine was not ready.
    """

    model: Path
    folder: Path
    starts: int = 0
    starting: float = 0.0
    waited: float = 0.0
    receiver: SpanReceiver = field(default_factory=SpanReceiver)
    _alive: dict[Spec, Engine] = field(default_factory=dict)
    _began: dict[Spec, float] = field(default_factory=dict)  # of those that are not known to be ready
    _ahead: Sequence[Spec] = ()
    _ending: list[threading.Thread] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)  # what is alive, and what will be

    def get(self, *specs: Spec) -> list[Engine]:
        """Engines for these specs; those that are missing start together."""
        assert len(specs) <= MAX_ALIVE
        with self._lock:
            missing = [spec for spec in specs if spec not in self._alive]
            while len(self._alive) + len(missing) > MAX_ALIVE:
                self._end(max((spec for spec in self._alive if spec not in specs), key=self._next_use))
            for spec in missing:
                self._start(spec)
        for spec in specs:
            self._wait(spec)
        return [self._alive[spec] for spec in specs]

    def look_ahead(self, specs: Sequence[Spec]) -> None:
        """End the engines that are not among these any more.

        Args:
            specs: What the tests to come need, in that order.
        """
        with self._lock:
            self._ahead = specs
            for spec in [spec for spec in self._alive if spec not in specs]:
                self._end(spec)

    def start_ahead(self) -> None:
        """Start the first of the engines to come that are missing. Meant for another thread than the tests'."""
        for spec in list(self._began):
            self._look_at(spec)
        with self._lock:
            for spec in self._ahead:
                full = len(self._alive) >= MAX_ALIVE or free_memory() < MEMORY_TO_SPARE
                if full or len(self._began) >= STARTING_AT_ONCE:
                    break
                if spec not in self._alive:
                    self._start(spec)

    def restart(self, engine: Engine) -> None:
        """Start it again after its end, at the same address: the command is the same, ports and engine id included."""
        self.starts += 1
        self._began[engine.spec] = time.monotonic()
        engine.process.start()
        self._wait(engine.spec)

    def stop(self, spec: Spec) -> None:
        """Before its time: only a test to come will start it again."""
        with self._lock:
            self._ahead = [other for other in self._ahead if other != spec]
            ending = self._end(spec)
        ending.join()

    def stop_all(self) -> None:
        with self._lock:
            self._ahead = ()
            for spec in list(self._alive):
                self._end(spec)
        for ending in self._ending:
            ending.join()
        self.receiver.close()

    def _end(self, spec: Spec) -> threading.Thread:
        """Ask it to stop; the thread ends with it."""
        engine = self._alive.pop(spec)
        self._began.pop(spec, None)
        engine.process.ask_to_stop()
        ending = threading.Thread(target=engine.process.stop, name=f"end of {engine.process.name}")
        ending.start()
        self._ending.append(ending)
        return ending

    def _next_use(self, spec: Spec) -> int:
        return self._ahead.index(spec) if spec in self._ahead else len(self._ahead)

    def _start(self, spec: Spec) -> None:
        self.starts += 1
        engine = self._make(spec)
        engine.process.start()
        self._alive[spec], self._began[spec] = engine, time.monotonic()

    def _make(self, spec: Spec) -> Engine:
        def here(value: str) -> str:
            return value.replace("FOLDER", str(self.folder)).replace("RECEIVER", self.receiver.url)

        name = f"engine-{self.starts:02d}-{spec.role or 'aggregated'}"
        pull_log = self.folder / f"{name}.pulls.jsonl"
        extra = SLOW_MACHINE | {key: json.loads(here(value)) for key, value in spec.extra}
        if spec.role in {"kv_consumer", "kv_both"}:
            extra["pull_log"] = str(pull_log)
        given = (USUAL | dict(spec.options)).items()
        options = [here(word) for key, value in given if value is not None for word in (key, value) if word]
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
                del transfer["kv_load_failure_policy"]  # vLLM's, whatever the connector
                all_of_them = {"connectors": [transfer | other for other in json.loads(here(spec.beside))]}
                transfer = {
                    "kv_connector": "MultiConnector",
                    "kv_role": spec.role,
                    "kv_connector_extra_config": all_of_them,
                    "kv_load_failure_policy": spec.policy,
                }
        process = vllm_engine(name, str(self.model), self.folder, options=options, transfer=transfer, offline=True)
        process.environment = {**process.environment, **dict(spec.environment)}
        return Engine(process, pull_log, spec)

    def _wait(self, spec: Spec) -> None:
        """Until it is ready, from its start on for START_DEADLINE at most."""
        process, began = self._alive[spec].process, time.monotonic()
        try:
            while spec in self._began:
                if process.ready():
                    self._is_ready(spec)
                    break
                late = time.monotonic() - self._began.get(spec, began) > START_DEADLINE
                assert not late, f"not ready after {START_DEADLINE:.0f} s; {process.last_words(40)}"
                time.sleep(0.1)
        except BaseException:
            self.stop(spec)
            raise
        finally:
            self.waited += time.monotonic() - began

    def _look_at(self, spec: Spec) -> None:
        """Whether it is ready by now; if it has ended, whoever needs it shall hear of it."""
        with contextlib.suppress(StartError, KeyError):
            if self._alive[spec].process.ready():
                self._is_ready(spec)

    def _is_ready(self, spec: Spec) -> None:
        with self._lock:
            if (began := self._began.pop(spec, None)) is not None:
                self.starting += time.monotonic() - began


def free_memory() -> int:
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


class LookAhead:
    """A pytest plugin for all tests of a session: engines start while tests that come before still run.

    What a test needs is said by its marker `engines`: specs, or a function that tells them of the test.
    """

    def __init__(self, needs: dict[str, Sequence[Spec]], pool: EnginePool) -> None:
        """Args:
        needs: of each test that is still to come, by its id, in the order in which they run.
        pool: where they come from.
        """
        self._needs, self._pool = needs, pool
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_starting, name="engines-ahead", daemon=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        ahead = [spec for specs in self._needs.values() for spec in specs]
        self._pool.look_ahead(list(dict.fromkeys(ahead)))
        self._needs.pop(nodeid, None)
        if self._thread.ident is None:
            self._thread.start()

    @pytest.hookimpl(tryfirst=True)  # before the pool stops all
    def pytest_sessionfinish(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _keep_starting(self) -> None:
        while not self._over.is_set():
            self._pool.start_ahead()
            self._over.wait(0.5)
