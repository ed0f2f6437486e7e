# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines of one process each (engine.py) that the tests of cache kinds start, and what they ask of them."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from images import Pictured

from kvdirect.harness.processes import CPU_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

START_DEADLINE = 300.0
ANSWER_DEADLINE = 240.0
ASK_TO_KEEP = {"do_remote_decode": True, "do_remote_prefill": False}
_NUMBERS = itertools.count()
# By layer, for each of its heads that a rank has; a layer without heads has one.
Digests = dict[str, list[str]]


@dataclass
class Engine:
    """A running engine; its answers are read from a pipe, everything else that it prints goes to `log`."""

    name: str
    folder: Path
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> Self:
        self.log = self.folder / f"{self.name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("engine.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **os.environ,
                    **CPU_ENVIRONMENT,
                    "HF_HUB_OFFLINE": "1",
                    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                    **self.environment,
                },
                start_new_session=True,
            )
        self._send(self.options)
        return self

    def ready(self) -> Self:
        self.groups = self._answer(START_DEADLINE)["groups"]
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self._do("ask", requests=list(requests))
        return answers

    def reset(self) -> None:
        assert self._do("reset"), "something still holds blocks"

    def wait_until_idle(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while any((held := self._do("held")).values()):
            assert time.monotonic() < deadline, f"{self.name} still holds {held}"
            time.sleep(0.02)

    def zero(self, layer: str | None) -> None:
        """Clear what arrives for this layer from now on."""
        self.corrupt("zero", [] if layer is None else [layer])

    def corrupt(self, how: str, layers: Sequence[str], ranks: Sequence[int] | None = None) -> None:
        """Clear ("zero") or reverse ("permute") what arrives for these layers from now on, on some ranks or on all."""
        self._inside("corrupt", how, list(layers), ranks)

    def digests(self, blocks: Sequence[list[list[int]]], rank: int = 0) -> list[Digests]:
        """Of what each layer's heads have in blocks, given for each group; one for each item."""
        found: list[Digests] = self._inside("digests_of", list(blocks))[rank]
        return found

    def landed(self, rank: int = 0) -> dict[str, Digests]:
        """Digests of what pulls brought, by request."""
        found: dict[str, Digests] = self._inside("digests_landed")[rank]
        return found

    def records(self) -> list[dict[str, Any]]:
        """Its pull log: one record for each request and rank."""
        return [json.loads(line) for line in (self.folder / f"{self.name}.pulls").read_text().splitlines()]

    def pulls(self) -> dict[str, dict[str, Any]]:
        """Records of its pull log, by request; of an engine of one rank."""
        return {record["request_id"].rsplit("-", 1)[0]: record for record in self.records()}

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def _inside(self, method: str, *arguments: object) -> list[Any]:
        """What a method of inside.py answers, by rank."""
        answers: list[Any] = self._do("inside", method=method, arguments=arguments)
        return answers

    def _do(self, what: str, **more: object) -> Any:  # noqa: ANN401
        self._send({"do": what, **more})
        return self._answer(ANSWER_DEADLINE)

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(f"{self.name} has ended:\n{self.last_words()}") from None

    def _answer(self, seconds: float) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], seconds)[0], f"{self.name} is silent:\n{self.last_words()}"
        line = self._process.stdout.readline()
        assert line, f"{self.name} has ended:\n{self.last_words()}"
        return json.loads(line)


def with_connector(options: Mapping[str, Any], name: str, folder: Path, role: str, **extra: object) -> dict[str, Any]:
    """Options of an engine that owns or reads."""
    if role == "kv_consumer":
        extra["pull_log"] = str(folder / f"{name}.pulls")
    transfer = {
        "kv_connector": "kvdirect",
        "kv_role": role,
        "kv_port": 0,
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"handshake_timeout": 30.0, **extra},
    }
    return {**options, "kv_transfer_config": transfer}


def name(what: str) -> str:
    return f"{what}-{next(_NUMBERS)}"


def request(what: str, prompt: list[int] | Pictured, max_tokens: int, **more: object) -> dict[str, Any]:
    """What engine.py is asked."""
    tokens, images = (prompt.tokens, prompt.images) if isinstance(prompt, Pictured) else (prompt, [])
    return {"id": name(what), "prompt": tokens, "images": images, "max_tokens": max_tokens, **more}
