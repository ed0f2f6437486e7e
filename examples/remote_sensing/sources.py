# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where fusion gets features: one source a sensor, with a worker process that is replaced when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import kvtransfer as kt

from .extract import SLOTS
from .features import KEYPOINTS, SENSORS
from .model import ALL, Parts
from .tiles import CHUNK, ROWS, Extracted, TileBuffer, keypoint_tables, map_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

DEADLINE = 60.0  # seconds, for anything that a worker is to do
TRIES = 3  # of a tile, each with a new worker
LINE = 1 << 16  # bytes of an announcement, at most


class WorkerLostError(Exception):
    """A worker process ended or does not answer."""


@dataclass(frozen=True)
class Asked:
    """What a watcher is told when the pulls of a tile have begun: of which sensor, and by which process."""

    sensor: str
    tile: int
    pid: int


@dataclass(frozen=True)
class Fetched:
    """One sensor's features of a tile.

    Attributes:
        tile: Which one.
        features: In memory of its own.
        asked: When the pulls began, seconds of time.monotonic().
        landed: When the last of them ended.
        moved: Seconds that bytes took once they were final, without the wait for extraction.
        bytes: How many.
    """

    tile: int
    features: Extracted
    asked: float
    landed: float
    moved: float
    bytes: int


class WorkerProcess:
    """A running `extract`, and its engine as a peer."""

    def __init__(self, sensor: str, model: Path, engine: kt.Engine, on: Parts) -> None:
        command = [sys.executable, "-m", f"{__package__}.extract", "--sensor", sensor, "--model", str(model)]
        if not on.temporal:
            command.append("--no-temporal")
        # The package is wherever this file lies: a copy of it in another project works too.
        path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(  # noqa: S603  (ourselves)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        self._read = b""
        self.ordered: deque[int] = deque()
        try:
            self.peer = engine.connect(bytes.fromhex(str(self.line()["descriptor"])))
        except BaseException:
            self.end()
            raise

    def line(self) -> dict[str, Any]:
        """The next line that it says.

        Raises:
            WorkerLostError: It ended, or says nothing for DEADLINE.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE
        while b"\n" not in self._read:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), LINE) if ready else b""
            if not part or len(self._read) > LINE:
                said = "ended" if ready else f"says nothing for {DEADLINE:.0f} s"
                raise WorkerLostError(f"extraction process {self.process.pid} {said}")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        told = json.loads(line)
        if not isinstance(told, dict):
            raise WorkerLostError(f"extraction process {self.process.pid} said {line[:80]!r}, expected an object")
        return told

    def order(self, tile: int, split: str) -> None:
        """Have a tile extracted, after those that were ordered before.

        Raises:
            WorkerLostError: It ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"tile": tile, "split": split}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerLostError(f"extraction process {self.process.pid} ended") from error
        self.ordered.append(tile)

    def end(self) -> None:
        """Stop it, at once; nothing of it is needed any more."""
        if hasattr(self, "peer"):
            self.peer.close()
        self.process.kill()
        self.process.wait(DEADLINE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Source:
    """Fetches one sensor's tiles in order, ahead of fusion by as many as there are slots for."""

    def __init__(
        self,
        sensor: str,
        model: Path,
        engine: kt.Engine,
        buffer: TileBuffer,
        slot: int,
        on: Parts = ALL,
        watch: Callable[[Asked], None] | None = None,
    ) -> None:
        """Pull by `engine` into this slot of its buffer; `watch` is called when a tile's pulls have begun."""
        self.sensor, self.model, self.engine, self.on = sensor, model, engine, on
        self.buffer, self.slot, self.watch = buffer, slot, watch
        self.replaced = 0  # workers
        self._worker: WorkerProcess | None = None
        self._ready: queue.Queue[Fetched | BaseException] = queue.Queue(maxsize=SLOTS)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, tiles: Sequence[int], split: str) -> None:
        """Fetch these, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, args=(tuple(tiles), split), name=f"source-{self.sensor}")
        self._thread.start()

    def next(self) -> Fetched:
        """The next tile.

        Raises:
            WorkerLostError: A tile failed with TRIES workers.
            TimeoutError: It did not come.
        """
        try:
            got = self._ready.get(timeout=TRIES * DEADLINE)
        except queue.Empty:
            raise TimeoutError(f"no tile of the {self.sensor} sensor within {TRIES * DEADLINE:.0f} s") from None
        if isinstance(got, BaseException):
            raise got
        return got

    def close(self) -> None:
        """Stop the worker and the thread."""
        self._stop.set()
        if self._worker is not None:
            self._worker.end()
        if self._thread is not None:
            self._thread.join(DEADLINE)

    def _run(self, tiles: tuple[int, ...], split: str) -> None:
        try:
            for done, tile in enumerate(tiles):
                self._put(self._fetch(tiles[done : done + SLOTS], tile, split))
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  (raised by `next`, in the thread that wants the tile)
            self._put(error)

    def _put(self, item: Fetched | BaseException) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _fetch(self, ahead: tuple[int, ...], tile: int, split: str) -> Fetched:
        """A tile, by a new worker if the one there was is lost in the middle of it."""
        for last in range(TRIES - 1, -1, -1):
            try:
                if self._worker is None:
                    self._worker = WorkerProcess(self.sensor, self.model, self.engine, self.on)
                for one in ahead:
                    if one not in self._worker.ordered:
                        self._worker.order(one, split)
                return self._pull(self._worker, tile)
            except (WorkerLostError, kt.KVTransferError):
                if self._stop.is_set() or last == 0:
                    raise
                if self._worker is not None:
                    self._worker.end()
                self._worker = None
                self.replaced += 1
        raise AssertionError

    def _pull(self, worker: WorkerProcess, tile: int) -> Fetched:
        """What a worker announces next, read while it is still being written.

        Raises:
            WorkerLostError: The worker ended, or announced another tile or one that does not fit.
            KVTransferError: Some bytes did not come, or their lease had ended: nothing of the tile is used.
        """
        told = worker.line()
        count, slot = int(told["count"]), int(told["slot"])
        if told["tile"] != tile or not 0 <= count <= KEYPOINTS:
            raise WorkerLostError(f"extraction process {worker.process.pid} announced {told}, expected tile {tile}")
        keypoints, rows = (kt.LeaseRef(*map(int, told[name])) for name in ("keypoints", "map"))
        asked = time.monotonic()
        pulls = [
            worker.peer.pull(rows, map_tables(slot), map_tables(self.slot), stop=ROWS, timeout=DEADLINE),
            *(
                worker.peer.pull(
                    keypoints,
                    keypoint_tables(slot, stop),
                    keypoint_tables(self.slot, stop),
                    start=stop - (stop - 1) % CHUNK - 1,
                    stop=stop,
                    timeout=DEADLINE,
                )
                for stop in (min(first + CHUNK, count) for first in range(0, count, CHUNK))
            ),
        ]
        try:
            if self.watch is not None:
                self.watch(Asked(self.sensor, tile, worker.process.pid))
            results = [pull.wait() for pull in pulls]
        except BaseException:
            settle(pulls)
            raise
        landed = time.monotonic()
        for lease in (keypoints, rows):
            worker.peer.complete(lease)
        worker.ordered.popleft()
        features = self.buffer.copy_of(self.slot, count)
        moved = sum(result.seconds for result in results)
        return Fetched(tile, features, asked, landed, moved, sum(result.bytes for result in results))


def settle(pulls: Sequence[kt.Pull]) -> None:
    """Give up pulls, and return when no byte of theirs can land any more: their slot is used again."""
    for pull in pulls:
        pull.cancel()
    deadline = time.monotonic() + DEADLINE
    while not all(pull.quiet for pull in pulls):
        if time.monotonic() > deadline:
            raise TimeoutError(f"pulls are not quiet {DEADLINE:.0f} s after they were given up")
        time.sleep(0.001)


class TilePairs:
    """Both sensors' features of tile after tile: two workers, one engine that reads from both.

    A context manager; leaving it stops the workers.
    """

    def __init__(self, model: Path, on: Parts = ALL, watch: Callable[[Asked], None] | None = None) -> None:
        self.engine = kt.Engine(name=f"fusion-{os.getpid()}")
        buffer = TileBuffer(self.engine, len(SENSORS))
        self.sources = [Source(one, model, self.engine, buffer, k, on, watch) for k, one in enumerate(SENSORS)]

    def pairs(self, tiles: Sequence[int], split: str) -> Iterator[tuple[Fetched, Fetched]]:
        """The optical and the radar features of each of these tiles; the next ones are fetched meanwhile."""
        for source in self.sources:
            source.start(tiles, split)
        for _ in tiles:
            optical, radar = (source.next() for source in self.sources)
            yield optical, radar

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        for source in self.sources:
            source.close()
        self.engine.close()
