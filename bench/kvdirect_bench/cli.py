# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the benchmark from the command line: `kvdirect bench`, or bench/transfer_bench.py by itself."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from .command import Parser, interrupted, say
from .errors import BenchError, BenchUsageError
from .gpu import require_torch
from .measure import measure
from .options import Options, add_arguments, read_options
from .plot import check_plot, draw
from .process import LocalHost
from .pythons import parse_pythons
from .remote import RemoteHost
from .serve import serve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .report import Report


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 0: every byte was right, 1: it failed or bytes were wrong, 2: wrong usage."""
    parser = Parser(prog="transfer_bench.py", allow_abbrev=False)
    add_arguments(parser)
    return parser.main(run, argv)


def run(args: argparse.Namespace) -> int:
    """Do what parsed arguments say.

    Raises:
        BenchError: It cannot be done.
    """
    options = read_options(args, known_lanes())
    if options.mode == "serve":
        return _serve(options)
    if options.device == "cuda":
        require_torch()
    if options.plot is not None:
        check_plot(options.plot)
    report = _measured(options)
    print(report.render(options.format))
    if options.plot is not None:
        draw(report, options.plot)
        say(f"wrote {options.plot}")
    return verdict(report)


def verdict(report: Report) -> int:
    """The exit status, and a line on standard error where it is not 0."""
    bad = [f"{row.wrong} of {row.name}" for row in report.rows if row.wrong]
    if bad:
        print(f"error: wrong bytes: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


def known_lanes() -> tuple[str, ...]:
    """The lanes that this version of kvtransfer has.

    Raises:
        BenchError: It cannot be imported.
    """
    try:
        from kvtransfer import config  # noqa: PLC0415  (the options explain themselves without the native core)
    except Exception as error:
        raise BenchError(f"kvtransfer cannot be imported ({error}); `kvdirect doctor` says more") from error
    return config.KNOWN_LANES


def _measured(options: Options) -> Report:
    here = LocalHost(parse_pythons(options.pythons))
    if options.mode == "loopback":
        return measure(options, (here, here), say)
    with RemoteHost(options.address) as there:
        return measure(options, (there, here), say)


def _serve(options: Options) -> int:
    from kvtransfer.doctor.network import ipv4_address  # noqa: PLC0415  (as above)

    host = ipv4_address(options.listen)
    if host is None:
        raise BenchUsageError(f"--listen {options.listen}: no such device, or it has no IPv4 address")
    try:
        listener = socket.create_server((str(host), options.port))
    except OSError as error:
        raise BenchError(f"--port {options.port}: cannot listen there: {os.strerror(error.errno or 0)}") from error
    signal.signal(signal.SIGTERM, interrupted)
    with listener:
        say(f"listening; on the other machine: run {host}:{listener.getsockname()[1]}")
        serve(listener, LocalHost(parse_pythons(options.pythons)), options.listen, say)
    return 0
