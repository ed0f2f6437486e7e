# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lines that strangers cause: few, and none is lost without being counted."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING

from kvdirect import log
from kvdirect.log import SeldomLog

if TYPE_CHECKING:
    import pytest


def test_lines_of_one_cause_are_few_and_add_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "QUIET_SECONDS", 0.05)
    seldom, other = SeldomLog(logging.getLogger("somebody")), SeldomLog(logging.getLogger("somebody"))

    def flood() -> None:
        for number in range(20_000):
            seldom.warning("refused %d", number)

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    other.warning("another cause is not hidden")
    for thread in threads:
        thread.join()
    threading.Event().wait(0.06)
    seldom.warning("refused %d", 1)
    lines = [record.getMessage() for record in caplog.records if record.name == "somebody"]
    assert lines.count("another cause is not hidden") == 1
    lines.remove("another cause is not hidden")
    assert lines[0] == "refused 0"
    left_out = [int(found[1]) for line in lines if (found := re.search(r"\((\d+) more like it", line))]
    assert len(lines) + sum(left_out) == 80_001
    assert len(lines) < 1000
