# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One owner and one reader for each kind of cache, which is then done with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from images import make_seeing
from models import add_mtp, make, make_draft
from row_engines import Engine, with_connector
from rows import BLOCK, BY_NAME, ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Several ranks neither spin nor compile: there are two cores.
FEW_CORES = {"PYTHONPATH": str(Path(__file__).parents[1] / "vllm" / "few_cores"), "TORCHDYNAMO_DISABLE": "1"}
# These two are part of `make test`; `make test-kinds` runs all.
QUICK = ("window", "Mamba2")
_STARTS = pytest.StashKey[int]()


@dataclass(frozen=True)
class Pair:
    """The engines of a row. The reader without a ticket is the engine that it is compared with."""

    row: Row
    owner: Engine
    reader: Engine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pair" in metafunc.fixturenames:
        wanted = metafunc.definition.get_closest_marker("rows")
        rows = [row for row in ROWS if wanted is None or wanted.args[0](row)]
        marks = {row.name: [pytest.mark.vllm if row.name in QUICK else pytest.mark.kinds] for row in rows}
        values = [pytest.param(row.name, id=row.name.replace(" ", "-"), marks=marks[row.name]) for row in rows]
        metafunc.parametrize("pair", values, indirect=True, scope="session")


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    row = BY_NAME[request.param]
    yield from started(request, tmp_path_factory.mktemp(row.name.replace(" ", "-")), row)


@pytest.fixture(scope="session")
def unequal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair of engines of (row, ranks of the owner, ranks of the reader)."""
    name, *ranks = request.param
    row = BY_NAME[name]
    yield from started(request, tmp_path_factory.mktemp(row.name.replace(" ", "-")), row, ranks)


def started(request: pytest.FixtureRequest, folder: Path, row: Row, ranks: Sequence[int] = (1, 1)) -> Iterator[Pair]:
    usual: dict[str, Any] = {
        "model": str(model(folder / "model", row)),
        "dtype": row.dtype,
        "max_model_len": 2048,
        "max_num_batched_tokens": 192,
        "max_num_seqs": 16,
        "enforce_eager": True,
        "kv_cache_memory_bytes": 64 << 20,
        "block_size": BLOCK,
    }
    if row.draft is not None:
        usual["speculative_config"] = draft(folder, row, *row.draft)
    options = {key: value for key, value in (usual | row.options).items() if value is not None}
    engines = []
    for count, name, role in zip(ranks, ("owner", "reader"), ("kv_producer", "kv_consumer"), strict=True):
        cut = options | ({"tensor_parallel_size": count} if count > 1 else {})
        environment = {**row.environment, **(FEW_CORES if count > 1 else {})}
        engines.append(Engine(name, folder, with_connector(cut, name, folder, role), environment).start())
    request.config.stash[_STARTS] = request.config.stash.get(_STARTS, 0) + len(engines)
    with engines[0] as owner, engines[1] as reader:
        yield Pair(row, owner.ready(), reader.ready())


def model(folder: Path, row: Row) -> Path:
    if row.images:
        return make_seeing(folder, row.dtype, **row.change)
    return make(folder, row.architecture, row.dtype, **row.change)


def draft(folder: Path, row: Row, kind: str, heads: int) -> dict[str, Any]:
    """What proposes tokens: a part of the model itself, or a model beside it."""
    if kind == "mtp":
        add_mtp(folder / "model", row.architecture)
        return {"method": kind, "num_speculative_tokens": 1}
    path = str(make_draft(folder / "draft", kind, row.dtype, heads))
    return {"method": kind, "model": path, "num_speculative_tokens": 2}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if starts := config.stash.get(_STARTS, 0):
        terminalreporter.write_line(f"vLLM engines started for kinds of caches: {starts}")
