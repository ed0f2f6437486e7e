# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines with their caches on a GPU: a real one where there is one, else the simulated driver of the C++ tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from transfer.harness import Process

import kvtransfer as kt
from kvtransfer.doctor.programs import ProgramError, ask

from .gpu_layout import Bytes, GpuLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def driver_has_gpus() -> bool:
    """By asking it: which files show a GPU differs between hosts, containers and WSL.

    In another process, as it may crash, and this one must not hold a GPU that the engines under test need.
    """
    try:
        return bool(ask("list_gpus")["devices"])
    except ProgramError:
        return False


@pytest.fixture(scope="session")
def driver() -> str:
    """The library to load as CUDA's driver; empty for the system's."""
    if not kt.CUDA_BUILD:
        pytest.skip("this build has no CUDA parts: there was no nvcc")
    if driver_has_gpus():
        return ""
    simulated = os.environ.get("KVDIRECT_SIM_CUDA", "")
    if not Path(simulated).is_file():
        pytest.skip("no NVIDIA GPU, and KVDIRECT_SIM_CUDA names no simulated driver (make test builds it)")
    return simulated


class GpuEngine:
    """An engine in another process, and its cache as the test knows it."""

    def __init__(self, driver: str, layout: GpuLayout, seed: int, **environment: str) -> None:
        self.layout = layout
        self.before: Bytes = layout.random(seed)
        self._seed = seed
        self.process = Process(
            module="gpu.gpu_agent",
            environment={
                "KVDIRECT_TESTS_CUDA_DRIVER": driver,
                # The simulated driver: memory of the GPU that the host touches ends the process.
                "KVDIRECT_SIM_CUDA_GUARD": "1",
                **environment,
            },
        )
        self.descriptor = ""
        self.problems: dict[str, str] = {}

    def start(
        self,
        name: str,
        *,
        pieces: int = 0,
        exportable: bool = True,
        disguised: bool = False,
        spare: bool = False,
        **config: object,
    ) -> GpuEngine:
        told = self.call(
            "start",
            name=name,
            seed=self._seed,
            layout=self.layout.as_json(),
            pieces=pieces,
            exportable=exportable,
            disguised=disguised,
            spare=spare,
            config=config,
        )
        self.descriptor, self.problems = told["descriptor"], told["problems"]
        return self

    def call(self, do: str, **arguments: object) -> Any:  # noqa: ANN401
        return self.process.call(do, **arguments)

    def contents(self) -> Bytes:
        return self.layout.from_memory(bytes.fromhex(self.call("contents")))


@pytest.fixture
def launch(driver: str) -> Iterator[Callable[..., GpuEngine]]:
    """Make a process; `start` its engine."""
    made: list[GpuEngine] = []

    def launch_one(layout: GpuLayout | None = None, seed: int = 0, **environment: str) -> GpuEngine:
        made.append(GpuEngine(driver, layout or GpuLayout(), seed, **environment))
        return made[-1]

    yield launch_one
    for engine in made:
        engine.process.stop()


@pytest.fixture
def simulated(driver: str) -> None:
    """For tests of what only the simulated driver tells."""
    if not driver:
        pytest.skip("counts what the simulated driver handed out; this machine has a real GPU")
