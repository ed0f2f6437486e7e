# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The request log: a line for each step of a request, as JSON behind a mark, in whatever log the process writes.

Formats of logs differ, and vLLM's knows whole seconds only, so each line brings its own time. `kvdirect trace` puts
the lines of several processes in order.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

MARK = "request-log "


class RequestLog:
    """Writes lines of one process, at the level INFO."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger], who: str) -> None:
        """Write to this log, as "router", "owner" or "reader"."""
        self._log = log
        self._who = who

    def write(self, request_id: str, event: str, **more: str | float | None) -> None:
        """Write one line; `more` is what there is to say of the event, and seconds where it is a number."""
        record = {"time": round(time.time(), 6), "who": self._who, "request_id": request_id, "event": event, **more}
        self._log.info("%s%s", MARK, json.dumps(record))
