# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""No word that was given up comes back: see words.py."""

from __future__ import annotations

import functools
import re

import pytest
from documents import ROOT
from words import PLACES, WORDS, Retired

# They name the words.
SPARED = {"CHANGELOG.md", "tests/docs/words.py", "tests/docs/test_words.py"}


@functools.cache
def lines(place: str) -> list[tuple[str, str]]:
    """Every path of a place's files, and every line of them, and where it is."""
    files = sorted({path for glob in PLACES[place] for path in ROOT.glob(glob) if path.is_file()})
    assert files, f"{place} has no files: mend PLACES in tests/docs/words.py"
    texts = {path.relative_to(ROOT).as_posix(): path for path in files}
    return [
        (f"{name}:{number}", line)
        for name, path in texts.items()
        if name not in SPARED
        for number, line in enumerate([name, *path.read_text().splitlines()])
    ]


def uses(retired: Retired, places: list[tuple[str, str]]) -> list[str]:
    word = re.compile(retired.word)
    return [f"{where} uses {found[0]!r}; say {retired.now}" for where, line in places if (found := word.search(line))]


@pytest.mark.parametrize("retired", WORDS, ids=lambda retired: retired.now)
def test_no_retired_word(retired: Retired) -> None:
    found = [use for place in retired.places.split() for use in uses(retired, lines(place))]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_names_are_found_and_prose_is_not() -> None:
    by_name = {retired.now: retired for retired in WORDS}
    code = ["  Reading& _reading;", "class Reading {", "std::unique_ptr<Reading> half;", "  Reading reading;"]
    prose = ["// Reading lines only to overwrite them costs.", "// ReaderSessions: reading", "  ReadingList list;"]
    found = uses(by_name["ReaderSessions"], [(f"file:{i}", line) for i, line in enumerate(code + prose)])
    assert [use.split()[0] for use in found] == ["file:0", "file:1", "file:2", "file:3"]
    assert found[1] == "file:1 uses 'class Reading'; say ReaderSessions"
    [found_import] = uses(
        by_name["worker.reader"], [("x:1", "from kvdirect.pulls import Job"), ("x:2", "its pulls end")]
    )
    assert found_import == "x:1 uses 'kvdirect.pulls'; say worker.reader"
