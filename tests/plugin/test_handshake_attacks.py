# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An owner under each attack on its handshake port: its memory stays, and readers are answered meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from handshake_attacks import ATTACKS, ATTACKS_ON_KEYS
from handshake_owner import HELLO, OwnerProcess, welcome

from kvdirect.handshake.client import ask
from kvdirect.handshake.crowd import MOST_CONNECTIONS
from kvdirect.keys.identity import generate
from kvdirect.keys.tls import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

# What all connections together may cost it: MOST_CONNECTIONS hellos of MAX_HELLO bytes are 4 MiB, and as much again
# for what Python and its allocator keep of each.
BUDGET = 16 << 20
# And what OpenSSL keeps of each, in the worst case the 16 KiB record that it is in.
BUDGET_OF_TLS = BUDGET + (32 << 20)
ANSWER = 1024  # descriptors of 1 KiB
ASKED = 20


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owner") / "log"


@pytest.fixture(scope="module")
def owner(log: Path) -> Iterator[OwnerProcess]:
    with log.open("w") as lines, OwnerProcess(ANSWER, lines) as owner:
        for _ in range(100):
            ask("127.0.0.1", owner.port, HELLO, timeout=30)
        yield owner
        owner.close()


@pytest.fixture(scope="module")
def before(owner: OwnerProcess) -> int:
    return owner.memory()


@pytest.mark.parametrize("attack", ATTACKS)
def test_memory_stays_and_readers_are_answered(owner: OwnerProcess, before: int, log: Path, attack: str) -> None:
    most = under_attack(owner, before, log, [attack])
    assert most < BUDGET


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys: an owner and a reader who know each other, and a stranger."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("owner", "reader", "stranger"):
        generate(folder / f"{name}.key", name)
    return folder


@pytest.fixture(scope="module")
def keyed_owner(log: Path, files: Path) -> Iterator[OwnerProcess]:
    keys = (files / "owner.key", files / "reader.pub")
    with log.open("w") as lines, OwnerProcess(ANSWER, lines, keys=keys) as owner:
        for _ in range(100):
            ask("127.0.0.1", owner.port, HELLO, timeout=30, keys=Keys(files / "reader.key", files / "owner.pub"))
        yield owner
        owner.close()


@pytest.fixture(scope="module")
def before_keyed(keyed_owner: OwnerProcess) -> int:
    return keyed_owner.memory()


@pytest.mark.parametrize("attack", ATTACKS_ON_KEYS)
def test_with_keys(keyed_owner: OwnerProcess, before_keyed: int, log: Path, files: Path, attack: str) -> None:
    keys = Keys(files / "reader.key", files / "owner.pub")
    most = under_attack(keyed_owner, before_keyed, log, [attack, str(files / "stranger.key")], keys)
    assert most < BUDGET_OF_TLS


def under_attack(owner: OwnerProcess, before: int, log: Path, attack: list[str], keys: Keys | None = None) -> int:
    """Ask an owner while it is attacked; the most that it grew by, in bytes."""
    lines, began = len(log.read_text().splitlines()), time.monotonic()
    program = [sys.executable, str(Path(__file__).with_name("handshake_attacks.py")), str(owner.port), *attack]
    attacker = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    slowest, most = 0.0, 0
    try:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == "under way\n"
        for _ in range(ASKED):
            asked = time.monotonic()
            assert ask("127.0.0.1", owner.port, HELLO, timeout=30, keys=keys) == welcome(ANSWER)
            slowest = max(slowest, time.monotonic() - asked)
            most = max(most, owner.memory() - before)
            assert owner.open_files() < MOST_CONNECTIONS + 50
        if attack == ["refused hellos"]:
            assert attacker.stdout.readline() == "under way\n"
            most = max(most, owner.memory() - before)
    finally:
        attacker.kill()
        attacker.communicate()
    written = len(log.read_text().splitlines()) - lines
    print(f"{attack[0]}: {most / 2**20:.1f} MiB more, slowest answer {slowest * 1000:.0f} ms, {written} lines")
    assert slowest < (5 if keys is None else 15)
    assert written <= 4 * (time.monotonic() - began + 2)  # one a second of each cause
    return most
