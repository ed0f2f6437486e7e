# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The scheduler half inside vLLM's real scheduler; only the worker's answers are played."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from kvdirect import plugin
from kvdirect.connector import KVDirectConnector
from kvdirect.demo_model import make_tiny_llama
from kvdirect.prompts import prompt_digest
from kvdirect.steps import EngineOffer, LeaseName, StepMetadata, WorkerReport
from kvdirect.wire import LeaseToken, parse_remote_prefill
from kvtransfer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vllm.v1.core.sched.output import SchedulerOutput

BLOCK = 32
INCARNATION = 0xABCDEF0123456789
DECODE = {"do_remote_decode": True, "do_remote_prefill": False}
_NUMBERS = itertools.count()


def prompt_tokens(tokens: int, start: int = 0) -> list[int]:
    return [start * 7 + i % 250 + 3 for i in range(tokens)]


class Played:
    """vLLM's scheduler with our connector in it, stepped by hand."""

    def __init__(self, model: Path, role: str, *, blocks: int = 33, **extra: Any) -> None:  # noqa: ANN401
        plugin.register()
        transfer = KVTransferConfig(
            kv_connector="kvdirect", kv_role=role, kv_port=0, engine_id="self", kv_connector_extra_config=extra
        )
        config = EngineArgs(
            model=str(model),
            dtype="float32",
            max_model_len=1024,
            max_num_batched_tokens=64,
            max_num_seqs=4,
            block_size=BLOCK,
            enforce_eager=True,
            kv_transfer_config=transfer,
            kv_cache_memory_bytes=1 << 24,
        ).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=64, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        manager = StructuredOutputManager(config)
        self.scheduler = Scheduler(config, cache, manager, block_size=BLOCK, hash_block_size=BLOCK, log_stats=True)
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        connector = self.scheduler.connector
        connector.set_xfer_handshake_metadata_pp_aware({(0, 0): EngineOffer(b"d", INCARNATION, (("model", "m"),))})
        self._free = self.free_blocks

    @property
    def free_blocks(self) -> int:
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def all_blocks_are_free(self) -> bool:
        return self.free_blocks == self._free

    def add(self, tokens: int, params: dict[str, Any] | None, *, max_tokens: int = 1, start: int = 0) -> Request:
        number = next(_NUMBERS)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, extra_args={"kv_transfer_params": params})
        request = Request(f"request-{number}", prompt_tokens(tokens, start), sampling, None, block_hasher=self._hasher)
        self.scheduler.add_request(request)
        return request

    def schedule(self) -> tuple[SchedulerOutput, StepMetadata]:
        output = self.scheduler.schedule()
        metadata = output.kv_connector_metadata
        assert isinstance(metadata, StepMetadata)
        return output, metadata

    def answer(
        self,
        output: SchedulerOutput,
        *,
        sent: set[str] | None = None,
        received: set[str] | None = None,
        failed: set[str] | None = None,
        ended: list[LeaseName] | None = None,
    ) -> dict[str, dict[str, Any] | None]:
        """The worker's output of this step; the transfer parameters of requests that finished with it."""
        ids = list(output.num_scheduled_tokens)
        sampled = []
        for request_id in ids:
            request = self.scheduler.requests[request_id]
            sampled.append([5] if request.num_computed_tokens >= request.num_tokens else [])
        kv = KVConnectorOutput(
            finished_sending=sent,
            finished_recving=received,
            failed_recving=failed or set(),
            kv_connector_worker_meta=WorkerReport(dict.fromkeys(ended, 1)) if ended else None,
        )
        runner = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
            kv_connector_output=kv,
        )
        outputs = self.scheduler.update_from_output(output, runner)
        return {
            item.request_id: item.kv_transfer_params
            for group in outputs.values()
            for item in group.outputs
            if item.finish_reason is not None
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "m", layers=1)


@pytest.fixture
def play(model: Path) -> Iterator[Callable[..., Played]]:
    running: list[Played] = []

    def start(role: str, **extra: Any) -> Played:  # noqa: ANN401
        running.append(Played(model, role, **extra))
        return running[-1]

    yield start
    for played in running:
        played.scheduler.connector.shutdown()


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
    token = LeaseToken.decode(params["kvdirect_lease"])
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
    assert LeaseToken.decode(params["kvdirect_lease"]).epoch == new.lease[1]


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


def elsewhere(tokens: int, start: int = 0, **change: Any) -> dict[str, Any]:  # noqa: ANN401
    """Parameters as another engine would return them."""
    lease = LeaseToken(INCARNATION, 7, 1 + next(_NUMBERS), 1)
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [list(range(1, 2 + tokens // BLOCK))],
        "remote_engine_id": "other",
        "remote_request_id": "r",
        "remote_host": "127.0.0.1",
        "remote_port": 5555,
        "tp_size": 1,
        "remote_num_tokens": tokens,
        "kvdirect_lease": lease.encode(),
        "kvdirect_prompt": prompt_digest(prompt_tokens(tokens, start), lease.epoch),
        **change,
    }


def test_a_pull_covers_all_but_the_last_token_in_whole_blocks(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100), max_tokens=2)
    output, metadata = reader.schedule()
    assert request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    (hold,) = metadata.holds
    (order,) = metadata.pulls
    assert hold.request_id == order.request_id == request.request_id
    assert hold.owner.incarnation == INCARNATION
    assert (order.start, order.stop, order.watermark) == (0, 128, 99)
    assert len(order.local[0]) == 4
    assert request.kv_transfer_params["do_remote_prefill"] is False
    reader.answer(output, received={request.request_id})
    output, metadata = reader.schedule()
    assert output.num_scheduled_tokens == {request.request_id: 1}
    assert metadata.pulls == metadata.holds == []


def test_local_hits_are_not_pulled_and_a_full_hit_only_completes(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    before = reader.add(97, elsewhere(97), max_tokens=1)
    output, metadata = reader.schedule()
    assert metadata.pulls[0].stop == 96
    reader.answer(output, received={before.request_id})
    output, _ = reader.schedule()
    reader.answer(output)
    longer = reader.add(140, elsewhere(140))
    full = reader.add(97, elsewhere(97))
    _, metadata = reader.schedule()
    (order,) = metadata.pulls
    assert order.request_id == longer.request_id
    assert (order.start, order.stop) == (96, 160)
    assert metadata.releases == [full.request_id]


def test_an_abort_while_waiting_is_cancelled_and_blocks_wait_for_the_worker(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    output, _ = reader.schedule()
    reader.answer(output)
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    assert not reader.all_blocks_are_free
    output, metadata = reader.schedule()
    assert metadata.cancels == [request.request_id]
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    assert reader.all_blocks_are_free


@pytest.mark.parametrize("role", ["kv_producer", "kv_consumer"])
@pytest.mark.parametrize("params", ["x", ["do_remote_prefill"], 5])
def test_parameters_that_are_no_object_are_dropped(play: Callable[..., Played], role: str, params: Any) -> None:  # noqa: ANN401
    played = play(role)
    request = played.add(40, params)
    output, metadata = played.schedule()
    assert request.kv_transfer_params is None
    assert output.num_scheduled_tokens[request.request_id] == 40
    assert metadata.grants == []
    assert metadata.holds == []


def test_an_abort_before_scheduling_completes_the_lease(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    _, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == metadata.releases == [request.request_id]
    assert metadata.pulls == []


def test_a_lease_is_spent_when_its_last_request_is_done(play: Callable[..., Played]) -> None:
    """One that comes before the worker was told to complete it still shares it."""
    reader = play("kv_consumer")
    params = elsewhere(100)
    twins = [reader.add(100, dict(params)), reader.add(100, dict(params))]
    output, metadata = reader.schedule()
    assert [order.request_id for order in metadata.pulls] == [twin.request_id for twin in twins]
    assert metadata.releases == []
    reader.answer(output, received={twin.request_id for twin in twins})
    third = reader.add(100, dict(params))
    output, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == [third.request_id]
    assert set(metadata.releases) == {twin.request_id for twin in twins}
    reader.answer(output)
    fourth = reader.add(100, dict(params))
    output, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == [fourth.request_id], "the third has not left"
    both = {third.request_id, fourth.request_id}
    reader.answer(output, received=both)
    assert set(reader.schedule()[1].releases) == both
    late = reader.add(100, dict(params))
    _, metadata = reader.schedule()
    assert metadata.holds == metadata.pulls == []
    assert late.status == RequestStatus.RUNNING


def test_the_engine_steps_until_the_worker_heard_of_a_release(play: Callable[..., Played]) -> None:
    """Else the lease of an aborted request would stay with its owner until this engine has other work."""
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    output, _ = reader.schedule()
    reader.answer(output)
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    output, _ = reader.schedule()
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    assert reader.all_blocks_are_free
    assert reader.scheduler.has_requests()
    output, metadata = reader.schedule()
    assert metadata.releases == [request.request_id]
    reader.answer(output)
    assert not reader.scheduler.has_requests()


@pytest.mark.parametrize(
    ("tokens", "start"), [(100, 1), (99, 0), (40, 0)], ids=["same length", "one token less", "much shorter"]
)
def test_another_prompt_is_computed_here_and_the_lease_completed(
    play: Callable[..., Played], tokens: int, start: int
) -> None:
    reader = play("kv_consumer")
    request = reader.add(tokens, elsewhere(100), start=start)
    _, metadata = reader.schedule()
    assert request.status == RequestStatus.RUNNING
    assert metadata.pulls == []
    assert [hold.request_id for hold in metadata.holds] == metadata.releases == [request.request_id]


def test_a_prompt_that_goes_on_is_pulled_as_far_as_it_was_prefilled(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    reader.add(150, elsewhere(100))
    (order,) = reader.schedule()[1].pulls
    assert (order.start, order.stop, order.watermark) == (0, 128, 100)


def test_a_list_of_prompts_under_one_ticket_pulls_the_first_only(play: Callable[..., Played]) -> None:
    """vLLM returns the parameters of a list's first prompt, and simple routers copy them to all."""
    reader = play("kv_consumer")
    params = elsewhere(100)
    first, second = reader.add(100, dict(params)), reader.add(100, dict(params), start=5)
    output, metadata = reader.schedule()
    assert [order.request_id for order in metadata.pulls] == [first.request_id]
    assert metadata.releases == [second.request_id]
    reader.answer(output, received={first.request_id})
    assert reader.schedule()[1].releases == [first.request_id]


def test_only_the_prompt_is_lent_not_what_the_owner_made_of_it(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    request = owner.add(50, dict(DECODE), max_tokens=4)
    params = None
    while params is None:
        output, _ = owner.schedule()
        params = owner.answer(output).get(request.request_id)
    assert request.num_computed_tokens == 53
    assert params["remote_num_tokens"] == 50
    epoch = LeaseToken.decode(params["kvdirect_lease"]).epoch
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


@pytest.mark.parametrize("parallel", ["pipeline_parallel_size", "prefill_context_parallel_size"])
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
