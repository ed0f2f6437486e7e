# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the scheduler half lends of prefills, inside vLLM's real scheduler; and how it starts."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import INCARNATION, Played, prompt_tokens
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import RequestStatus

from kvdirect.connector import KVDirectConnector
from kvdirect.handshake.client import ask
from kvdirect.handshake.messages import Hello
from kvdirect.transfer_params import RemoteLease, parse_remote_prefill, prompt_digest
from kvtransfer.errors import ConfigError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DECODE = {"do_remote_decode": True, "do_remote_prefill": False}


def test_a_prefill_is_leased_from_its_first_step_to_the_report_of_its_end(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    request = owner.add(100, dict(DECODE))
    output, first = owner.schedule()
    (grant,) = first.grants
    assert [len(table) for table in grant.tables] == [2]
    assert grant.watermark == 64
    assert owner.answer(output) == {}

    output, second = owner.schedule()
    (more,) = second.grants
    assert more.lease == grant.lease
    assert [len(table) for table in more.tables] == [2]
    assert more.watermark == 100
    params = owner.answer(output)[request.request_id]
    assert params is not None
    token = RemoteLease.decode(params["kvdirect_lease"])
    assert (token.incarnation, (token.slot, token.epoch), token.ranks) == (INCARNATION, grant.lease, 1)
    assert params["remote_block_ids"] == [grant.tables[0] + more.tables[0]]
    assert params["remote_num_tokens"] == 100
    assert params["do_remote_prefill"] is True
    assert params["do_remote_decode"] is False
    assert parse_remote_prefill(params).num_tokens == 100
    assert parse_remote_prefill(params).prompt == prompt_digest(prompt_tokens(100), token.epoch)
    assert not owner.all_blocks_are_free

    output, third = owner.schedule()
    assert third.finished == [(request.request_id, grant.lease)]
    assert third.grants == []
    assert third.revokes == []
    owner.answer(output, sent={request.request_id}, ended=[grant.lease])
    assert owner.all_blocks_are_free
    assert owner.schedule()[1].finished == []


def test_an_abort_revokes_and_frees_at_once(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    request = owner.add(200, dict(DECODE))
    output, metadata = owner.schedule()
    (grant,) = metadata.grants
    owner.answer(output)
    owner.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    assert owner.all_blocks_are_free
    output, metadata = owner.schedule()
    assert metadata.revokes == [grant.lease]
    assert metadata.finished == []
    owner.answer(output, ended=[grant.lease])


def test_preemption_gives_a_new_epoch(play: Callable[..., Played]) -> None:
    """What vLLM frees without asking was under an epoch that nobody outside has seen."""
    owner = play("kv_producer")
    request = owner.add(100, dict(DECODE))
    output, metadata = owner.schedule()
    (old,) = metadata.grants
    owner.answer(output)
    owner.scheduler.reset_prefix_cache(reset_running_requests=True)
    output, metadata = owner.schedule()
    assert metadata.revokes == [old.lease]
    (new,) = metadata.grants
    assert new.lease[1] != old.lease[1]
    assert new.lease[0] != old.lease[0], "the old slot is taken until the worker reports its end"
    assert [len(table) for table in new.tables] == [2]
    owner.answer(output, ended=[old.lease])
    output, metadata = owner.schedule()
    params = owner.answer(output)[request.request_id]
    assert params is not None
    assert RemoteLease.decode(params["kvdirect_lease"]).epoch == new.lease[1]


def test_a_full_table_serves_without_a_lease_and_slots_come_back(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", lease_slots=1)
    first, second = owner.add(20, dict(DECODE)), owner.add(20, dict(DECODE), start=9)
    output, metadata = owner.schedule()
    (grant,) = metadata.grants
    finished = owner.answer(output)
    assert finished[first.request_id] is not None
    assert finished[second.request_id] is None
    assert owner.scheduler.connector.get_kv_connector_stats() is None, "the scheduler took what was counted"
    output, _ = owner.schedule()
    owner.answer(output, sent={first.request_id}, ended=[grant.lease])
    third = owner.add(20, dict(DECODE), start=20)
    output, metadata = owner.schedule()
    (again,) = metadata.grants
    assert again.lease[0] == grant.lease[0]
    assert again.lease[1] != grant.lease[1]
    assert owner.answer(output)[third.request_id] is not None


def test_a_cache_reset_revokes_what_was_handed_out(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    owner.add(20, dict(DECODE))
    output, metadata = owner.schedule()
    (grant,) = metadata.grants
    owner.answer(output)
    owner.schedule()
    owner.scheduler.reset_prefix_cache(reset_connector=True)
    assert owner.schedule()[1].revokes == [grant.lease]


def test_only_the_prompt_is_lent_not_what_the_owner_made_of_it(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    request = owner.add(50, dict(DECODE), max_tokens=4)
    params = None
    while params is None:
        output, _ = owner.schedule()
        params = owner.answer(output).get(request.request_id)
    assert request.num_computed_tokens == 53
    assert params["remote_num_tokens"] == 50
    epoch = RemoteLease.decode(params["kvdirect_lease"]).epoch
    assert params["kvdirect_prompt"] == prompt_digest(prompt_tokens(50), epoch)


def test_aborts_in_every_state_of_a_prefill_give_their_slots_back(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", lease_slots=1)
    for steps in (0, 1, 2):  # never scheduled, in the middle of its prompt, about to take its last part
        request = owner.add(150, dict(DECODE), start=steps)
        for _ in range(steps):
            owner.answer(owner.schedule()[0])
        owner.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
        assert owner.all_blocks_are_free
        output, metadata = owner.schedule()
        assert len(metadata.revokes) == (1 if steps else 0)
        owner.answer(output, ended=metadata.revokes)
    request = owner.add(20, dict(DECODE))
    output, _ = owner.schedule()
    assert owner.answer(output)[request.request_id] is not None


def make_connector(model: Path, **change: Any) -> KVDirectConnector:  # noqa: ANN401
    transfer = KVTransferConfig(kv_connector="kvdirect", kv_role="kv_both", kv_port=0, **change.pop("transfer", {}))
    config = EngineArgs(model=str(model), kv_transfer_config=transfer).create_engine_config()
    for field, value in change.items():
        setattr(config.parallel_config, field, value)
    return KVDirectConnector(config, KVConnectorRole.SCHEDULER, KVCacheConfig(1, [], []))


@pytest.mark.parametrize("parallel", ["decode_context_parallel_size", "prefill_context_parallel_size"])
def test_other_parallel_sizes_are_refused_by_name(model: Path, parallel: str) -> None:
    with pytest.raises(ConfigError, match=f"{parallel}=2"):
        make_connector(model, **{parallel: 2})


def test_a_bad_setting_ends_the_start_by_name(model: Path) -> None:
    with pytest.raises(ConfigError, match="kv_connector_extra_config: pull_timeuot=3: no such key"):
        make_connector(model, transfer={"kv_connector_extra_config": {"pull_timeuot": 3}})


def test_two_engines_never_share_a_port_silently(play: Callable[..., Played], model: Path) -> None:
    first = play("kv_producer")
    request = first.add(20, dict(DECODE))
    port = first.answer(first.schedule()[0])[request.request_id]["remote_port"]  # type: ignore[index]
    transfer = KVTransferConfig(kv_connector="kvdirect", kv_role="kv_both", kv_port=port)
    config = EngineArgs(model=str(model), kv_transfer_config=transfer).create_engine_config()
    with pytest.raises(ConfigError, match=f"kv_port={port} .*taken.*kv_port=0"):
        KVDirectConnector(config, KVConnectorRole.SCHEDULER, KVCacheConfig(1, [], []))


def test_handshakes_are_counted_for_the_metrics(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    connector = owner.scheduler.connector
    request = owner.add(20, dict(DECODE))
    params = owner.answer(owner.schedule()[0])[request.request_id]
    assert params is not None
    host, port = params["remote_host"], params["remote_port"]
    assert ask(host, port, Hello("reader", (("model", "m"),)), timeout=10).engine_id == "self"
    for model in ("a", "b"):
        with pytest.raises(MismatchError):
            ask(host, port, Hello("reader", (("model", model),)), timeout=10)
    with socket.create_connection((host, port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    stats = connector.get_kv_connector_stats()
    assert stats.data["handshakes"] == {"welcomed": 1, "refused": 2, "not_ours": 1}
    assert stats.reduce()["Handshakes refused"] == 2
    again = connector.get_kv_connector_stats()
    assert again is None or not again.data["handshakes"]
