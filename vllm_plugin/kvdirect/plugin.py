# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What vLLM calls in each of its processes: makes the connector known, and adds `--kv-connector` and `--kv-role`.

vLLM loads its plugins before it builds its command line, so wrapping the function that builds it is enough. The
flags end up in `kv_transfer_config` itself: processes that inherit the parsed arguments need nothing from us.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from .log import logger

NAME = "kvdirect"
_CLASS = "KVDirectConnector"
_DYNAMO = "dynamo.vllm.kv_connector_protocols"
ROLES = ("kv_producer", "kv_consumer", "kv_both")
DEFAULT_ROLE = "kv_both"
_WRAPPED = "_kvdirect_wrapped"
# Where the parts wait on the namespace until they are one object; plain values, so the namespace still pickles.
_GIVEN = "_kvdirect_given"


def register() -> None:
    """Entry point of `vllm.general_plugins`. May be called many times; never raises, or vLLM would not start."""
    try:
        _register_connector()
        _add_flags()
        _join_dynamo()
    except Exception:  # noqa: BLE001  (whatever it is, vLLM without us is better than no vLLM)
        logger.exception("could not register itself with this vLLM; the connector is not available")


def _register_connector() -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory  # noqa: PLC0415  (vLLM loads us)

    # vLLM's MultiConnector looks up whose statistics it was sent by the name of the class.
    for name in (NAME, _CLASS):
        if name not in KVConnectorFactory._registry:  # noqa: SLF001  (registering twice raises, and nothing else tells)
            KVConnectorFactory.register_connector(name, "kvdirect.connector", _CLASS)


def _join_dynamo() -> None:
    """Where a worker of NVIDIA Dynamo loads us: it refuses connectors that its table of requests' shapes lacks."""
    if (module := sys.modules.get(_DYNAMO)) is None:
        return
    protocols = getattr(module, "KV_CONNECTOR_PROTOCOLS", {})
    if (nixl := protocols.get("NixlConnector")) is None:
        logger.warning(
            "this Dynamo has no table KV_CONNECTOR_PROTOCOLS with NixlConnector in it: prefill will refuse us"
        )
        return
    protocols.setdefault(NAME, nixl)


def _add_flags() -> None:
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415  (vLLM loads us)

    original = EngineArgs.add_cli_args
    if getattr(original, _WRAPPED, False):
        return

    def add_cli_args(parser: Any) -> Any:
        return _extend(original(parser))

    setattr(add_cli_args, _WRAPPED, True)
    EngineArgs.add_cli_args = staticmethod(add_cli_args)


def _extend(parser: Any) -> Any:
    """Add our two flags, and let the existing one merge with them."""
    known = parser._option_string_actions  # noqa: SLF001  (argparse has no public way to look an option up)
    if "--kv-connector" in known or "--kv-transfer-config" not in known:
        return parser
    known["--kv-transfer-config"].__class__ = _Part
    group = parser.add_argument_group("KVDirect")
    group.add_argument(
        "--kv-connector",
        action=_Part,
        dest="kv_connector",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="KV connector to use, for example kvdirect; short for --kv-transfer-config.kv_connector",
    )
    group.add_argument(
        "--kv-role",
        action=_Part,
        dest="kv_role",
        default=argparse.SUPPRESS,
        choices=ROLES,
        help=f"what this engine does with the KV cache; with --kv-connector the default is {DEFAULT_ROLE}",
    )
    return parser


class _Part(argparse.Action):
    """`--kv-connector X`, `--kv-role Y`, or `--kv-transfer-config JSON`, whose dotted form vLLM turns into the same."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        del option_string
        setattr(namespace, _GIVEN, {**getattr(namespace, _GIVEN, {}), self.dest: values})
        _merge(parser, namespace)


def _merge(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    """Make `namespace.kv_transfer_config` what all the flags so far say together."""
    given = getattr(namespace, _GIVEN)
    config = given.get("kv_transfer_config")
    if "kv_connector" not in given and "kv_role" not in given:
        namespace.kv_transfer_config = config
        return
    settings: dict[str, Any] = {}
    for key in ("kv_connector", "kv_role"):
        in_config = getattr(config, key, None)
        if key in given and in_config not in (None, given[key]):
            flag = "--" + key.replace("_", "-")
            parser.error(f"{flag} {given[key]} contradicts --kv-transfer-config, which says {key}={in_config}")
        settings[key] = given.get(key, in_config)
    if settings["kv_connector"] is not None and settings["kv_role"] is None:
        settings["kv_role"] = DEFAULT_ROLE
    namespace.kv_transfer_config = _build(parser, config, settings)


def _build(parser: argparse.ArgumentParser, config: Any, settings: dict[str, Any]) -> Any:
    from vllm.config import KVTransferConfig  # noqa: PLC0415  (vLLM loads us)

    try:
        return KVTransferConfig(**settings) if config is None else dataclasses.replace(config, **settings)
    except ValueError as error:
        parser.error(f"--kv-connector/--kv-role: {error}")
