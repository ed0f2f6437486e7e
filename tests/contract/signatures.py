# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Whether one function's signature, as syntax, takes what another one's callers pass."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Self

from source_tree import Function, decorators

_KINDS = ("classmethod", "staticmethod", "property", "cached_property")


@dataclass(frozen=True, slots=True)
class Signature:
    """A method's parameters without `self` or `cls`.

    Attributes:
        kind: "" for a plain method, else the decorator that makes it something else.
        places: parameters that can be given by position, in order.
        keywords: parameters that can be given by name only.
        required: those without a default.
        more_places, more_keywords: whether there is *args, **kwargs.
    """

    kind: str
    waits: bool
    places: tuple[str, ...]
    keywords: tuple[str, ...]
    required: frozenset[str]
    more_places: bool
    more_keywords: bool

    @classmethod
    def of(cls, function: Function) -> Self:
        """The signature of a method as it is written."""
        arguments = function.args
        kind = next((name for name in _KINDS if name in decorators(function)), "")
        places = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        optional = set(places[len(places) - len(arguments.defaults) :])
        keywords = [argument.arg for argument in arguments.kwonlyargs]
        pairs = zip(keywords, arguments.kw_defaults, strict=True)
        optional |= {name for name, default in pairs if default is not None}
        if kind != "staticmethod":
            places = places[1:]
        return cls(
            kind=kind,
            waits=isinstance(function, ast.AsyncFunctionDef),
            places=tuple(places),
            keywords=tuple(keywords),
            required=frozenset({*places, *keywords} - optional),
            more_places=arguments.vararg is not None,
            more_keywords=arguments.kwarg is not None,
        )

    def cannot_replace(self, base: Signature) -> str:
        """Why a method with this signature cannot override one with that; empty if it can."""
        if (self.kind, self.waits) != (base.kind, base.waits):
            return f"is {_word(self)} and overrides {_word(base)}"
        for number, name in enumerate(base.places):
            if number < len(self.places) and self.places[number] != name:
                return f"calls its parameter {number + 1} {self.places[number]!r}, vLLM calls it {name!r}"
            if number >= len(self.places) and not (self.more_places and self.more_keywords):
                return f"does not take {name!r}, parameter {number + 1} of vLLM's"
        for name in base.keywords:
            if name not in {*self.places, *self.keywords} and not self.more_keywords:
                return f"does not take {name!r}, a keyword of vLLM's"
        for here, there, what in (
            (self.more_places, base.more_places, "*args"),
            (self.more_keywords, base.more_keywords, "**kwargs"),
        ):
            if there and not here:
                return f"does not take {what}, which vLLM's does"
        wanted = self.required - {*base.places, *base.keywords}
        return f"requires {', '.join(sorted(wanted))}, which vLLM does not pass" if wanted else ""

    def cannot_take(self, call: ast.Call) -> str:
        """Why this signature does not take the arguments of a call; empty if it does, or if there is no telling."""
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            return ""
        given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
        unpacked = any(keyword.arg is None for keyword in call.keywords)
        if len(call.args) > len(self.places) and not self.more_places:
            return f"takes {len(self.places)} arguments by position, not {len(call.args)}"
        by_place = set(self.places[: len(call.args)])
        unknown = given - {*self.places, *self.keywords}
        if unknown and not self.more_keywords:
            return f"takes no {', '.join(sorted(unknown))}"
        if given & by_place:
            return f"gets {', '.join(sorted(given & by_place))} twice"
        if unpacked and not self.more_keywords:
            return "takes no **kwargs"
        missing = self.required - by_place - given
        return f"lacks {', '.join(sorted(missing))}" if missing and not unpacked else ""


def _word(signature: Signature) -> str:
    return f"{'async ' if signature.waits else ''}{signature.kind or 'a method'}"
