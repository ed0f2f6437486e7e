# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What several files of unit tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvdirect.harness.model import make_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from played_scheduler import Played
    from played_worker import Half

    from kvdirect.keys.tls import Keys


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one layer."""
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "m", layers=1)


@pytest.fixture
def keys(tmp_path: Path) -> Callable[..., Keys]:
    """The keys of an engine whose list has these others."""
    from kvdirect.keys.identity import generate  # noqa: PLC0415  (some tests do without what vLLM brings along)
    from kvdirect.keys.tls import Keys  # noqa: PLC0415

    def of(name: str, *others: str) -> Keys:
        for each in (name, *others):
            if not (tmp_path / f"{each}.key").exists():
                generate(tmp_path / f"{each}.key", f"engine {each}")
        peers = tmp_path / f"peers-of-{name}"
        peers.write_bytes(b"".join((tmp_path / f"{each}.pub").read_bytes() for each in others))
        return Keys(tmp_path / f"{name}.key", peers)

    return of


@pytest.fixture
def play(model: Path) -> Iterator[Callable[..., Played]]:
    """Starts vLLM's scheduler with our connector in it, by role, and ends all of them."""
    from played_scheduler import stage  # noqa: PLC0415  (as above)

    with stage(model) as start:
        yield start


@pytest.fixture
def start(model: Path) -> Iterator[Callable[..., Half]]:
    """Starts worker halves with real engines, by role, and closes all of them."""
    from played_worker import halves  # noqa: PLC0415  (as above)

    with halves(model) as one:
        yield one
