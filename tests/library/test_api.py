# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The Python face by itself: one process, no peers."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer.errors import from_native

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = {name: getattr(kt, name) for name in kt.__all__}


@pytest.fixture
def engine() -> Iterator[kt.Engine]:
    with kt.Engine(name="unit") as made:
        yield made


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    package = str(Path(kt.__file__).resolve().parent.parent)
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestConfig:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("listen", ""),
            ("listen", None),
            ("lanes", ()),
            ("lanes", "cma"),
            ("lanes", ("cma", "cma")),
            ("lanes", ("cma", "pigeon")),
            ("segment_bytes", 100),
            ("segment_bytes", 1 << 30),
            ("segment_bytes", 262144.0),
            ("segment_bytes", True),
            ("copy_threads", 0),
            ("copy_threads", 65),
            ("copy_threads", 2.0),
            ("copy_threads", True),
            ("rdma_devices", " "),
            ("rdma_devices", None),
            ("rdma_staging", 1),
            ("message_streams", 0),
            ("message_streams", 9),
            ("message_streams", "2"),
            ("lease_slots", 0),
            ("lease_slots", 65537),
            ("max_hold", 0),
            ("max_hold", float("nan")),
            ("max_hold", float("inf")),
            ("max_hold", "480"),
            ("admission", b"short"),
            ("admission", "a string is not bytes"),
        ],
    )
    def test_a_bad_field_is_named_with_its_value(self, field: str, value: object) -> None:
        with pytest.raises(kt.ConfigError, match=rf"{field}=.*expected") as caught:
            kt.EngineConfig(**{field: value})  # type: ignore[arg-type]
        if field != "admission":
            assert repr(value) in str(caught.value)

    def test_the_secret_is_not_shown(self) -> None:
        secret = b"a secret of many bytes"
        assert "secret" not in repr(kt.EngineConfig(admission=secret))
        with pytest.raises(kt.ConfigError) as caught:
            kt.EngineConfig(admission=b"tiny")
        assert "tiny" not in str(caught.value)

    def test_lists_of_lanes_become_tuples(self) -> None:
        config = kt.EngineConfig(lanes=["message"])  # type: ignore[arg-type]
        assert config.lanes == ("message",)
        assert hash(config) == hash(kt.EngineConfig(lanes=("message",)))

    def test_an_unknown_device_is_refused(self) -> None:
        with pytest.raises(kt.KVTransferError, match="nosuchdevice0"):
            kt.Engine(kt.EngineConfig(listen="nosuchdevice0"))


AXES = """(
    Axis("layer", 2, 4096),
    Axis("block", 8, 512),
    Axis("head", 2, 32, [(0, 1, 1), (4, 1, 1)]),
    Axis("element", 8, 4),
)"""
COMPONENT = f"""Component("k'\\"", {AXES}, dtype="float32", item_bytes=4, region=1, offset=128, table=2)"""
PACKED = (
    f"""Component("x", {AXES}, dtype="u4", item_bytes=1, elements_per_item=2, tokens_per_cell=4, replica_group=3)"""
)


def value_of(expression: str) -> object:
    return eval(expression, {}, dict(NAMES))  # noqa: S307  (that is what a repr promises)


class TestValues:
    @pytest.mark.parametrize(
        "expression",
        [
            "Axis('block', 8, 512)",
            "Axis('head', 2, 32, [(0, 1, 1), (4, 1, 1)])",
            COMPONENT,
            PACKED,
            f"TensorMap([{COMPONENT}, {PACKED}])",
            "LeaseRef(3, (1 << 64) - 1)",
            "LeaseEnd(LeaseRef(3, 9), 'max_hold')",
            "EngineConfig(lanes=('message',))",
        ],
    )
    def test_reprs_evaluate(self, expression: str) -> None:
        value = value_of(expression)
        again = value_of(repr(value))
        assert again == value
        assert hash(again) == hash(value)
        assert again is not value

    def test_values_differ(self) -> None:
        assert kt.LeaseRef(1, 2) != kt.LeaseRef(1, 3)
        assert kt.LeaseRef(1, 2) != kt.LeaseRef(2, 2)
        assert kt.LeaseRef(1, 2) != (1, 2)
        assert kt.Axis("a", 1, 2) != kt.Axis("a", 1, 3)
        assert kt.LeaseEnd(kt.LeaseRef(1, 2), "expired") != kt.LeaseEnd(kt.LeaseRef(1, 2), "revoked")
        with pytest.raises(ValueError, match="reason"):
            kt.LeaseEnd(kt.LeaseRef(1, 2), "boredom")
        with pytest.raises(AttributeError):
            kt.LeaseRef(1, 2).slot = 4  # type: ignore[misc]

    def test_maps_travel(self) -> None:
        tensor_map = value_of(f"TensorMap([{COMPONENT}, {PACKED}])")
        assert isinstance(tensor_map, kt.TensorMap)
        encoded = tensor_map.encode()
        assert kt.TensorMap.decode(encoded) == tensor_map
        for bad in (b"", encoded[:-1], encoded + b"\0", b"\xff" * len(encoded)):
            with pytest.raises(kt.CodecError):
                kt.TensorMap.decode(bad)


class TestErrors:
    def test_a_sentence_and_its_parts(self) -> None:
        error = kt.LaneError("no lane", operation="connect", peer="p", status="EPERM", hint="Do this")
        assert str(error) == "connect: no lane [peer p] [status: EPERM]. Do this"
        assert (error.operation, error.peer, error.status, error.hint) == ("connect", "p", "EPERM", "Do this")
        assert isinstance(error, kt.ConnectError)
        assert isinstance(error, kt.KVTransferError)

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("config", kt.ConfigError),
            ("plan", kt.PlanError),
            ("codec", kt.CodecError),
            ("connect", kt.ConnectError),
            ("mismatch", kt.MismatchError),
            ("lane", kt.LaneError),
            ("lease_expired", kt.LeaseExpired),
            ("timeout", kt.PullTimeout),
            ("cancelled", kt.PullCancelled),
            ("peer_lost", kt.PeerLost),
            ("transport", kt.TransportError),
            ("closed", kt.ClosedError),
            ("of the future", kt.KVTransferError),
        ],
    )
    def test_native_codes(self, code: str, kind: type[kt.KVTransferError]) -> None:
        error = from_native(code, "the whole sentence", "pull", "p", "s", "h")
        assert type(error) is kind
        assert str(error) == "the whole sentence"
        assert error.peer == "p"

    def test_native_errors_arrive_with_their_parts(self) -> None:
        with pytest.raises(kt.ConfigError, match="lease_slots=0") as caught:
            kt.LeaseTable(0)
        assert caught.value.operation == "create lease table"


class TestLeases:
    @pytest.fixture
    def owner(self, engine: kt.Engine) -> kt.Engine:
        tensor = np.zeros((8, 4), dtype=np.float32)
        engine.publish(kt.TensorMap([engine.register_tensor("x", tensor, ("block", "element"))]))
        return engine

    def test_life(self, owner: kt.Engine) -> None:
        lease = owner.grant([[1, 2]])
        assert owner.grant([[3]], lease=lease, watermark=3) == lease
        assert owner.live_leases == 1
        assert owner.renew(lease, 5.0)
        assert owner.revoke(lease)
        assert not owner.revoke(lease)
        assert owner.take_ended() == [kt.LeaseEnd(lease, "revoked")]
        assert owner.take_ended() == []
        for call in (
            lambda: owner.grant([[4]], lease=lease),
            lambda: owner.raise_watermark(lease, 4),
            lambda: owner.start_term(lease, 1.0),
        ):
            with pytest.raises(kt.LeaseExpired):
                call()

    def test_chosen_slots(self, owner: kt.Engine) -> None:
        chosen = kt.LeaseRef(7, 12345)
        assert owner.grant([[1]], lease=chosen) == chosen
        with pytest.raises(kt.ConfigError, match="in use by epoch 12345"):
            owner.grant([[1]], lease=kt.LeaseRef(7, 999))
        with pytest.raises(kt.ConfigError, match="65536 slots"):
            owner.grant([[1]], lease=kt.LeaseRef(70000, 1))

    def test_bad_blocks_name_the_offender(self, owner: kt.Engine) -> None:
        with pytest.raises(kt.PlanError, match=r"tables\[0\] names block 8; the map has 8 blocks"):
            owner.grant([[0, 8]])
        with pytest.raises(kt.PlanError, match=r"tables\[1\].*no such block table"):
            owner.grant([[0], [1]])
        with pytest.raises(kt.PlanError, match=r"tables\[0\] has dtype float64"):
            owner.grant([[0.5]])  # type: ignore[list-item]
        assert owner.live_leases == 0

    def test_a_full_table(self) -> None:
        with kt.Engine(kt.EngineConfig(lease_slots=2)) as engine:
            leases = [engine.reserve(), engine.reserve()]
            with pytest.raises(kt.ConfigError, match="all 2 lease slots"):
                engine.reserve()
            engine.revoke(leases[0])
            with pytest.raises(kt.ConfigError, match="take_ended"):
                engine.reserve()
            engine.take_ended()
            assert engine.reserve().slot == leases[0].slot

    def test_bad_terms(self, owner: kt.Engine) -> None:
        lease = owner.grant([[1]])
        with pytest.raises(kt.ConfigError, match="term="):
            owner.start_term(lease, -1.0)
        with pytest.raises(kt.ConfigError, match="term="):
            owner.start_term(lease, float("nan"))


class TestLife:
    def test_close_is_idempotent_and_final(self) -> None:
        engine = kt.Engine(name="short-lived")
        assert not engine.closed
        lease = engine.reserve()
        engine.close()
        engine.close()
        assert engine.closed
        assert engine.take_ended() == [kt.LeaseEnd(lease, "revoked")]
        for call in (engine.reserve, engine.descriptor, engine.counters, engine.revoke_all):
            with pytest.raises(kt.ClosedError, match="short-lived"):
                call()
        with pytest.raises(kt.ClosedError):
            engine.connect(b"")
        assert "closed" in repr(engine)

    def test_engines_differ(self) -> None:
        with kt.Engine() as first, kt.Engine() as second:
            assert first.incarnation != second.incarnation
            assert first.name == f"pid-{os.getpid()}"

    def test_garbage_descriptors(self, engine: kt.Engine) -> None:
        engine.publish(kt.TensorMap([engine.register_tensor("x", np.zeros((8, 4)), ("block", "element"))]))
        own = engine.descriptor()
        for bad in (
            b"",
            b"garbage",
            own[:50],
            own + b"!",
            bytes(len(own)),
            own[:60] + bytes([own[60] ^ 0xFF]) + own[61:],
        ):
            with pytest.raises(kt.CodecError):
                engine.connect(bad)

    def test_bad_connect_arguments(self, engine: kt.Engine) -> None:
        with pytest.raises(kt.ConfigError, match="lanes="):
            engine.connect(b"", lanes=("pigeon",))
        with pytest.raises(kt.ConfigError, match="require_lane="):
            engine.connect(b"", require_lane="pigeon")
        with pytest.raises(kt.ConfigError, match="timeout=0"):
            engine.connect(b"", timeout=0)

    def test_a_collected_engine_closes(self) -> None:
        engine = kt.Engine()
        native = engine._native
        del engine
        gc.collect()
        assert native.closed

    def test_a_closed_engine_needs_no_collector(self) -> None:
        """Its peers refer to it; sockets and shared memory would stay open until a collection that may be far."""

        def transfer() -> None:
            owner, reader = kt.Engine(), kt.Engine()
            for engine in (owner, reader):
                cache = kt.empty((8, 16), np.uint8)
                engine.publish(kt.TensorMap([engine.register_tensor("x", cache, ("block", "element"))]))
            peer = reader.connect(owner.descriptor())
            peer.pull(owner.grant([[1]], watermark=1), [[1]], [[2]], stop=1).wait(10)
            reader.close()
            owner.close()

        gc.collect()
        gc.disable()
        try:
            before = set(Path("/proc/self/fd").iterdir())
            transfer()
            assert set(Path("/proc/self/fd").iterdir()) == before
        finally:
            gc.enable()

    def test_an_open_engine_does_not_crash_the_interpreter(self) -> None:
        done = run_python(
            "import numpy, kvtransfer as kt\n"
            "engine = kt.Engine()\n"
            "engine.publish(kt.TensorMap([engine.register_tensor('x', numpy.zeros((8, 4)), ('block', 'element'))]))\n"
            "peer = None\n"
            "lease = engine.grant([[1]])\n"
            "print('end of script')\n"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "end of script\n", "")

    def test_a_forked_child_is_refused(self) -> None:
        done = run_python(
            "import os, sys, warnings, kvtransfer as kt\n"
            "warnings.simplefilter('ignore')\n"
            "engine = kt.Engine(name='parent')\n"
            "if os.fork() == 0:\n"
            "    calls = engine.reserve, engine.descriptor, engine.close, engine.take_ended, engine.counters\n"
            "    for call in calls:\n"
            "        try:\n"
            "            call()\n"
            "        except kt.ClosedError as error:\n"
            "            assert 'fork' in str(error)\n"
            "        else:\n"
            "            sys.exit(3)\n"
            "    sys.exit(7)\n"
            "status = os.waitstatus_to_exitcode(os.wait()[1])\n"
            "engine.reserve(); engine.close()\n"
            "print(status)\n"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")

    def test_importing_starts_nothing_and_needs_no_torch(self) -> None:
        done = run_python(
            "import os, sys\n"
            "import numpy\n"
            "before = len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd'))\n"
            "import kvtransfer\n"
            "assert not {'torch', 'asyncio'} & set(sys.modules)\n"
            "assert (len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd'))) == before\n"
            "import logging\n"
            "assert logging.getLogger('kvtransfer').handlers\n"
            "print(kvtransfer.ucx_version(), kvtransfer.ucx_file())\n"
        )
        assert done.returncode == 0, done.stderr
        version, file = done.stdout.split()
        assert tuple(map(int, version.split(".")))[:2] >= (1, 19)
        assert Path(file).exists()
