# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Streamed pulls between two engines without models, with every fault that a request can meet, each byte checked.

`python stream_soak.py --requests 12000 --lanes message` runs it for long; test_stream_life.py for seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelless_engine import Engine

from kvdirect.harness.model import make_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AT_ONCE = 5
# Tokens of a prompt, of which 64 are computed in a step.
SHORTEST, LONGEST = 130, 420
# Of so many requests one meets each fault, after up to so many seconds.
ONE_IN, WITHIN = 20, 0.06
# A share of steps is so much longer, in seconds, as with much to compute: the other side is further on by then.
NAP_SHARE, NAP = 0.1, 0.03
DEADLINE = 60.0


@dataclass(eq=False)
class Fate:
    """One request of a client: both of its legs, and what happens to it, in seconds from its start."""

    number: int
    tokens: int
    reader_first: bool
    faults: list[tuple[float, str]] = field(default_factory=list)

    @property
    def claim(self) -> str:
        return f"{self.number:032x}"

    @property
    def names(self) -> tuple[str, str]:
        """Of the prefill and of the decode request."""
        return f"p{self.number}", f"d{self.number}"


def fates(requests: int, seed: int, one_in: int = ONE_IN) -> Iterator[Fate]:
    """`one_in`: of so many requests one meets each fault."""
    dice = random.Random(seed)  # noqa: S311  (dice)
    for number in range(requests):
        fate = Fate(number, dice.randint(SHORTEST, LONGEST), dice.random() < 0.5)
        for fault in ("reader aborts", "owner aborts", "preempted", "preempted", "given back", "all revoked"):
            if dice.random() < 1 / one_in:
                fate.faults.append((dice.uniform(0.0, WITHIN), fault))
        yield fate


class Soak:
    """An owner and a reader that step in threads of their own, and a router that asks both of everything at once."""

    def __init__(self, model: Path, lanes: list[str], fault: str = "") -> None:
        self.owner = Engine(model, "kv_producer", lanes=lanes, lease_first_term=5.0)
        self.reader = Engine(model, "kv_consumer", lanes=lanes, streamed=True, fault=fault)
        self.counted: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.broke: list[BaseException] = []
        self._stop = threading.Event()

    def run(self, waiting: Iterator[Fate]) -> dict[str, Any]:
        """All requests; what came of them, when nothing is left to do."""
        began = time.monotonic()
        threads = [
            threading.Thread(target=self._steps, args=(one, random.Random(number)))  # noqa: S311  (dice)
            for number, one in enumerate((self.owner, self.reader))
        ]
        for thread in threads:
            thread.start()
        try:
            under_way: dict[Fate, float] = {}
            last = time.monotonic()
            while not self.broke:
                for fate, since in list(under_way.items()):
                    self._meets(fate, time.monotonic() - since)
                    if self._is_over(fate):
                        del under_way[fate]
                        last = time.monotonic()
                while len(under_way) < AT_ONCE and (fate := next(waiting, None)) is not None:
                    self._send(fate)
                    under_way[fate] = time.monotonic()
                if not under_way and not self.owner.left() and not self.reader.left():
                    break
                assert time.monotonic() - last < DEADLINE, (under_way, self.owner.left(), self.reader.left())
                time.sleep(0.001)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self.broke:
            raise self.broke[0]
        return self._account(time.monotonic() - began)

    def _steps(self, engine: Engine, dice: random.Random) -> None:
        try:
            while not self._stop.is_set():
                if not engine.step():
                    time.sleep(0.0005)
                if dice.random() < NAP_SHARE:
                    time.sleep(dice.uniform(0.0, NAP))
                self._count(engine)
        except BaseException as error:  # noqa: BLE001  (the test raises it)
            self.broke.append(error)

    def _count(self, engine: Engine) -> None:
        stats = engine.worker.take_stats()
        if stats is not None:
            self.counted["pulls"] += len(stats.data["pulls"])
            self.counted["streamed"] += len(stats.data["streams"])
            self.counted["bytes"] += sum(one[1] for one in stats.data["pulls"])

    def _send(self, fate: Fate) -> None:
        prefill, decode = fate.names
        asked = {"do_remote_decode": True, "do_remote_prefill": False, "kvdirect_claim": fate.claim}
        where = {"remote_host": "127.0.0.1", "remote_port": self.owner.port, "kvdirect_claim": fate.claim}
        legs: list[Callable[[], None]] = [
            lambda: self.owner.soon(lambda: self.owner.add(prefill, fate.number, fate.tokens, asked)),
            lambda: self.reader.soon(
                lambda: self.reader.add(
                    decode, fate.number, fate.tokens, {"do_remote_prefill": True, **where}, max_tokens=2
                )
            ),
        ]
        for leg in reversed(legs) if fate.reader_first else legs:
            leg()

    def _meets(self, fate: Fate, age: float) -> None:
        """What is due of its faults."""
        prefill, decode = fate.names
        for fault in [one for one in fate.faults if one[0] <= age]:
            fate.faults.remove(fault)
            self.faults[fault[1]] += 1
            match fault[1]:
                case "reader aborts":
                    self.reader.soon(lambda: self.reader.abort(decode))
                    self.owner.soon(lambda: self.owner.give_back(fate.claim))
                case "owner aborts":
                    self.owner.soon(lambda: self.owner.abort(prefill))
                case "preempted":
                    self.owner.soon(lambda: self.owner.preempt(prefill))
                case "given back":
                    self.owner.soon(lambda: self.owner.give_back(fate.claim))
                case "all revoked":
                    self.owner.soon(self.owner.half.reset_cache)

    def _is_over(self, fate: Fate) -> bool:
        prefill, decode = fate.names
        return prefill in self.owner.done and decode in self.reader.done

    def _account(self, seconds: float) -> dict[str, Any]:
        return {
            "seconds": round(seconds, 1),
            **self.counted,
            "wrong_positions": self.owner.wrong + self.reader.wrong,
            "faults": dict(self.faults),
            "prefills": dict(self.owner.ends),
            "decodes": dict(self.reader.ends),
        }

    def close(self) -> None:
        self.reader.close()
        self.owner.close()


@contextmanager
def soak(model: Path, lanes: list[str], fault: str = "") -> Iterator[Soak]:
    """`fault`: what the reader does to blocks that have landed."""
    made = Soak(model, lanes, fault)
    yield made
    made.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--lanes", default="message")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        soak(make_tiny_llama(Path(folder) / "m", layers=1), options.lanes.split(",")) as one,
    ):
        account = one.run(fates(options.requests, options.seed))
    print(json.dumps({"lanes": options.lanes, "seed": options.seed, **account}))
    return int(account["wrong_positions"] > 0)


if __name__ == "__main__":
    sys.exit(main())
