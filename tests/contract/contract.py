# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the plugin needs of vLLM, read from the plugin's own source, and what of it a vLLM's source does not have.

Each function gives complaints, one a line, empty where all is well.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from needs import CALLED, CONNECTOR, EVERYWHERE, HASHED, HASHING, NEWER, READ, TEXTS
from signatures import Signature
from source_tree import Function, decorators, members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from source_tree import SourceTree

# Where vLLM calls a connector, and what the variables are called that it holds one in.
CALLERS = ("v1", "config", "distributed/kv_transfer", "model_executor/layers/attention")
HOLDERS = ("connector", "kv_connector", "connector_cls", "get_kv_transfer_group()")
# One of them is in every text that has a holder.
WORDS_OF_HOLDERS = ("connector", "get_kv_transfer_group")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A name that the plugin imports from vLLM; `optional` ones are looked for, and done without."""

    place: str
    module: str
    name: str
    optional: bool


@dataclass(frozen=True, slots=True)
class Heir:
    """A class of the plugin, and the class of vLLM that it inherits from."""

    place: str
    definition: ast.ClassDef
    module: str
    base: str


class Plugin:
    """The plugin's source."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Read the plugin's files, given by name."""
        self.texts = dict(sorted(texts.items()))
        read = [read_file(name, text) for name, text in self.texts.items()]
        self.imports = [wanted for imports, _ in read for wanted in imports]
        self.heirs = [heir for _, heirs in read for heir in heirs]

    @property
    def connector(self) -> ast.ClassDef:
        """The class that vLLM makes."""
        return next(heir.definition for heir in self.heirs if heir.definition.name == CONNECTOR)


@cache
def read_file(name: str, text: str) -> tuple[tuple[Wanted, ...], tuple[Heir, ...]]:
    """What one file of the plugin imports from vLLM, and its classes that inherit from vLLM's."""
    tree = ast.parse(text)
    imports = tuple(_imports(name, tree))
    modules = {wanted.name: wanted.module for wanted in imports}
    heirs = (
        Heir(f"{name}: {node.name}", node, modules[base.id], base.id)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in modules
    )
    return imports, tuple(heirs)


def missing_names(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Imports of the plugin that would fail."""
    return [
        f"{wanted.place}: {wanted.module} has no {wanted.name}"
        for wanted in plugin.imports
        if not wanted.optional and vllm.find(wanted.module, wanted.name) is None
    ]


def unimplemented(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Abstract methods of vLLM's classes that the plugin's classes lack."""
    return [
        f"{heir.place} does not implement {name} of {heir.base}"
        for heir in plugin.heirs
        for name, node in vllm.attributes(heir.module, heir.base).items()
        if isinstance(node, Function) and "abstractmethod" in decorators(node) and name not in members(heir.definition)
    ]


def misfits(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Overrides that do not take what callers of the overridden method pass."""
    complaints = []
    for heir in plugin.heirs:
        theirs = vllm.attributes(heir.module, heir.base)
        for name, node in members(heir.definition).items():
            base = theirs.get(name)
            if isinstance(node, Function) and isinstance(base, Function):
                reason = Signature.of(node).cannot_replace(Signature.of(base))
                complaints += [f"{heir.place}.{name} {reason}"] if reason else []
    return complaints


def never_called(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Methods of the connector that vLLM does not know: it renamed or dropped what they override."""
    known = _known(plugin, vllm)
    return [
        f"{CONNECTOR}.{name} overrides nothing"
        for name, node in members(plugin.connector).items()
        if isinstance(node, Function)
        and not name.startswith("_")
        and "property" not in decorators(node)
        and name not in {*known, *NEWER}
    ]


def missing_parts(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """What the connector uses of itself and neither defines nor inherits, and `super()` calls that would fail."""
    known = _known(plugin, vllm)
    complaints = []
    for node in ast.walk(plugin.connector):
        if not isinstance(node, ast.Attribute):
            continue
        inherited = ast.unparse(node.value) == "super()"
        itself = isinstance(node.value, ast.Name) and node.value.id == "self"
        if (inherited and node.attr not in known) or (itself and node.attr not in {*known, *members(plugin.connector)}):
            complaints.append(f"{CONNECTOR} uses {ast.unparse(node)}, which its bases do not have")
    for node in ast.walk(plugin.connector):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("super()."):
            base = known.get(ast.unparse(node.func).partition(".")[2])
            reason = Signature.of(base).cannot_take(node) if isinstance(base, Function) else ""
            complaints += [f"{ast.unparse(node)}: vLLM's {reason}"] if reason else []
    return complaints


def missing_attributes(_plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Fields, properties and methods of vLLM's objects that the plugin reads and that are not there."""
    complaints = []
    for (module, name), attributes in READ.items():
        if vllm.find(module, name) is None:
            complaints.append(f"{module} has no {name}")
            continue
        has = vllm.attributes(module, name)
        complaints += [f"{name} has no {attribute}" for attribute in attributes if attribute not in has]
    return complaints


def refused_by_vllm(_plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Calls into vLLM that its functions would not take."""
    complaints = []
    for (module, name), (method, text) in CALLED.items():
        function = vllm.attributes(module, name).get(method)
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        reason = Signature.of(function).cannot_take(call) if isinstance(function, Function) else "is not there"
        complaints += [f"{name}.{method}: {text} {reason}"] if reason else []
    return complaints


def missing_texts(_plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Words that must appear in modules of vLLM, such as the name of an option."""
    complaints = []
    for module, text in TEXTS:
        file = vllm.file(module)
        if file is None or text not in file.read_text():
            complaints.append(f"{module} does not mention {text!r}")
    return complaints


def hashed_otherwise(_plugin: Plugin, vllm: SourceTree) -> list[str]:
    """What of a request vLLM hashes blocks by, where that is not what a ticket's digest covers."""
    module, functions = HASHING
    hashed = {
        part.attr
        for node in ast.walk(vllm.tree(module) or ast.Module([], []))
        if isinstance(node, Function) and re.fullmatch(functions, node.name)
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "request" and not part.attr.startswith("_")
    }
    return [f"{module} hashes by {name}, a ticket's digest does not" for name in sorted(hashed - set(HASHED))] + [
        f"{module} does not hash by {name}, a ticket's digest does" for name in sorted(set(HASHED) - hashed)
    ]


def refused_by_us(plugin: Plugin, vllm: SourceTree) -> list[str]:
    """Calls in vLLM that our methods would not take, and methods that every version calls and this one does not."""
    ours = {name: node for name, node in members(plugin.connector).items() if isinstance(node, Function)}
    known = _known(plugin, vllm)
    complaints: list[str] = []
    seen: set[str] = set()
    for file, call, name in calls_of_connectors(vllm.folder):
        if name not in known:
            continue  # another kind of connector
        node = ours.get(name)
        if node is not None:
            seen.add(name)
            reason = Signature.of(node).cannot_take(call)
            complaints += [f"{file}:{call.lineno}: {ast.unparse(call)}: {CONNECTOR}.{name} {reason}"] if reason else []
    return complaints + [f"vLLM never calls {name}" for name in EVERYWHERE if name not in seen]


@cache
def calls_of_connectors(folder: Path) -> tuple[tuple[str, ast.Call, str], ...]:
    """Calls of a connector's methods, and of its class, in vLLM itself; its own connectors are left out."""
    found: list[tuple[str, ast.Call, str]] = []
    connectors = folder / "distributed/kv_transfer/kv_connector/v1"
    for part in CALLERS:
        for file in sorted(folder.joinpath(part).rglob("*.py")):
            if connectors in file.parents and file.name not in {"base.py", "metrics.py"}:
                continue
            text = file.read_text()
            if not any(word in text for word in WORDS_OF_HOLDERS):
                continue  # Most files: to take them apart would last the longest of all.
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call):
                    continue
                if ast.unparse(node.func) == "connector_cls":
                    found.append((str(file.relative_to(folder)), node, "__init__"))
                elif isinstance(node.func, ast.Attribute) and _holds(node.func.value):
                    found.append((str(file.relative_to(folder)), node, node.func.attr))
    return tuple(found)


def _holds(node: ast.expr) -> bool:
    return ast.unparse(node).removeprefix("self.") in HOLDERS


def _known(plugin: Plugin, vllm: SourceTree) -> dict[str, ast.AST]:
    """What the connector inherits."""
    found: dict[str, ast.AST] = {}
    for heir in plugin.heirs:
        if heir.definition is plugin.connector:
            found = vllm.attributes(heir.module, heir.base) | found
    return found


def _imports(file: str, tree: ast.Module) -> Iterator[Wanted]:
    optional = {
        id(node)
        for attempt in ast.walk(tree)
        if isinstance(attempt, ast.Try) and _tolerates_absence(attempt)
        for statement in attempt.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "vllm":
            for alias in node.names:
                yield Wanted(f"{file}:{node.lineno}", node.module or "", alias.name, id(node) in optional)


def _tolerates_absence(attempt: ast.Try) -> bool:
    """Whether an import that fails here is replaced by something, and not turned into another error."""
    return any(
        handler.type is not None
        and "ImportError" in ast.unparse(handler.type)
        and not any(isinstance(node, ast.Raise) for node in handler.body)
        for handler in attempt.handlers
    )


CHECKS = (
    missing_names,
    unimplemented,
    misfits,
    never_called,
    missing_parts,
    missing_attributes,
    refused_by_vllm,
    refused_by_us,
    missing_texts,
    hashed_otherwise,
)
