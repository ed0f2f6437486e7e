# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect proxy`: an OpenAI-compatible router over prefill and decode instances.

For each request it asks a prefill instance for one token with `kv_transfer_params.do_remote_decode`, copies the
`kv_transfer_params` of the answer whole into the request, and hands that to a decode instance, whose answer goes to the
client as it comes. This is the protocol NIXL-style connectors speak, so any of them works behind it. Where prefill is
down, fails, or hands nothing over, the decode instance prefills the request itself: slower, never wrong; it is counted
and logged.
"""

from __future__ import annotations

import logging
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING

from kvdirect.errors import CommandError, UsageError
from kvdirect.router.auth import read_token, readable_by_others
from kvdirect.router.config import ProxyConfig, ProxyConfigError

if TYPE_CHECKING:
    import argparse

_log = logging.getLogger("kvdirect.proxy")
_OPTIONS = {
    "host": "address to listen on",
    "port": "port to listen on; 0 picks a free one, which the ready line names",
    "health_interval": "seconds between two health checks of an instance",
    "health_timeout": "seconds a health check may take",
    "health_failures": "health checks that must fail in a row before an instance is taken out",
    "connect_timeout": "seconds to reach an instance",
    "prefill_timeout": "seconds a prefill may take before the decode instance does it instead",
    "first_byte_timeout": "seconds until the first byte from the decode instance, before a request fails",
    "idle_timeout": "seconds between two parts of an answer, before a request fails",
    "body_timeout": "seconds a client may take to send its request",
    "drain_timeout": "seconds that running requests get to finish after SIGTERM or Ctrl-C",
    "retries": "times a request is sent again after a decode instance failed with it",
    "max_in_flight": "requests worked on at once; more are answered 429",
    "max_in_flight_per_instance": "requests given to one instance at once",
    "max_instances": "instances known at once",
    "max_body_bytes": "largest request accepted",
}
_LOG_LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `kvdirect proxy`."""
    for role in ("prefill", "decode"):
        parser.add_argument(
            f"--{role}",
            action="append",
            default=[],
            metavar="URL",
            help=f"base URL of a {role} instance, such as http://127.0.0.1:8100; repeat for several",
        )
    parser.add_argument(
        "--admin-token-file",
        metavar="FILE",
        help="file with the token for the calls that let instances join, drain and leave; without it they are refused",
    )
    defaults = {item.name: item.default for item in fields(ProxyConfig) if item.default is not MISSING}
    for name, text in _OPTIONS.items():
        default = defaults[name]
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{text} (default: {default})"
        )
    parser.add_argument("--log-level", choices=_LOG_LEVELS, default="info", help="default: info")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns 0 after a clean stop.

    Raises:
        UsageError: An option has a value that cannot be used.
        CommandError: The web packages are missing, or the address cannot be listened on.
    """
    token = None if args.admin_token_file is None else read_token("--admin-token-file", args.admin_token_file)
    try:
        config = ProxyConfig(
            prefill=tuple(args.prefill),
            decode=tuple(args.decode),
            admin_token=token,
            **{name: getattr(args, name) for name in _OPTIONS},
        )
    except ProxyConfigError as error:
        raise UsageError(str(error)) from error
    logging.basicConfig(level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore"):  # one line per request each, and they say nothing ours do not
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if token is not None and readable_by_others(args.admin_token_file):
        _log.warning("every user of this machine can read %s; chmod o-r it", args.admin_token_file)
    try:
        from kvdirect.router.server import serve  # noqa: PLC0415 (the web packages are an extra)
    except ModuleNotFoundError as error:
        raise CommandError(
            f'the router needs the Python package {error.name!r}: pip install "kvdirect[proxy]"'
        ) from error
    return serve(config)
