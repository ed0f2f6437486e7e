# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The plugin's logger, a child of vLLM's so that its lines appear where vLLM's do; and lines that strangers cause."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# Seconds between two lines of one cause that a stranger can repeat.
QUIET_SECONDS = 1.0
# Of programs of ours, whose log is their own.
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Named(logging.LoggerAdapter[logging.Logger]):
    """vLLM's format shows a file's name and not a logger's, so each line says whose it is."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"kvdirect: {msg}", kwargs


logger = _Named(logging.getLogger("vllm.kvdirect"))


class SeldomLog:
    """Warnings of one cause that a stranger can repeat at will: at most one a second, with the number left out.

    Each cause has one of its own, so that a flood of one hides no line of another. Any thread may use it.
    """

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[logging.Logger] = logger) -> None:
        """Write to this logger."""
        self._log = log
        self._lock = threading.Lock()
        self._next = -float("inf")
        self._left_out = 0

    def warning(self, message: str, *values: object, exc_info: bool = False) -> None:
        """Write the line, or only count it if the last one is too fresh."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self._left_out += 1
                return
            self._next = now + QUIET_SECONDS
            left_out, self._left_out = self._left_out, 0
        if left_out:
            message, values = message + " (%d more like it since the last such line)", (*values, left_out)
        self._log.warning(message, *values, exc_info=exc_info)


def show_library_log() -> None:
    """Let kvtransfer, which is silent by default, log through vLLM's handlers."""
    library = logging.getLogger("kvtransfer")
    for handler in logging.getLogger("vllm").handlers:
        if handler not in library.handlers:
            library.addHandler(handler)
    library.setLevel(logger.getEffectiveLevel())
