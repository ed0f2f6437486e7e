# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Serves with one process, or with a keeper and its workers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .crew import Crew
from .keeper import keep
from .listener import listen
from .server import Server, ignore_signals, run

if TYPE_CHECKING:
    from .config import ProxyConfig


def serve(config: ProxyConfig) -> int:
    """Serve until SIGTERM or SIGINT, then let running requests finish within `drain_timeout`.

    Returns:
        The exit status: 0.

    Raises:
        CommandError: The address cannot be listened on, or no worker can be started.
    """
    with listen(config) as sock:
        if config.workers > 1:
            return keep(config, sock)
        server = Server(config, sock, Crew.alone(config))
        ignore_signals()
        run(server.serve(sockets=[]))
    sys.stdout.flush()
    return 0
