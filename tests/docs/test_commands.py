# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Every command of the documents is run, parsed, or listed with the reason why not: see accounts.py."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import accounts
import pytest
from documents import PAGES, ROOT, SHELL, Block, Command, blocks, commands, commands_in
from programs import parse_kvdirect, parse_vllm, shell, stand_in, start_router

from kvdirect.keys.tls import Keys

COMMANDS = commands()
STORIES = {**dict.fromkeys(accounts.ROUTER), **dict.fromkeys(accounts.ENGINES), **dict.fromkeys(accounts.OTHER_UCX)}
STORIES |= dict.fromkeys(command for story in accounts.KEYS for command in story)
EXACT = {**accounts.ALONE, **accounts.ELSEWHERE, **accounts.SHOWN, **STORIES}
PARSED = [command for command in COMMANDS if command.text.startswith(tuple(accounts.PARSED))]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.place)
def test_every_command_is_accounted_for(command: Command) -> None:
    known = command.text in EXACT or command in PARSED
    assert known, f"{command.place}: `{command.text}` is neither run nor listed; add it to tests/docs/accounts.py"


def test_no_account_is_of_a_command_that_is_gone() -> None:
    texts = {command.text for command in COMMANDS}
    assert sorted(set(EXACT) - texts) == []
    assert [start for start in accounts.PARSED if not any(text.startswith(start) for text in texts)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_says_what_it_is(page: str) -> None:
    for block in blocks(page):
        known = block.language in (*SHELL, "python", "text", "ini")
        assert known, f"{page}:{block.line}: the language {block.language!r} is not known to tests/docs"


def test_commands_are_taken_apart_as_a_shell_does() -> None:
    text = 'one   two  # not this\n\n# nor this\nthree \\\n  four\nfive \'{"a": 1,\n  "b": 2}\'\n(umask 077; x > y)'
    assert [(command.line, command.text) for command in commands_in(Block("page", 10, "bash", text))] == [
        (10, "one two"),
        (13, "three four"),
        (15, """five '{"a": 1, "b": 2}'"""),
        (17, "(umask 077; x > y)"),
    ]


@pytest.mark.parametrize(("text", "says"), accounts.ALONE.items())
def test_by_itself(text: str, says: str, tmp_path: Path) -> None:
    for written, here in accounts.SUBSTITUTES.items():
        text = text.replace(written, here)
    assert says in shell(text, tmp_path)


def test_the_router(tmp_path: Path) -> None:
    token, start, listing, join, drain, leave = accounts.ROUTER
    hosts = list(dict.fromkeys(re.findall(r"http://10\.[\d.:]+", " ".join(accounts.ROUTER))))
    with contextlib.ExitStack() as stack:
        here = {host: stand_in(stack, tmp_path, f"engine-{number}") for number, host in enumerate(hosts)}

        def run(text: str) -> str:
            for written, real in here.items():
                text = text.replace(written, real)
            return shell(text, tmp_path, tmp_path)

        def known() -> set[str]:
            at = {real: written for written, real in here.items()}
            return {at[item["url"]] for item in json.loads(run(f"{listing} --json"))}

        run(token)
        assert (tmp_path / "router.token").stat().st_mode & 0o777 == 0o600
        for written, real in here.items():
            start = start.replace(written, real)
        start = start.replace("--port 8000", "--port 0")
        here["http://127.0.0.1:8000"] = start_router(stack, start, tmp_path, tmp_path)
        assert all(here[host] in run(listing) for host in hosts[:4])
        run(join)
        assert known() == set(hosts)
        run(drain)
        run(leave)
        assert known() == {"http://10.0.0.1:8100", "http://10.0.0.2:8100", "http://10.0.0.5:8200"}


@pytest.mark.parametrize("command", PARSED, ids=lambda command: command.place)
def test_arguments_are_accepted(command: Command) -> None:
    words = shlex.split(command.text)
    if words[0] == "docker":
        parse_kvdirect(words[words.index("kvdirect:0.1.0") + 1 :])
    else:
        assert words[:2] == ["vllm", "serve"]
        parse_vllm(["--model", *words[2:]])


def test_arguments_that_are_wrong_are_found() -> None:
    for words in (
        ["proxy", "--prefil", "http://127.0.0.1:8100"],
        ["proxy", "--prefill", "127.0.0.1:8100", "--decode", "http://127.0.0.1:8200"],
        ["serve", "m", "--prot", "8100"],
        ["serve", "m", "--kv-transfer-config", '{"kv_connector_extra_config": {"hots": "10.0.0.1"}}'],
        ["instances", "join", "http://127.0.0.1:8100", "--router", "http://127.0.0.1:8000"],
    ):
        with pytest.raises(Exception, match=r"prefil|URL|prot|hots|required"):
            parse_kvdirect(words)


@pytest.mark.parametrize("story", accounts.KEYS)
def test_keys(story: tuple[str, ...], tmp_path: Path) -> None:
    shell("\n".join(story).replace("/etc/kvdirect", "."), tmp_path, tmp_path)
    made = sorted(tmp_path.glob("*.key"))
    assert len(made) == 2
    for key in made:
        assert len(Keys(key, tmp_path / "peers").now().listed) == 2


def test_another_ucx(tmp_path: Path) -> None:
    """A copy of the wheel's libraries stands for the other UCX: what counts is which file is loaded."""
    found = importlib.util.find_spec("libucx")
    assert found is not None
    assert found.origin is not None
    other = tmp_path / "ucx"
    shutil.copytree(Path(found.origin).parent / "lib", other / "lib", ignore=shutil.ignore_patterns("*.a", "*.la"))
    said = shell("\n".join(accounts.OTHER_UCX).replace("/opt/ucx", str(other)), tmp_path)
    assert f" from {other}/lib/libucp.so" in said


def test_what_is_done_elsewhere_is_there() -> None:
    for text, where in accounts.ELSEWHERE.items():
        for path in re.findall(r"(?:tests|tools)/[\w/]+\.\w+|\.ci/run", where):
            assert (ROOT / path).is_file(), f"{text}: {path} is gone"
