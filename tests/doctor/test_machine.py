# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The doctor on this machine, as it is and with something really taken away; each report must change accordingly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kvtransfer as kt

ROOT = Path(__file__).resolve().parents[2]
CONFINE = Path(__file__).with_name("confine.py")
# The doctor's own deadlines end first: an engine and a reader that hang are two minutes and a half.
DEADLINE = 240.0
COMMAND = (sys.executable, "-m", "kvdirect", "doctor", "--json")
IN_PROCESS = "; from kvdirect.cli.main import main; raise SystemExit(main(['doctor', '--json']))"


@dataclass(frozen=True)
class Outcome:
    status: int
    report: dict[str, Any]

    def check(self, name: str) -> dict[str, Any]:
        [found] = [check for check in self.report["checks"] if check["name"] == name]
        assert isinstance(found, dict)
        return found

    def named(self, status: str) -> set[str]:
        return {check["name"] for check in self.report["checks"] if check["status"] == status}


def examine(*command: str, way: str = "", **environment: str) -> Outcome:
    line = [sys.executable, str(CONFINE), way, *command] if way else list(command)
    path = os.pathsep.join(filter(None, [environment.pop("first", ""), str(ROOT), str(ROOT / "vllm_plugin")]))
    done = subprocess.run(
        line,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if done.stderr.startswith("confine: "):
        pytest.skip(f"needs root or CAP_SYS_ADMIN: {done.stderr.strip()}")
    assert done.stdout, done.stderr
    outcome = Outcome(done.returncode, json.loads(done.stdout))
    assert outcome.report["schema_version"] == 1
    assert outcome.status == (0 if outcome.report["usable"] else 1)
    return outcome


@pytest.fixture(scope="module")
def healthy() -> Outcome:
    return examine(*COMMAND)


def test_this_machine_as_it_is(healthy: Outcome) -> None:
    assert healthy.status == 0, healthy.report
    assert healthy.check("kvtransfer")["facts"]["protocol"] == kt.PROTOCOL_VERSION
    assert healthy.check("ucx")["facts"]["version"] == kt.ucx_version()
    assert healthy.check("ucx")["facts"]["file"] == kt.ucx_file()
    assert healthy.check("ucx")["facts"]["origin"] == ("wheel" if "/libucx/lib/" in kt.ucx_file() else "system")
    assert healthy.check("ucx_copies")["facts"]["mapped"] == [kt.ucx_file()]
    working = set(healthy.check("lanes")["facts"]["working"])
    assert {"message"} <= working <= set(kt.config.KNOWN_LANES)
    listening = healthy.check("engine")["facts"]["listening"]
    assert listening
    assert all(one["loopback"] and one["device"] == "lo" for one in listening)
    assert healthy.report["verdict"].startswith("usable: lanes ")


def test_every_check_and_fact_is_documented(healthy: Outcome) -> None:
    page = (ROOT / "docs/doctor.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| (`.*) \|$", page, re.MULTILINE)
    # Words in brackets explain a fact; what they put into code marks are keys of its values.
    documented = {name: re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", facts)) for name, facts in rows}
    assert documented == {check["name"]: list(check["facts"]) for check in healthy.report["checks"]}


def test_the_text_says_the_same() -> None:
    done = subprocess.run(COMMAND[:-1], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert re.search(r"^ok +platform +CPython", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("usable: lanes ")


def test_cma_forbidden_by_a_filter(healthy: Outcome) -> None:
    if "cma" not in healthy.check("lanes")["facts"]["working"]:
        pytest.skip("needs a machine on which the cma lane works")
    outcome = examine(*COMMAND, way="no-process-read")
    assert outcome.status == 0  # slower, not unusable
    read = outcome.check("process_read")
    assert (read["status"], read["facts"]["works"]) == ("warning", False)
    assert (read["facts"]["errno"], read["facts"]["own_errno"]) == ("EPERM", "EPERM")
    assert read["facts"]["seccomp_filter"]
    assert "seccomp" in read["summary"]
    assert "--cap-add SYS_PTRACE" in read["remedy"]
    lanes = outcome.check("lanes")
    assert lanes["status"] == "warning"
    assert "cma" not in lanes["facts"]["working"]
    assert "Operation not permitted" in lanes["facts"]["lanes"]["cma"]["why"]
    assert "process_read" in lanes["remedy"]
    assert outcome.report["verdict"].startswith("usable: lanes ")
    assert {"process_read", "lanes"} <= outcome.named("warning") - healthy.named("warning")


def test_a_process_that_does_not_let_itself_be_read() -> None:
    """No filter and no Yama: it is not dumpable, and nobody has CAP_SYS_PTRACE."""
    code = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)" + IN_PROCESS
    outcome = examine(sys.executable, "-c", code, way="no-ptrace")
    read = outcome.check("process_read")
    assert read["status"] == "warning"
    assert (read["facts"]["errno"], read["facts"]["own_errno"]) == ("EPERM", None)
    assert "same capabilities" in read["remedy"] or read["facts"]["yama_ptrace_scope"]


@pytest.mark.parametrize(
    ("way", "told", "remedy"),
    [
        ("small-shm", "has 1 MiB", "--shm-size"),
        ("no-shm", "Read-only file system", "writable"),
        ("small-files", "File too large", "ulimit -f unlimited"),
    ],
)
def test_shared_memory_limited(way: str, told: str, remedy: str, healthy: Outcome) -> None:
    outcome = examine(*COMMAND, way=way)
    assert outcome.status == 0
    shared = outcome.check("shared_memory")
    assert shared["status"] == "warning"
    assert told in shared["summary"]
    assert remedy in shared["remedy"]
    # No file of the size of a cache, no shared cache: the lane says so itself.
    also = {"lanes"} if way == "small-files" else set()
    assert outcome.named("warning") - healthy.named("warning") <= {"shared_memory", "large_pages"} | also
    assert shared["facts"]["memfd"] == (way != "small-files")
    if way == "small-shm":
        assert shared["facts"]["size_bytes"] == 1 << 20


@pytest.fixture(scope="module")
def second_ucx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy of the libraries in use; its libucp."""
    source = Path(kt.ucx_file()).resolve().parent
    target = tmp_path_factory.mktemp("second-ucx") / "lib"
    target.mkdir()
    for name in ("ucm", "ucs", "uct", "ucp"):
        shutil.copy(source / f"lib{name}.so.0", target)
    return target / "libucp.so.0"


def test_a_second_ucx_in_the_process(second_ucx: Path, healthy: Outcome) -> None:
    code = f"import ctypes, kvtransfer; ctypes.CDLL({str(second_ucx)!r})" + IN_PROCESS
    outcome = examine(sys.executable, "-c", code)
    assert outcome.status == 0
    copies = outcome.check("ucx_copies")
    assert copies["status"] == "warning"
    assert sorted(copies["facts"]["mapped"]) == sorted([kt.ucx_file(), str(second_ucx)])
    assert f"without {second_ucx}" in copies["remedy"]
    assert outcome.check("ucx")["facts"]["file"] == kt.ucx_file()
    assert outcome.named("warning") - healthy.named("warning") == {"ucx_copies"}


def test_another_ucx_that_was_loaded_first(second_ucx: Path, healthy: Outcome) -> None:
    """The loader gives kvtransfer the library of that name that it has; the doctor must say which that is."""
    if healthy.check("ucx")["facts"]["origin"] != "wheel":
        pytest.skip("needs a libucx package, in whose place another one is used")
    folder = str(second_ucx.parent)
    code = f"import ctypes; [ctypes.CDLL({folder!r} + f'/lib{{n}}.so.0') for n in ('ucs', 'uct', 'ucp')]" + IN_PROCESS
    outcome = examine(sys.executable, "-c", code)
    ucx = outcome.check("ucx")
    assert ucx["status"] == "warning"
    assert (ucx["facts"]["file"], ucx["facts"]["origin"]) == (str(second_ucx), "other")
    assert f"without what loads {second_ucx}" in ucx["remedy"]
    assert f"without {second_ucx}" in outcome.check("ucx_copies")["remedy"]


OLD_UCX = """
void ucp_get_version(unsigned *major, unsigned *minor, unsigned *release) { *major = 1; *minor = 17; *release = 3; }
"""


def test_a_ucx_that_is_refused(tmp_path: Path) -> None:
    """kvtransfer cannot be imported, and the doctor speaks all the same."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a library that calls itself an old UCX")
    (tmp_path / "libucx.py").write_text("raise ImportError('hidden by the test')\n")
    (tmp_path / "old.c").write_text(OLD_UCX)
    library = tmp_path / "libucp.so.0"
    line = [compiler, "-shared", "-fPIC", "-Wl,-soname,libucp.so.0", "-o", str(library), str(tmp_path / "old.c")]
    subprocess.run(line, check=True, timeout=60)
    outcome = examine(*COMMAND, first=str(tmp_path), LD_LIBRARY_PATH=str(tmp_path))
    assert outcome.status == 1
    assert {"kvtransfer", "ucx", "engine", "lanes"} == outcome.named("problem")
    assert "too old" in outcome.check("kvtransfer")["summary"]
    ucx = outcome.check("ucx")
    assert (ucx["facts"]["version"], ucx["facts"]["file"]) == ("1.17.3", str(library))
    assert outcome.check("platform")["status"] == "ok"
    assert outcome.report["verdict"].startswith("not usable: problems: kvtransfer, ucx, engine, lanes")


def test_no_such_device() -> None:
    outcome = examine(*COMMAND, "--listen", "nosuch0")
    assert outcome.status == 1
    assert outcome.named("problem") == {"engine", "lanes"}
    assert "listen=nosuch0" in outcome.check("engine")["summary"]
    assert "devices here: " in outcome.check("engine")["remedy"]


def test_a_device_that_others_reach(healthy: Outcome) -> None:
    devices = healthy.check("network_devices")["facts"]["devices"]
    outward = [one for one in devices if one["up"] and not one["loopback"] and one["addresses"]]
    if not outward:
        pytest.skip("needs a network device beside loopback")
    outcome = examine(*COMMAND, "--listen", outward[0]["name"])
    engine = outcome.check("engine")
    assert engine["status"] == "warning"
    assert "give engines keys" in engine["summary"]
    assert {one["device"] for one in engine["facts"]["listening"]} == {outward[0]["name"]}


def test_too_few_files_for_an_engine() -> None:
    outcome = examine(*COMMAND, way="few-files")
    assert outcome.status == 1
    assert "ulimit -n" in outcome.check("open_files")["remedy"]
    assert "lanes" in outcome.named("problem")
    assert outcome.report["verdict"].startswith("not usable")


def test_so_few_files_that_engines_cannot_even_be_tried() -> None:
    outcome = examine(*COMMAND, way="hardly-any-files")
    assert outcome.status == 1
    assert "could not be examined" in outcome.check("engines")["summary"]
    assert outcome.report["verdict"].startswith("not usable")
