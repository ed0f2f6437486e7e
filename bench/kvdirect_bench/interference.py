# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How much pulls slow down a matrix product that runs in the reader's process, by the multiprocessors they may take.

A thread pulls without a pause while the main thread multiplies; each is also measured alone. Rounds are interleaved,
and every byte of the last pull of each setting is checked.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import gpu
from .arguments import number_of, words_of
from .backends.base import Settings
from .command import Parser, say
from .contenders import CUDA_COPIES, lane_contender
from .errors import BenchError, BenchUsageError
from .gpu_load import Product, Puller
from .header import describe_machine
from .process import LocalHost
from .report import Document, aligned
from .spread import median
from .storage import pattern_of
from .workload import Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .backends.kvdirect_backend import KVDirectReader

LANE = "cuda_ipc"
_SEED = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """How pulls copy: by `copy`, a setting of the engine, with `sms` multiprocessors (0: as the engine chooses)."""

    name: str
    sms: int
    copy: str


@dataclass(slots=True)
class Rates:
    """Of one setting, a value each round."""

    alone: list[float] = field(default_factory=list)
    together: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table.

    Attributes:
        sms: The setting.
        gbps_alone: 10^9 bytes a second of pulls with nothing beside them.
        gbps: The same while the product runs.
        tflops: 10^12 operations a second of the product meanwhile.
        slowdown: How many times as long a product takes as without pulls; median of the rounds.
        wrong: Bytes that were wrong.
    """

    sms: str
    gbps_alone: float
    gbps: float
    tflops: float
    slowdown: float
    wrong: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0: every byte was right, 2: it cannot be measured here."""
    parser = Parser(prog="gpu_interference.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--sms", default="4,8,16,32,64,all", metavar="LIST", help="(default: %(default)s)")
    parser.add_argument("--bulk", action="store_true", help="each of these also with cuda_copy=bulk")
    parser.add_argument("--size", default="8192", metavar="N", help="rows of the bf16 matrices (default: %(default)s)")
    parser.add_argument("--block-bytes", default="16k", metavar="N", help="bytes of a run (default: %(default)s)")
    parser.add_argument("--pull-bytes", default="1g", metavar="N", help="bytes of a pull (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    return parser.main(_run, argv)


def read_settings(text: str, multiprocessors: int, *, bulk: bool = False) -> list[Setting]:
    """The settings of a list such as "4,8,all", then the engine's own choice by every way to copy.

    Args:
        text: As on the command line.
        multiprocessors: What this GPU has.
        bulk: Each number of them also with copies in bulk.
    """
    settings = []
    ours, *others = CUDA_COPIES
    for word in words_of("--sms", text):
        sms = multiprocessors if word == "all" else number_of("--sms", word)
        if sms > multiprocessors:
            raise BenchUsageError(f"--sms {word}: this GPU has {multiprocessors} multiprocessors")
        name = f"{sms} (all)" if word == "all" else str(sms)
        settings.append(Setting(name, sms, ours))
        if bulk:
            settings.append(Setting(f"{name}, bulk", sms, "bulk"))
    return [*settings, Setting("default", 0, ours), *(Setting(copy, 0, copy) for copy in others)]


def _run(args: argparse.Namespace) -> int:
    try:
        gpu.require_torch()
    except BenchError as error:
        raise BenchUsageError(str(error)) from error
    if args.rounds < 1 or args.seconds <= 0:
        raise BenchUsageError("--rounds: expected at least 1; --seconds: expected more than 0")
    size, pull = number_of("--block-bytes", args.block_bytes), number_of("--pull-bytes", args.pull_bytes)
    if pull < size:
        raise BenchUsageError(f"--pull-bytes {pull}: less than a run of --block-bytes {size}")
    workload = Workload("raw", 1, 1, pull // size, 1, 1, size, 1.0, "default", device="cuda")
    settings = read_settings(args.sms, gpu.multiprocessors(), bulk=args.bulk)
    product = Product(number_of("--size", args.size))
    with Pulls(workload, settings) as pulls:
        rates = _rounds(pulls, product, args.rounds, args.seconds)
    lines = [_line(name, one) for name, one in rates.items()]
    header = {**describe_machine(sys.argv), "gpu": gpu.describe(), "workload": workload.label}
    report = Slowdowns(header, lines)
    if args.json is not None:
        args.json.write_text(report.render("json") + "\n")
    print(report.render("table"))
    return 1 if any(line.wrong for line in lines) else 0


class Pulls:
    """An owner in a process of its own and, in this one, a reader for each setting. A context manager."""

    def __init__(self, workload: Workload, settings: Sequence[Setting]) -> None:
        """Say what is to be pulled, and how."""
        self.workload = workload
        self._settings = settings
        self.readers: dict[str, KVDirectReader] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Pulls:
        """Start them; a setting that does not work here is left out."""
        with contextlib.ExitStack() as stack:
            owner = LocalHost({}).open(lane_contender(LANE), "owner", self.workload, Settings(variant=LANE))
            stack.callback(owner.stop)
            invitation = owner.call("start")
            offer = owner.call("offer", seed=_SEED)
            for setting in self._settings:
                self._start(setting, invitation, offer, stack)
            if not self.readers:
                raise BenchError(f"lane {LANE} does not work here; the lines above say why")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End them."""
        self._stack.close()

    def _start(
        self, setting: Setting, invitation: dict[str, Any], offer: dict[str, Any], stack: contextlib.ExitStack
    ) -> None:
        import kvtransfer as kt  # noqa: PLC0415  (the command line explains itself without the native core)

        from .backends.kvdirect_backend import KVDirectReader  # noqa: PLC0415

        reader = KVDirectReader(self.workload, Settings(variant=LANE, cuda_copy=setting.copy, cuda_sms=setting.sms))
        try:
            reader.start(invitation)
            reader.aim(_SEED, offer)
            reader.pull()
        except kt.KVTransferError as error:
            say(f"left out: {setting.name}: {error}")
            return
        stack.callback(reader.close)
        self.readers[setting.name] = reader

    def wrong_bytes(self, reader: KVDirectReader) -> int:
        """Of what lies in a reader's memory; it is cleared."""
        source, target = self.workload.unit_tables(_SEED)
        pattern = pattern_of(self.workload)
        wrong = pattern.wrong_bytes(reader.memory, source, target)
        pattern.clear(reader.memory)
        return wrong


def _rounds(pulls: Pulls, product: Product, rounds: int, seconds: float) -> dict[str, Rates]:
    rates = {name: Rates() for name in pulls.readers}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, reader in pulls.readers.items():
            one = rates[name]
            # Just before, so that both are of the same moment of a machine that drifts.
            undisturbed = product.rate(seconds)
            puller = Puller(reader.pull)
            puller.start()
            disturbed = product.rate(seconds)
            one.together.append(_gbps(puller.rate(), pulls.workload))
            one.products.append(disturbed)
            one.slowdowns.append(undisturbed / disturbed)
            puller = Puller(reader.pull)
            puller.start()
            time.sleep(seconds)
            one.alone.append(_gbps(puller.rate(), pulls.workload))
            one.wrong += pulls.wrong_bytes(reader)
    return rates


def _gbps(pulls_a_second: float, workload: Workload) -> float:
    return pulls_a_second * workload.pull_bytes / 1e9


def _line(name: str, rates: Rates) -> Line:
    return Line(
        name,
        median(rates.alone),
        median(rates.together),
        median(rates.products),
        median(rates.slowdowns),
        rates.wrong,
    )


class Slowdowns(Document[Line]):
    """Every setting's figures."""

    def lines(self) -> list[str]:
        """A table."""
        titles = ("SMs", "GB/s alone", "GB/s beside it", "TFLOP/s", "slowdown", "wrong")
        cells = [
            (
                line.sms,
                f"{line.gbps_alone:.1f}",
                f"{line.gbps:.1f}",
                f"{line.tflops:.0f}",
                f"{line.slowdown:.3f}",
                str(line.wrong),
            )
            for line in self.rows
        ]
        return ["", *aligned([titles, *cells], left=1)]


if __name__ == "__main__":
    sys.exit(main())
