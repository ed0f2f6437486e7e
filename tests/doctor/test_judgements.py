# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the doctor makes of machines that are not here: parsers and judgements."""

from __future__ import annotations

import errno
import json
import signal
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import kvtransfer as kt
from kvdirect.cli.main import main
from kvtransfer import _native, doctor
from kvtransfer.doctor import container, engines, gpu, network, owner, process_read, procfs, programs, rdma, ucx
from kvtransfer.doctor.report import Check, Report

MAPS = """\
7f0000000000-7f0000001000 r--p 00000000 08:01 11    /opt/a/libucp.so.0.0.0
7f0000001000-7f0000002000 r-xp 00001000 08:01 11    /opt/a/libucp.so.0.0.0
7f0000003000-7f0000004000 r--p 00000000 08:01 12    /x y/nixl.libs/libucp-1a2b3c4d.so.0.0.0 (deleted)
7f0000005000-7f0000006000 rw-p 00000000 00:00 0
7f0000007000-7f0000008000 r--p 00000000 08:01 13    /opt/a/libucpx.so
7f0000009000-7f000000a000 rw-p 00000000 00:00 0     [heap]
"""


def test_mapped_files_are_named_once() -> None:
    found = procfs.mapped_files(MAPS, r"libucp(-[0-9a-f]+)?\.so")
    assert found == ["/opt/a/libucp.so.0.0.0", "/x y/nixl.libs/libucp-1a2b3c4d.so.0.0.0 (deleted)"]


def test_copies_are_folders() -> None:
    files = ["/a/libucs.so.0", "/a/libucp.so.0", "/a/libuct.so.0", "/b/libuct.so"]
    assert ucx.one_of_each(files) == ["/a/libucp.so.0", "/b/libuct.so"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_listeners_are_those_of_the_kernel(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        place = (host, sock.getsockname()[1])
        assert place not in owner.own_listeners()
        sock.listen()
        assert place in owner.own_listeners()
        before = set(Path("/proc/self/fd").iterdir())
        owner.own_listeners()
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_devices_of_addresses() -> None:
    assert network.device_of(ip_address("127.0.0.1")) == "lo"
    assert network.device_of(ip_address("::ffff:127.0.0.1")) == "lo"
    assert network.device_of(ip_address("0.0.0.0")) == "every interface"  # noqa: S104  (asked about, not bound)
    assert network.device_of(ip_address("203.0.113.7")) == ""


@pytest.mark.parametrize(
    ("release", "origin", "packages", "status", "told"),
    [
        (None, None, {}, "problem", "no UCX was found"),
        ((1, 18, 1), "wheel", {"libucx-cu13": "1.18.1"}, "problem", "too old"),
        ((1, 19, 0), "wheel", {"libucx-cu13": "1.19.0"}, "ok", "libucx-cu13 1.19.0"),
        ((1, 20, 1), "system", {}, "problem", "cannot reach peers"),
        ((1, 21, 0), "system", {}, "ok", "from no libucx package"),
        ((1, 22, 0), "other", {"libucx-cu13": "1.21.0"}, "warning", "takes the place of"),
        ((1, 22, 0), "wheel", {"libucx-cu13": "1.22.0", "libucx-cu12": "1.22.0"}, "warning", "overwrite"),
        ((1, 23, 0), "system", {}, "warning", "newer"),
        ((2, 0, 0), "system", {}, "warning", "newer"),
    ],
)
def test_releases_of_ucx(
    release: tuple[int, int, int] | None, origin: str | None, packages: dict[str, str], status: str, told: str
) -> None:
    judged, summary, remedy = ucx.judge_ucx(release, "/f", origin, packages)
    assert judged == status
    assert told in summary
    assert bool(remedy) == (status != "ok")


def test_the_supported_range_is_the_one_that_is_enforced() -> None:
    assert (ucx.MINIMUM, ucx.BROKEN) == (_native.MINIMUM_UCX, _native.BROKEN_UCX)
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    below = ".".join(map(str, ucx.UNTESTED))
    assert f'"libucx-cu13>=1.19,!=1.20.*,<{below}"' in project


def test_transports_as_ucx_info_prints_them() -> None:
    text = "# Memory domain: tcp\n#     Component: tcp\n#\n#      Transport: tcp\n#         Device: eth0\n"
    text += "#           Type: network\n#  System device: <unknown>\n#\n#      Transport: tcp\n#         Device: lo\n"
    assert ucx.parse_transports(text) == [
        {"transport": "tcp", "device": "eth0"},
        {"transport": "tcp", "device": "lo"},
    ]


ACTIVE = rdma.Port("mlx5_0", "1", "4: ACTIVE", "InfiniBand", "400 Gb/sec (4X NDR)")
DOWN = rdma.Port("mlx5_1", "1", "1: DOWN", "Ethernet", "40 Gb/sec")
VERBS = "/dev/infiniband/uverbs0"


@pytest.mark.parametrize(
    ("ports", "files", "module", "status", "told"),
    [
        ([], {}, "", "ok", "no RDMA device"),
        ([DOWN], {VERBS: True}, "m", "warning", "no port is active"),
        ([ACTIVE], {}, "m", "warning", "uverbs"),
        ([ACTIVE], {VERBS: False}, "m", "warning", "permission"),
        ([ACTIVE], {VERBS: True}, "", "warning", "without RDMA"),
        ([DOWN, ACTIVE], {VERBS: True}, "m", "ok", "yes: mlx5_1:1"),
    ],
)
def test_rdma(ports: list[rdma.Port], files: dict[str, bool], module: str, status: str, told: str) -> None:
    judged, summary, remedy = rdma.judge(ports, files, module)
    assert judged == status
    assert told in summary
    assert bool(remedy) == (status != "ok")


def test_rdma_ports_from_sysfs(tmp_path: Path) -> None:
    folder = tmp_path / "mlx5_0/ports/1"
    folder.mkdir(parents=True)
    for name, value in {"state": ACTIVE.state, "link_layer": ACTIVE.link_layer, "rate": ACTIVE.rate}.items():
        (folder / name).write_text(value + "\n")
    assert rdma.ports(tmp_path) == [ACTIVE]
    assert ACTIVE.active
    assert not DOWN.active
    assert rdma.ports(tmp_path / "none") == []


def test_rules_from_the_kernel() -> None:
    rules = process_read.rules("Name:\tx\nCapEff:\t0000000000080000\nSeccomp:\t2\n", "1")
    assert rules == process_read.Rules(1, seccomp=True, capable=True)
    assert process_read.rules("CapEff:\t0000000000000000\nSeccomp:\t0\n", "") == process_read.Rules(None, False, False)


@pytest.mark.parametrize(
    ("own", "other", "rules", "told", "remedy"),
    [
        (errno.EPERM, errno.EPERM, (None, True, False), "seccomp filter", "SYS_PTRACE"),
        (errno.ENOSYS, errno.ENOSYS, (None, True, False), "seccomp filter", "SYS_PTRACE"),
        (errno.ENOSYS, errno.ENOSYS, (None, False, False), "does not have it", "CONFIG_CROSS_MEMORY_ATTACH"),
        (0, errno.EPERM, (1, False, False), "ptrace_scope is 1", "sysctl -w kernel.yama.ptrace_scope=0"),
        (0, errno.EPERM, (3, False, False), "ptrace_scope is 3", "reboot"),
        (0, errno.EPERM, (0, False, False), "no Yama setting", "same user"),
        (0, errno.EPERM, (2, False, True), "no Yama setting", "same user"),
        (0, 0, (0, False, False), "wrong bytes", "same user"),
    ],
)
def test_why_reading_is_refused(
    own: int, other: int, rules: tuple[int | None, bool, bool], told: str, remedy: str
) -> None:
    status, summary, way_out = process_read.judge(own, other, False, process_read.Rules(*rules))
    assert status == "warning"
    assert told in summary
    assert remedy in way_out
    assert process_read.judge(0, 0, True, process_read.Rules(*rules))[0] == "ok"


def card(**more: object) -> dict[str, Any]:
    return {"library": True, "error": "", "code": 0, "devices": [], "peer_access": [], "nvlink": [], **more}


TWO: list[dict[str, object]] = [{"name": "GPU A", "bytes": 80 << 30}, {"name": "GPU B", "bytes": 24 << 30}]


@pytest.mark.parametrize(
    ("told", "hardware", "status", "summary"),
    [
        (card(library=False, error="no file"), False, "ok", "none"),
        (card(library=False, error="no file"), True, "warning", "cannot be loaded: no file"),
        (card(code=100), False, "ok", "none"),
        (card(code=100), True, "warning", "no device"),
        (card(code=803, error="CUDA_ERROR_X"), False, "warning", "CUDA_ERROR_X"),
        (card(devices=TWO[:1], peer_access=[[True]]), True, "ok", "0: GPU A 80 GiB"),
        (card(devices=TWO, peer_access=[[True, True], [True, True]]), True, "ok", "between all"),
        (card(devices=TWO, peer_access=[[True, False], [True, True]]), True, "ok", "between all but 0-1"),
        (
            card(devices=TWO, peer_access=[[True, True], [True, True]], nvlink=[[False, True], [True, False]]),
            True,
            "ok",
            "1: GPU B 24 GiB; NVLink between 0-1; peer access between all",
        ),
    ],
)
def test_gpus(told: dict[str, Any], hardware: bool, status: str, summary: str) -> None:
    judged, text, remedy = gpu.judge(told, hardware)
    assert judged == status
    assert text.endswith(summary)
    assert bool(remedy) == (status != "ok")


@pytest.mark.parametrize(
    ("traces", "kind"),
    [
        ({}, ""),
        ({"files": {"/.dockerenv"}}, "docker"),
        ({"files": {"/run/.containerenv"}}, "podman"),
        ({"files": {"/.dockerenv"}, "kubernetes": True}, "kubernetes"),
        ({"cgroup": "0::/kubepods.slice/pod1"}, "kubernetes"),
        ({"variable": "lxc"}, "lxc"),
    ],
)
def test_containers_by_their_traces(traces: dict[str, Any], kind: str) -> None:
    assert container.detect(**{"files": set(), "kubernetes": False, "cgroup": "", "variable": "", **traces}) == kind


def test_limits_of_control_groups(tmp_path: Path) -> None:
    for path, text in {
        "a/b/memory.max": "max",
        "a/memory.max": str(2 << 30),
        "a/b/cpu.max": "150000 100000",
        "memory/docker/x/memory.limit_in_bytes": str(1 << 30),
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "cpu/docker/x/cpu.cfs_quota_us": "-1",
        "cpu/docker/x/cpu.cfs_period_us": "100000",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert container.limits("0::/a/b", tmp_path) == (2 << 30, 1.5)
    assert container.limits("5:memory:/docker/x\n4:cpu,cpuacct:/docker/x", tmp_path) == (1 << 30, None)
    assert container.limits("0::/", tmp_path / "none") == (None, None)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("::", False)],
)
def test_who_can_reach_an_engine(address: str, loopback: bool) -> None:
    judged = engines.judge_engine({"listening": [{"address": address, "port": 1}]}, "lo")
    assert judged.status == ("ok" if loopback else "warning")
    assert loopback or "give engines keys" in judged.summary


def lane(works: bool) -> dict[str, object]:
    return {"works": works, "why": "" if works else "refused"}


def test_lanes() -> None:
    both = engines.judge_lanes({"cma": lane(True), "message": lane(True)}, ("cma", "message"))
    assert (both.status, both.facts["working"]) == ("ok", ["cma", "message"])
    one = engines.judge_lanes({"cma": lane(False), "message": lane(True)}, ("cma", "message"))
    assert (one.status, one.facts["working"]) == ("warning", ["message"])
    assert "cma: refused" in one.summary
    none = engines.judge_lanes({"cma": lane(False), "message": lane(False)}, ("cma", "message"))
    assert (none.status, none.facts["working"]) == ("problem", [])
    absent = set(engines.ALL_LANES) - set(kt.config.KNOWN_LANES)
    assert all(f" {name}" in both.summary.partition("not in this version")[2] for name in absent)


def test_a_report_is_usable_without_problems() -> None:
    fine, slow = Check("a", "ok", "fine"), Check("b", "warning", "slow", "speed it up")
    broken = Check("c", "problem", "broken", "mend it")
    assert Report((fine, slow)).usable
    assert Report((fine, slow)).verdict == "usable; warnings: b"
    report = Report((fine, slow, broken))
    assert not report.usable
    assert report.verdict == "not usable: problems: c; warnings: b"
    assert report.as_text().splitlines()[-1] == report.verdict
    assert "-> mend it" in report.as_text()
    assert json.loads(json.dumps(report.as_json()))["checks"][2]["remedy"] == "mend it"


@pytest.mark.parametrize(("status", "remedy"), [("ok", "do"), ("warning", ""), ("problem", "")])
def test_complaints_come_with_a_remedy(status: Any, remedy: str) -> None:  # noqa: ANN401  (also wrong ones)
    with pytest.raises(ValueError, match="check x"):
        Check("x", status, "s", remedy)


def test_a_check_that_fails_is_a_warning() -> None:
    def broken() -> Check:
        raise OSError("the disk is gone")

    [check] = doctor.guarded("x", broken)
    assert (check.name, check.status) == ("x", "warning")
    assert "the disk is gone" in check.summary


def test_programs_that_give_no_answer() -> None:
    with pytest.raises(programs.ProgramError, match="status 3 and no answer: last words"):
        programs.answer(3, "not JSON", "first\nlast words\n")
    with pytest.raises(programs.ProgramError, match="killed by SIGSEGV"):
        programs.answer(-signal.SIGSEGV, "", "")
    with pytest.raises(programs.ProgramError, match="could not be started"):
        programs.run(["/no/such/program"])


def test_a_program_that_hangs_or_crashes_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_HERE", tmp_path)
    monkeypatch.setattr(programs, "DEADLINE", 1.0)
    monkeypatch.setattr(programs, "_GRACE", 1.0)
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    (tmp_path / "crashes.py").write_text("import os; os.abort()")
    for ask in (programs.ask, lambda name: programs.answering(name).__enter__()):
        with pytest.raises(programs.ProgramError, match="within 1 s"):
            ask("hangs")
    monkeypatch.setattr(programs, "DEADLINE", 60.0)
    monkeypatch.setattr(programs, "_GRACE", 30.0)
    for ask in (programs.ask, lambda name: programs.answering(name).__enter__()):
        with pytest.raises(programs.ProgramError, match="killed by SIGABRT"):
            ask("crashes")


def test_a_check_of_vllm_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where no file can be opened any more."""

    def out_of_files(name: str) -> str:
        raise OSError(24, "Too many open files", name)

    monkeypatch.setattr("kvdirect.cli.doctor.version", out_of_files)
    assert main(["doctor", "--json"]) == 0
    [check] = [check for check in json.loads(capsys.readouterr().out)["checks"] if check["name"] == "vllm"]
    assert check["status"] == "warning"
    assert "could not be examined: OSError" in check["summary"]
