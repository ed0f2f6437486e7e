# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A package's source as syntax trees: where a name is defined, what a class inherits, what it can be asked for.

Nothing is imported, so a vLLM can be looked at that is not installed here, or could not run here.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a name is defined. `node` is None for a module, and for a name that comes from another package."""

    module: str
    node: ast.AST | None


class SourceTree:
    """One package, found by its folder, which is named like it."""

    def __init__(self, folder: Path) -> None:
        """Look at the package in `folder`."""
        self.folder = folder
        self._trees: dict[str, ast.Module | None] = {}

    def with_texts(self, changed: Mapping[str, str]) -> SourceTree:
        """The same package, with other texts for some of its modules; what was read of the others is shared."""
        other = SourceTree(self.folder)
        other._trees = self._trees | {module: ast.parse(text) for module, text in changed.items()}
        return other

    def file(self, module: str) -> Path | None:
        """The file of a module of this package."""
        path = self.folder.parent.joinpath(*module.split("."))
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        return None

    def tree(self, module: str) -> ast.Module | None:
        """A module's syntax; None where there is no such module."""
        if module not in self._trees:
            file = self.file(module)
            self._trees[module] = None if file is None else ast.parse(file.read_text(), str(file))
        return self._trees[module]

    def find(self, module: str, name: str) -> Definition | None:
        """What `from module import name` gives, followed to its definition; None where that fails."""
        tree = self.tree(module)
        if tree is None:
            return None
        for node in _statements(tree.body):
            if isinstance(node, ast.ClassDef | Function) and node.name == name:
                return Definition(module, node)
            if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
                return Definition(module, node)
            if isinstance(node, ast.ImportFrom):
                found = self._through(module, node, name)
                if found is not None:
                    return found
        submodule = f"{module}.{name}"
        return Definition(submodule, None) if self.file(submodule) else None

    def lineage(self, module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
        """A class and those of this package that it inherits from, nearest first."""
        found = self.find(module, name)
        if found is None or not isinstance(found.node, ast.ClassDef):
            return
        yield found.module, found.node
        for base in found.node.bases:
            if isinstance(base, ast.Name) and base.id != name:
                yield from self.lineage(found.module, base.id)

    def attributes(self, module: str, name: str) -> dict[str, ast.AST]:
        """What an instance of a class has: methods, properties, fields, and what its methods assign to `self`."""
        found: dict[str, ast.AST] = {}
        for _, definition in self.lineage(module, name):
            for attribute, node in members(definition).items():
                found.setdefault(attribute, node)
        return found

    def _through(self, module: str, node: ast.ImportFrom, name: str) -> Definition | None:
        """A name that a module has because this statement imports it."""
        source = self._source(module, node)
        for alias in node.names:
            if alias.name == "*":
                found = self.find(source, name)
                if found is not None:
                    return found
            elif (alias.asname or alias.name) == name:
                inside = source.split(".")[0] == self.folder.name
                return self.find(source, alias.name) if inside else Definition(source, None)
        return None

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        """The module that an import statement names, relative ones included."""
        if not node.level:
            return node.module or ""
        file = self.file(module)
        is_package = file is not None and file.name == "__init__.py"
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, node.module] if node.module else parts)


@cache
def members(definition: ast.ClassDef) -> dict[str, ast.AST]:
    """What a class body defines, and what its methods assign to `self`; an overload's last form counts."""
    found: dict[str, ast.AST] = {}
    for node in _statements(definition.body):
        if isinstance(node, Function):
            found[node.name] = node
            for inner in ast.walk(node):
                if isinstance(inner, ast.Assign | ast.AnnAssign):
                    for attribute in _assigned_to_self(inner):
                        found.setdefault(attribute, inner)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found.update(dict.fromkeys(_targets(node), node))
    return found


def decorators(function: Function) -> set[str]:
    """The last word of each decorator: `abstractmethod`, `classmethod`, `setter`."""
    names = (ast.unparse(decorator).partition("(")[0] for decorator in function.decorator_list)
    return {name.rpartition(".")[2] for name in names}


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body, and those inside its `if` and `try` blocks."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            handlers = node.handlers if isinstance(node, ast.Try) else []
            final = node.finalbody if isinstance(node, ast.Try) else []
            for part in (node.body, *(handler.body for handler in handlers), node.orelse, final):
                yield from _statements(part)


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}


def _assigned_to_self(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    inner = (part for target in targets for part in ast.walk(target) if isinstance(part, ast.Attribute))
    return {part.attr for part in inner if isinstance(part.value, ast.Name) and part.value.id == "self"}
