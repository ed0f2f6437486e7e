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

import inspect
import json
import logging
import re
from dataclasses import fields
from typing import TYPE_CHECKING

from kvdirect.errors import CommandError, UsageError
from kvdirect.log import LOG_FORMAT
from kvdirect.router import exporter
from kvdirect.router.auth import read_token, readable_by_others
from kvdirect.router.config import ProxyConfig, ProxyConfigError

if TYPE_CHECKING:
    import argparse

_log = logging.getLogger("kvdirect.proxy")
# Not for those that have an option of their own kind.
_OPTIONS = {item.name: item.default for item in fields(ProxyConfig) if item.default not in ((), None, False)}
_SWITCHES = ("elastic", "log_requests")
_FILES = ("api_key_file", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
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
        help="file with the token for the calls that change which instances there are; without it they are refused",
    )
    told = meanings(ProxyConfig)
    text = told["forward_header"]
    parser.add_argument("--forward-header", action="append", default=[], metavar="NAME", help=text)
    text = told["allowed_origins"]
    parser.add_argument("--allowed-origins", action="append", default=[], metavar="ORIGIN", help=text)
    text = "file with the key that instances are given where clients present the router's; without it they get none"
    parser.add_argument("--instance-key-file", metavar="FILE", help=text)
    for name in _FILES:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help=told[name])
    text = told["otlp_traces_endpoint"]
    parser.add_argument("--otlp-traces-endpoint", metavar="URL", help=text)
    for name in _SWITCHES:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=told[name])
    for name, default in _OPTIONS.items():
        flag, text = f"--{name.replace('_', '-')}", f"{told.get(name)} (default: {default})"
        parser.add_argument(flag, type=type(default), default=default, help=text)
    parser.add_argument("--log-level", choices=_LOG_LEVELS, default="info", help="default: info")


def _origins(given: list[str]) -> tuple[str, ...]:
    """The origins of the options, each one or a JSON list of them."""
    found: list[str] = []
    for words in given:
        if not words.startswith("["):
            found.append(words)
            continue
        try:
            listed = json.loads(words)
        except ValueError:
            listed = None
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            raise UsageError(f"--allowed-origins {words}: expected an origin, or a JSON list of origins")
        found += listed
    return tuple(found)


def meanings(cls: type) -> dict[str, str]:
    """What a class's docstring says about each attribute: one line each, without the full stop."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: " ".join(words.split()).removesuffix(".") for name, words in pairs}


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns 0 after a clean stop.

    Raises:
        UsageError: An option has a value that cannot be used.
        CommandError: The web packages are missing, or the address cannot be listened on.
    """
    token = None if args.admin_token_file is None else read_token("--admin-token-file", args.admin_token_file)
    key_file = args.instance_key_file
    key = None if key_file is None else read_token("--instance-key-file", key_file, shortest=1)
    try:
        config = ProxyConfig(
            prefill=tuple(args.prefill),
            decode=tuple(args.decode),
            admin_token=token,
            forward_header=tuple(args.forward_header),
            instance_key=key,
            allowed_origins=_origins(args.allowed_origins),
            otlp_traces_endpoint=args.otlp_traces_endpoint,
            **{name: getattr(args, name) for name in (*_FILES, *_SWITCHES)},
            **{name: getattr(args, name) for name in _OPTIONS},
        )
        exporter.wanted(config.otlp_traces_endpoint)
    except ProxyConfigError as error:
        raise UsageError(str(error)) from error
    logging.basicConfig(level=args.log_level.upper(), format=LOG_FORMAT)
    for path in (args.admin_token_file, key_file, args.api_key_file, args.ssl_keyfile):
        if path is not None and readable_by_others(path):
            _log.warning("every user of this machine can read %s; chmod o-r it", path)
    try:
        from kvdirect.router.serving import serve  # noqa: PLC0415 (the web packages are an extra)
    except ModuleNotFoundError as error:
        raise CommandError(
            f'the router needs the Python package {error.name!r}: pip install "kvdirect[proxy]"'
        ) from error
    return serve(config)
