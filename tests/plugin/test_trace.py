# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect trace`: one request's story from logs of any form, damaged ones too, in little memory."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from kvdirect.cli.main import main
from kvdirect.cli.trace import MOST_BYTES, MOST_LINES, Story
from kvdirect.request_log import MARK, RequestLog

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = 1_790_000_000.0
ROUTER = "2026-09-21 13:33:20,000 INFO kvdirect.proxy: "
ENGINE = "(EngineCore pid=7) INFO 09-21 13:33:20 [journal.py:80] kvdirect: "

PULL: dict[str, object] = {"lane": "shm", "bytes": 123456, "runs": 3, "blocks": 9, "tokens": 80, "rank": 0}
PULL |= {"seconds": 0.0025}


def line(since: float, who: str, request_id: str, event: str, prefix: str = ENGINE, **more: object) -> str:
    record = {"time": BEGIN + since, "who": who, "request_id": request_id, "event": event, **more}
    return f"{prefix}{MARK}{json.dumps(record)}\n"


def pull(since: float, request_id: str, **more: object) -> dict[str, object]:
    return {"time": BEGIN + since, "request_id": request_id, **PULL, **more}


def story(request_id: str, *logs: str | bytes) -> list[str]:
    told = Story(request_id)
    for number, log in enumerate(logs):
        told.read(f"log{number}", io.BytesIO(log.encode() if isinstance(log, str) else log))
    return list(told.told()) if told.lines else []


def test_lines_of_three_processes_in_the_order_of_time() -> None:
    router = line(0.0, "router", "a-1", "arrives", ROUTER, route="POST /v1/completions")
    router += line(0.2, "router", "a-1", "is answered", ROUTER, outcome="ok", status=200, seconds=0.2)
    owner = line(0.1, "owner", "cmpl-a-1-0-0123abcd", "is kept for a reader", tokens=80)
    reader = line(0.15, "reader", "cmpl-a-1-0-89abcdef", "has blocks", tokens=80, seconds=0.004)
    reader += line(0.14, "reader", "cmpl-a-1-0-89abcdef", "connects", rank=0, seconds=0.001, outcome="ok")
    reader += line(0.16, "reader", "cmpl-a-1-0-89abcdef", "pulls", outcome="ok", **PULL)
    told = story("a-1", reader, router, owner)
    assert told[0] == "request a-1, from 2026-09-21T14:13:20.000+00:00"
    assert [each.split("  ")[-1].partition(":")[0].strip() for each in told[1:-1]] == [
        *("arrives", "is kept for a reader", "connects", "has blocks", "pulls", "is answered")
    ]
    assert "100.0 ms  owner" in told[2]
    assert told[-1] == (
        "rank 0: waited 4.0 ms for blocks, connected in 1.0 ms, pulled 123,456 bytes over shm in 3 runs and 2.5 ms: ok"
    )


@pytest.mark.parametrize(
    "other",
    ["a-10", "b-a-1", "cmpl-a-10-0-0123abcd", "cmpl-b-a-1-0-0123abcd", "cmpl-xa-1-0-0123abcd", "a-1-more", "A-1"],
)
def test_other_requests_are_left_out(other: str) -> None:
    assert story("a-1", line(0.0, "reader", other, "goes on")) == []


@pytest.mark.parametrize(
    "engines",
    ["cmpl-a-1-0", "cmpl-a-1-3-0123abcd", "chatcmpl-a-1", "chatcmpl-a-1_2-0123abcd", "1_chatcmpl-a-1-0123abcd", "a-1"],
)
def test_what_engines_make_of_an_id_is_known(engines: str) -> None:
    assert len(story("a-1", line(0.0, "owner", engines, "is kept for a reader"))) == 2


def test_ids_that_engines_make_up_are_learnt_from_the_ticket() -> None:
    """Those of Responses."""
    router = line(0.0, "router", "a-1", "gets a ticket", ROUTER, owner_request_id="resp_1-00")
    owner = line(-0.1, "owner", "resp_1-00", "is kept for a reader")
    reader = line(0.1, "reader", "resp_2-00", "has a ticket", owner_request_id="resp_1-00")
    reader += line(0.2, "reader", "resp_2-00", "goes on", outcome="ok")
    reader += line(0.2, "reader", "resp_3-00", "goes on", outcome="ok")
    told = "\n".join(story("a-1", router, owner, reader))
    assert told.count("owner ") == 1
    assert told.count("reader ") == 2


def test_a_pull_log_alone_and_beside_the_request_log() -> None:
    log = json.dumps(pull(0.1, "cmpl-a-1-0-89abcdef", status="failed", reason="PeerLost: it is gone")) + "\n"
    told = story("a-1", log)
    assert told[-1].endswith("PeerLost: it is gone")
    both = line(0.1, "reader", "cmpl-a-1-0-89abcdef", "pulls", outcome="ok", **PULL)
    assert len([each for each in story("a-1", both, log) if "pulls" in each]) == 1


@pytest.mark.parametrize(
    ("prefix", "precise"),
    [
        ("2026-09-21T14:13:20.150Z stdout F ", True),
        ("2026-09-21T16:13:20,150+02:00 ", True),
        ("Sep 21 14:13:20 host vllm[7]: ", False),
        ("WARNING 09-21 14:13:20 [log.py:30] ", False),
        ("WARNING 99-99 99:99:99 [log.py:30] ", False),
        ("", False),
    ],
)
def test_other_lines_that_name_it_are_shown_at_their_time(prefix: str, precise: bool) -> None:
    first = line(0.1, "router", "a-1", "arrives", ROUTER)
    told = story("a-1", first, f"{prefix}request cmpl-a-1-0-89abcdef did not get its KV cache: \x1b[31mgone\n")
    other = next(each for each in told if "did not get" in each)
    assert ("~" not in other) is precise
    if precise:
        assert "50.0 ms" in other
    assert "\x1b" not in other, "a log moves no cursor"


def test_damaged_lines_are_counted_and_the_rest_is_told() -> None:
    good = line(0.0, "router", "a-1", "arrives", ROUTER)
    cut = good[:-9] + "\n"
    no_object = f'{ROUTER}{MARK}{{"request_id": ["a-1"]}}\n'
    deep = f'{ROUTER}{MARK}{{"a-1": {"[" * 100_000}\n'
    bad_time = line(0.0, "owner", "a-1", "is kept for a reader").replace(str(BEGIN), '"soon"')
    told = story(
        "a-1", (good + cut + no_object + deep + bad_time).encode() + b"\xff\xfe a-1 \x00\n" + good[:40].encode()
    )
    assert "3 lines that name it cannot be read" in told
    assert any("is kept for a reader" in each for each in told)
    assert any(each.endswith("a-1 ?") for each in told)


def test_huge_logs_cost_little_memory() -> None:
    class Endless(io.RawIOBase):
        """Lines of the request for 13 MB, and one line of 13 MB without an end."""

        def __init__(self) -> None:
            self._left = 400

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            if not self._left:
                return 0
            self._left -= 1
            end = b"\n" if self._left > 200 else b"x"
            block = (b"x" * 700 + b" a-1 " + b"y" * 700 + end) * 46
            block = block[: len(buffer)]
            buffer[: len(block)] = block
            return len(block)

    tracemalloc.start()
    try:
        told = Story("a-1")
        told.read("log", io.BufferedReader(Endless(), MOST_BYTES))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(told.lines) == MOST_LINES
    assert told.left_out > 5_000
    assert peak < 8 << 20
    assert any("are left out" in each for each in told.told())


def test_stdin_and_a_request_that_nobody_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = line(0.0, "router", "a-1", "arrives", ROUTER)
    words = [sys.executable, "-m", "kvdirect", "trace", "a-1", "--log", "-"]
    done = subprocess.run(words, input=log, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "arrives" in done.stdout
    (tmp_path / "router.log").write_text(log)
    assert main(["trace", "a-2", "--log", str(tmp_path / "router.log")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "names request 'a-2'" in told
    assert "--log-requests" in told
    assert main(["trace", "a-1", "--log", str(tmp_path / "gone.log")]) == 1
    assert "gone.log cannot be read: No such file" in capsys.readouterr().err


def test_what_the_request_log_writes_is_read(caplog: pytest.LogCaptureFixture) -> None:
    strange = 'a "quoted" \\ id'
    with caplog.at_level(logging.INFO, "somebody"):
        RequestLog(logging.getLogger("somebody"), "router").write(strange, "arrives", route="GET /x", seconds=0.5)
    [record] = caplog.records
    told = story(strange, f"{ROUTER}{record.getMessage()}\n")
    assert told[1].endswith("router  arrives: route GET /x, 500.0 ms")
