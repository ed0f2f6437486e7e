# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Includes and imports look one way, as the tables below order them, and nowhere in a circle."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

# From the ground up. A name is a folder, or the file pair of a noun at the root; it may use what stands on lines above
# its own, and nothing else but itself.
CSRC_ORDER = """
base
lease test_hooks
planner
wire
memory net
cuda pull
lane
message
session
lanes
proven_pull
peer
gather
sharded_peer
engine
python
"""
PLUGIN_ORDER = """
__init__ errors log versions support fingerprint lookups parties stats
hosts keys request_log tracing
cache config metadata transfer_params
handshake router harness
scheduler worker proxy watch
connector cli
plugin __main__
ray_serve
"""
# A package may import itself and those before it.
PACKAGES = {"kvtransfer": "kvtransfer", "kvdirect": "vllm_plugin/kvdirect", "kvdirect_bench": "bench/kvdirect_bench"}
# Modules of kvtransfer that reach into the core: what the plugin needs of it, kvtransfer's other modules offer.
NATIVE = {"kvtransfer._core", "kvtransfer._native"}

Arrows = dict[str, dict[str, str]]  # user -> what it uses -> where


def floors(order: str) -> dict[str, int]:
    return {name: floor for floor, line in enumerate(order.split("\n")) for name in line.split()}


def against(arrows: Arrows, order: str) -> list[str]:
    """The arrows that do not run down."""
    floor = floors(order)
    problems = [f"{name}: no floor is its own; give it one in {Path(__file__).name}" for name in arrows.keys() - floor]
    problems += [f"{name}: has a floor and is gone" for name in floor.keys() - arrows]
    for user, used in arrows.items():
        for name, where in used.items():
            if user != name and user in floor and name in floor and floor[name] >= floor[user]:
                problems.append(f"{where}: {user} uses {name}, which is not below it")
    return sorted(problems)


def circle(arrows: Arrows) -> str:
    """One way that leads back to where it began, with each step's place; empty: there is none."""
    done: set[str] = set()

    def walk(way: list[str]) -> list[str]:
        for name in arrows.get(way[-1], {}):
            if name in way:
                return [*way[way.index(name) :], name]
            if name not in done and (found := walk([*way, name])):
                return found
        done.add(way[-1])
        return []

    for start in arrows:
        if start not in done and (way := walk([start])):
            return " -> ".join(f"{a} ({arrows[a][b]})" for a, b in itertools.pairwise(way)) + f" -> {way[-1]}"
    return ""


def grouped(arrows: Arrows, group: dict[str, str]) -> Arrows:
    """The same between groups."""
    result: Arrows = {name: {} for name in group.values()}
    for user, used in arrows.items():
        for name, where in used.items():
            if group[name] != group[user]:
                result[group[user]].setdefault(group[name], where)
    return result


def includes() -> tuple[Arrows, dict[str, str]]:
    """Which file includes which, and the folder, or noun at the root, that each belongs to."""
    csrc = ROOT / "csrc"
    files = {
        path.relative_to(csrc).as_posix(): path for path in csrc.rglob("*") if path.suffix in (".h", ".cpp", ".cu")
    }
    nouns = floors(CSRC_ORDER)
    units = {}
    arrows: Arrows = {name: {} for name in files}
    for name, path in files.items():
        folder, _, rest = name.partition("/")
        noun = next((noun for noun in nouns if f"{path.stem}_".startswith(f"{noun}_")), path.stem)
        units[name] = folder if rest else noun
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if (found := re.match(r'#include "([^"]+)"', line)) is not None:
                place = f"{path.relative_to(ROOT)}:{number}"
                used = found[1] if found[1] in files else f"{folder}/{found[1]}"
                assert used in files, f"{place}: includes {found[1]}, which csrc does not have"
                arrows[name].setdefault(used, place)
    return arrows, units


def modules() -> dict[str, Path]:
    """Every module of the packages, by its whole name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted([*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.pyi")]):
            name = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = path
    return found


def imported(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """What a module imports anywhere in it, for type checkers too; of each, the module if it is one of ours."""
    package = module.split(".")[: None if path.stem == "__init__" else -1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield (name if name in known else base), node.lineno


@functools.cache
def imports() -> Arrows:
    known = modules()
    arrows: Arrows = {}
    for module, path in known.items():
        arrows[module] = {}
        for name, line in imported(module, path, known):
            if name in known and name != module:
                arrows[module].setdefault(name, f"{path.relative_to(ROOT)}:{line}")
    return arrows


def test_includes_run_down() -> None:
    arrows, units = includes()
    problems = against(grouped(arrows, units), CSRC_ORDER)
    assert not problems, "\n".join(problems)


def test_includes_go_in_no_circle() -> None:
    arrows, _ = includes()
    found = circle(arrows)
    assert not found, found


def test_only_the_bindings_know_python() -> None:
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        if path.parent.name != "python":
            assert not re.search(r"#include <(nanobind|Python\.h)", path.read_text()), path.relative_to(ROOT)


def test_imports_go_in_no_circle() -> None:
    found = circle(imports())
    assert not found, found


def test_packages_import_one_way() -> None:
    order = list(PACKAGES)
    for user, used in imports().items():
        for name, where in used.items():
            package, its = user.partition(".")[0], name.partition(".")[0]
            assert order.index(its) <= order.index(package), f"{where}: {package} imports {its}"
            assert package != "kvdirect" or name not in NATIVE, f"{where}: {package} reaches past kvtransfer to {name}"


def test_the_library_knows_no_vllm() -> None:
    known = modules()
    for module, path in known.items():
        for name, line in imported(module, path, known):
            if module.startswith("kvtransfer"):
                assert name.partition(".")[0] != "vllm", f"{path.relative_to(ROOT)}:{line}: imports {name}"


def test_imports_of_the_plugin_run_down() -> None:
    arrows = {user: used for user, used in imports().items() if user.partition(".")[0] == "kvdirect"}
    own = {user: {name: where for name, where in used.items() if name in arrows} for user, used in arrows.items()}
    units = {module: module.split(".")[1] if "." in module else "__init__" for module in own}
    problems = against(grouped(own, units), PLUGIN_ORDER)
    assert not problems, "\n".join(problems)


def test_what_is_wrong_is_found() -> None:
    order = "low\nmiddle also\nhigh"
    arrows: Arrows = {
        "low": {"high": "low.h:3"},
        "middle": {"also": "middle.h:1", "low": "middle.h:2"},
        "also": {},
        "high": {"middle": "high.h:7"},
    }
    assert against(arrows, order) == [
        "low.h:3: low uses high, which is not below it",
        "middle.h:1: middle uses also, which is not below it",
    ]
    assert circle(arrows) == "low (low.h:3) -> high (high.h:7) -> middle (middle.h:2) -> low"
    assert against({"low": {}, "attic": {}}, "low\ncellar") == [
        "attic: no floor is its own; give it one in test_arrows.py",
        "cellar: has a floor and is gone",
    ]
