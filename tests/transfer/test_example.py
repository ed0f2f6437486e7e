# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import kvtransfer as kt

from .harness import TESTS, child_environment

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLES = TESTS.parent / "examples"
LAST_LINE = (
    "transformers_pd: 12 of 12 prompts identical, {moved}; "
    r"[0-9]+ ms each, [0-9.]+% transfer, [0-9.]+% waiting"
)
TRANSFORMERS_LINE = re.compile(r"(\d+) positions, (\[.*\]) to (\[.*\]), (\d+) bytes: identical")


def test_pull_two_processes() -> None:
    owner, reader = sorted(lines_of("pull_two_processes.py"))
    assert owner.startswith("owner: [LeaseEnd(")
    assert "completed" in owner
    assert reader.startswith("reader: ")
    assert " bytes by cma in " in reader


def test_sharded_tensor() -> None:
    *owners, last = sorted(lines_of("sharded_tensor.py"))
    assert owners == ["first: completed", "second: completed"]
    told = re.fullmatch(r"sharded_tensor: 24576 bytes in [0-9]+ us: (.*); all right", last)
    assert told, last
    assert told[1] == "6144 bytes of shard 0 by shm, 18432 bytes of shard 1 by shm"


def test_transformers_pd() -> None:
    *prompts, last = lines_of("transformers_pd.py", "--device", "cpu")
    assert re.fullmatch(LAST_LINE.format(moved=r"1\.[0-9] MiB pulled over shm on cpu"), last), last
    assert len(prompts) == 12
    equal = 0
    for prompt in prompts:
        found = TRANSFORMERS_LINE.fullmatch(prompt)
        assert found, prompt
        positions, remote, local, pulled = found.groups()
        equal += remote == local
        assert int(pulled) == int(positions) * 4 * 2 * 2 * 32 * 4  # layers, keys and values, heads, elements, bytes
    # Of prompts in one block some may have it at the same place on both sides.
    assert equal <= 3, "equal block tables show nothing"


@pytest.mark.gpu
def test_transformers_pd_on_a_gpu() -> None:
    import torch  # noqa: PLC0415  (seconds; the other tests here need none)

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    if not kt.CUDA_BUILD:
        pytest.skip("this build has no CUDA parts")
    *_, last = lines_of("transformers_pd.py", "--device", "cuda")
    assert re.fullmatch(LAST_LINE.format(moved=r"1\.[0-9] MiB pulled over cuda_ipc on cuda"), last), last


@pytest.mark.parametrize("spoilt", ["nothing", "zeroed", "the owner's table"])
def test_transformers_pd_tells_a_spoilt_cache(spoilt: str) -> None:
    """Its tokens depend on the bytes that were pulled and on which blocks hold them: else it would show nothing.

    The order of full blocks is compared by itself: attention does not mind it, as each key carries its position.
    """
    example = module_of("transformers_pd")
    owner, reader = example.Worker("owner", "cpu", 8), example.Worker("reader", "cpu", 12)
    prompt, count = list(range(40)), 16
    remote, local = owner.take_blocks(len(prompt)), reader.take_blocks(len(prompt) + count)
    (first,) = owner.step([remote], [0], [prompt])
    with owner.engine, reader.engine:
        lease = owner.engine.grant([remote], watermark=len(prompt), term=60)
        peer = reader.engine.connect(owner.engine.descriptor())
        peer.pull(lease, [remote], [local[: len(remote)]], stop=len(prompt)).wait(60)
    whole = len(prompt) // example.BLOCK_TOKENS
    assert (reader.pool[:, :, local[:whole]] == owner.pool[:, :, remote[:whole]]).all()
    if spoilt == "zeroed":
        reader.pool[:, :, local[: len(remote)]] = 0
    elif spoilt == "the owner's table":
        local[: len(remote)] = remote
    tokens = [first]
    while len(tokens) < count:
        tokens += reader.step([local], [len(prompt) + len(tokens) - 1], [tokens[-1:]])
    assert (tokens == reader.generate(prompt, count)) == (spoilt == "nothing")


def lines_of(program: str, *arguments: str) -> list[str]:
    """What an example prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *arguments],
        # Several processes write to one pipe; unbuffered, a line would be two writes.
        env={**child_environment(), "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def module_of(program: str) -> ModuleType:
    """An example as a module: nothing of it runs by that."""
    spec = importlib.util.spec_from_file_location(program, EXAMPLES / f"{program}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
