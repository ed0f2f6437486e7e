# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect trace`: one request's story, put together from the logs of the router and of the engines it went through.

Precise are lines of the request log (`kvdirect proxy --log-requests`, `log_requests` of the engines) and of pull logs,
which have a time of their own. Any other line that names the request is shown too, at the time that it begins with.
Logs are read once, line by line, and only what is shown is kept.
"""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kvdirect.errors import CommandError
from kvdirect.request_log import MARK

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

# Bytes of a line that are looked at, and lines of one request that are shown.
MOST_BYTES = 1 << 16
MOST_LINES = 2000
_LATEST = 1e11  # seconds since the epoch that are taken for a time
_SHOWN = 300  # characters of another's line
# What vLLM makes of a request's id: the API, a number for each prompt or choice, random digits.
_APIS = "cmpl|chatcmpl|generate-tokens|resp|msg|decision|generative-scoring|embd|score|rerank|classify|pooling|tokenize"
_BEFORE, _BEHIND = rf"(?:\d+_)?(?:(?:{_APIS})-)?", r"(?:[-_]\d+)?(?:-[0-9a-f]{8})?"
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_VLLM = re.compile(r"\b[A-Z]+ (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_SYSLOG = re.compile(r"^([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d)\b")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_TIMES_WITHIN = 120  # characters of a line in which its time is looked for
# Members of a record that are shown otherwise, or that say again what `outcome` does.
_NOT_SHOWN = frozenset({"time", "who", "request_id", "event"})
_OF_PULL_LOG = frozenset({"start", "stop"})

Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `kvdirect trace`."""
    parser.add_argument(
        "request_id", metavar="REQUEST_ID", help="the X-Request-Id that the client sent or was answered"
    )
    parser.add_argument(
        "--log",
        action="append",
        required=True,
        metavar="FILE",
        help="a log of the router or of an engine, or a pull log; - for stdin; repeat for several, the router's first",
    )


def run(args: argparse.Namespace) -> int:
    """Print the story.

    Returns:
        0.

    Raises:
        CommandError: A log cannot be read, or none names the request.
    """
    story = Story(args.request_id)
    for name in args.log:
        try:
            with _opened(name) as log:
                story.read("stdin" if name == "-" else Path(name).name, log)
        except OSError as error:
            raise CommandError(f"{name} cannot be read: {error.strerror or error}") from error
    if not story.lines:
        raise CommandError(
            f"no line of {', '.join(args.log)} names request {args.request_id!r}; expected the X-Request-Id that the "
            "client sent or was answered. The router tells of each request with --log-requests, engines with "
            "log_requests in kv_connector_extra_config"
        )
    for line in story.told():
        print(line)
    return 0


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb")


@dataclass(slots=True)
class Line:
    """One line of the story.

    Attributes:
        time: Seconds since the epoch; None: the line does not say.
        precise: To less than a second.
        who: Tells it.
        record: What a line of the request log, or of a pull log, says.
        text: Another line.
    """

    time: float | None
    precise: bool
    who: str
    record: Record = field(default_factory=dict)
    text: str = ""


class Story:
    """What the logs say of one request.

    Attributes:
        lines: So far, in the order in which they were read; at most MOST_LINES.
        left_out: Further ones.
        damaged: Lines that seem to be of the request, and cannot be read.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.lines: list[Line] = []
        self.left_out = 0
        self.damaged = 0
        self._engines = re.compile(_BEFORE + re.escape(request_id) + _BEHIND)
        self._anywhere = re.compile(rf"(?<![0-9A-Za-z]){re.escape(request_id)}(?![0-9A-Za-z])")
        # Ids that an engine made up itself, as those of Responses: what the ticket of this request says.
        self._others: set[str] = set()
        self._needles = {request_id.encode(), json.dumps(request_id)[1:-1].encode()}

    def read(self, name: str, log: BinaryIO) -> None:
        """Take in a log; `name` is shown for who wrote it."""
        for raw in _lines(log):
            if any(needle in raw for needle in self._needles):
                self._take(name, raw.decode(errors="replace").rstrip("\r\n"))

    def told(self) -> Iterator[str]:
        """The story, in the order of time."""
        last: dict[str, float] = {}
        dated = []
        for order, line in enumerate(self.lines):
            when = line.time
            if when is None or not line.precise:  # where it stood in its own log
                when = max(when or 0.0, last.get(line.who, when or 0.0))
            last[line.who] = when
            dated.append((when, order, line))
        dated.sort(key=lambda each: each[:2])
        begin = next((when for when, _, _ in dated if when), 0.0)
        shown = datetime.fromtimestamp(begin, UTC).isoformat(timespec="milliseconds") if begin else "an unknown time"
        yield f"request {self.request_id}, from {shown}"
        width = max(len(line.who) for line in self.lines)
        for when, _, line in dated:
            since = f"{(when - begin) * 1e3:10.1f} ms" if line.precise else f"{'~':>10}   "
            yield f"{since}  {line.who:{width}}  {_said(line)}"
        if self.left_out:
            yield f"{self.left_out} more lines of it are left out"
        if self.damaged:
            yield f"{self.damaged} lines that name it cannot be read"
        yield from self._sums()

    def _sums(self) -> Iterator[str]:
        """Of each pull what matters, again."""
        waits = [line.record for line in self.lines if line.record.get("event") == "has blocks"]
        connects = [line.record for line in self.lines if line.record.get("event") == "connects"]
        for line in self._pulls():
            record = line.record
            rank = record.get("rank", 0)
            wait = sum(_number(each.get("seconds")) for each in waits if each["request_id"] == record["request_id"])
            connect = [each for each in connects if each["request_id"] == record["request_id"]]
            connected = sum(_number(each.get("seconds")) for each in connect if each.get("rank", 0) == rank)
            yield (
                f"rank {rank}: waited {wait * 1e3:.1f} ms for blocks, connected in {connected * 1e3:.1f} ms, pulled "
                f"{_number(record.get('bytes')):,.0f} bytes over {_clean(str(record.get('lane') or 'no lane'))} in "
                f"{_number(record.get('runs')):,.0f} runs and {_number(record.get('seconds')) * 1e3:.1f} ms: "
                f"{_clean(str(record.get('outcome', '?')))}"
            )

    def _pulls(self) -> list[Line]:
        return [line for line in self.lines if line.record.get("event") == "pulls"]

    def _take(self, name: str, text: str) -> None:
        """A line that may be of the request."""
        _, mark, behind = text.partition(MARK)
        if mark and behind.startswith("{"):
            record = _parsed(behind)
        elif text.startswith("{") and '"lane"' in text:
            record = _parsed(text)
            if record is not None:  # of a pull log
                outcome = record.pop("reason", "") or record.pop("status", "?")
                record |= {"event": "pulls", "who": "reader", "outcome": outcome}
        else:
            if self._anywhere.search(text):
                when, precise = _time_of(text)
                self._keep(Line(when, precise, name, text=text))
            return
        if record is None:
            self.damaged += 1
        elif self._is_ours(record):
            self._learn(record)
            twice = any(_same_pull(line.record, record) for line in self._pulls()) if "lane" in record else False
            if not twice:
                when = _number(record.get("time"))
                known = 0 < when < _LATEST
                self._keep(Line(when if known else None, known, str(record.get("who", name)), record))

    def _keep(self, line: Line) -> None:
        if len(self.lines) < MOST_LINES:
            self.lines.append(line)
        else:
            self.left_out += 1

    def _is_ours(self, record: Record) -> bool:
        of = record["request_id"]
        if record.get("who") == "router":
            return bool(of == self.request_id)
        return of in self._others or bool(self._engines.fullmatch(of)) or record.get("owner_request_id") in self._others

    def _learn(self, record: Record) -> None:
        for key in ("owner_request_id", "request_id"):
            other = record.get(key)
            if isinstance(other, str) and other != self.request_id and len(self._others) < MOST_LINES:
                self._others.add(other)
                self._needles.add(other.encode())


def _lines(log: BinaryIO) -> Iterator[bytes]:
    """A log's lines; of one that is too long, its beginning."""
    while raw := log.readline(MOST_BYTES):
        yield raw
        while not raw.endswith(b"\n") and (raw := log.readline(MOST_BYTES)):
            pass


def _parsed(text: str) -> Record | None:
    """The object that a text begins with, if it tells of a request."""
    try:
        record, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(record, dict) and isinstance(record.get("request_id"), str)
    return record if whole else None


def _same_pull(one: Record, other: Record) -> bool:
    """Whether the pull log and the request log tell of the same pull."""
    same = ("request_id", "rank", "bytes", "runs", "tokens")
    return all(one.get(key) == other.get(key) for key in same)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _said(line: Line) -> str:
    """A line for people."""
    if not line.record:
        return _clean(line.text)[:_SHOWN]
    parts = []
    for key, value in line.record.items():
        if key in _NOT_SHOWN or (key in _OF_PULL_LOG and "outcome" in line.record):
            continue
        if key == "seconds":
            parts.append(f"{_number(value) * 1e3:.1f} ms")
        elif key == "outcome":
            parts.append(str(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            parts.append(f"{key} {value:,}")
        else:
            parts.append(f"{key} {value}")
    text = str(line.record.get("event", ""))
    return _clean(f"{text}: {', '.join(parts)}" if parts else text)[:_SHOWN]


def _clean(text: str) -> str:
    """Without what would move a terminal's cursor or change its colours."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _time_of(text: str) -> tuple[float | None, bool]:
    """When a line was written, by what it begins with, and whether that is precise; a time without a zone is local."""
    head = text[:_TIMES_WITHIN]
    try:
        if found := _ISO.search(head):
            day, clock, fraction, zone = found.groups()
            moment = datetime.fromisoformat(f"{day}T{clock}{(zone or '').replace('Z', '+00:00')}").astimezone()
            return moment.timestamp() + float(f"0.{fraction or 0}"), fraction is not None
        year = time.localtime().tm_year  # neither says which
        if found := _VLLM.search(head):
            month, day_of_month, *clock_of_day = map(int, found.groups())
        elif found := _SYSLOG.match(head):
            month, day_of_month = _MONTHS.index(found[1]) + 1, int(found[2])
            clock_of_day = [int(found[3]), int(found[4]), int(found[5])]
        else:
            return None, False
        hour, minute, second = clock_of_day
        return datetime(year, month, day_of_month, hour, minute, second).astimezone().timestamp(), False
    except (ValueError, OverflowError, OSError):
        return None, False
