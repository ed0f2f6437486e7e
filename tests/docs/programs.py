# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs what documents say, and parses what cannot run, with the parsers of the programs themselves."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from documents import ROOT

from kvdirect.cli import bench, doctor, instances, keygen, proxy, top
from kvdirect.cli.serve import CONNECTOR, vllm_arguments
from kvdirect.config import parse_settings
from kvdirect.router.config import ProxyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 180.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Where `kvdirect` and `python` are those that run the tests, also in a tree that is not installed.

    Args:
        folder: gets a folder of programs.
        more: further variables.
    """
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    for name, words in {"kvdirect": [sys.executable, "-m", "kvdirect"], "python": [sys.executable]}.items():
        program = programs / name
        if not program.exists():  # one that runs cannot be written
            program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            program.chmod(0o755)
    paths = [str(ROOT), str(ROOT / "vllm_plugin"), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **more,
    }


def shell(script: str, folder: Path, where: Path = ROOT) -> str:
    """Run a script to its end; its output, or an AssertionError with everything that it said."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=where,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{script}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Running:
    """A program that goes on running."""

    script: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, ready: str, seconds: float = DEADLINE) -> re.Match[str]:
        """What the expression `ready` finds in its output, once it does."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.process.poll()
            said = self.log.read_text(errors="replace")
            if found := re.search(ready, said, re.MULTILINE):
                return found
            assert ended is None, f"{self.script}\nended with {ended}\n{said}"
            assert time.monotonic() < deadline, f"{self.script}\nis not ready after {seconds} s\n{said}"
            time.sleep(0.1)


@contextlib.contextmanager
def running(script: str, folder: Path, where: Path = ROOT, **more: str) -> Iterator[Running]:
    """Start a program, and stop it with all it started."""
    log = folder / f"running-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=where,
            env=environment(folder, **more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(script, process, log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def stand_in(stack: contextlib.ExitStack, folder: Path, name: str) -> str:
    """The URL of a program that plays an engine for a router, until the stack is left."""
    program = ROOT / "tests/router/played_engine.py"
    return stack.enter_context(running(f"exec python {program} {name}", folder)).wait(r"^http://\S+")[0]


def start_router(stack: contextlib.ExitStack, command: str, folder: Path, where: Path) -> str:
    """The URL of a router that was started with this command, until the stack is left."""
    return stack.enter_context(running(f"exec {command}", folder, where)).wait(r"listening on (http://\S+)$")[1]


def parse_kvdirect(words: list[str]) -> None:
    """Accept the words after `kvdirect` as the command would, down to every setting in them.

    Raises:
        Exception: whatever the command itself would stop with.
    """
    name, *rest = words
    if name == "serve":
        parse_vllm(vllm_arguments(rest, has_command=False)[1:])
        return
    parser = _Strict(prog=f"kvdirect {name}", allow_abbrev=False)
    modules = {"proxy": proxy, "instances": instances, "doctor": doctor, "bench": bench, "keygen": keygen, "top": top}
    modules[name].add_arguments(parser)
    args = parser.parse_args(rest)
    if name == "proxy":
        given = {key: getattr(args, key) for key in proxy._OPTIONS}
        token = "0" * 32 if args.admin_token_file else None
        ProxyConfig(prefill=tuple(args.prefill), decode=tuple(args.decode), admin_token=token, **given)


def parse_vllm(words: list[str]) -> Any:  # noqa: ANN401  (vLLM's KVTransferConfig)
    """Accept the arguments of a vLLM server, and our settings in them; the KV transfer configuration."""
    config = _vllm_parser().parse_args(words).kv_transfer_config
    assert config is not None, f"no KV connector in {words}"
    if config.kv_connector == "MultiConnector":
        parts = [type(config)(**part) for part in config.kv_connector_extra_config["connectors"]]
        [ours] = [part for part in parts if part.kv_connector == CONNECTOR]
    else:
        ours = config
    assert ours.kv_connector == CONNECTOR
    parse_settings(ours.kv_connector_extra_config).refuse_open_network()
    return config


@cache
def _vllm_parser() -> Any:  # noqa: ANN401  (vLLM's parser)
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415  (slow)
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    from kvdirect import plugin  # noqa: PLC0415

    plugin.register()

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> None:  # type: ignore[override]
            raise ValueError(message)

    return make_arg_parser(Parser())


class _Strict(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)
