# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What vLLM's pause in mode "keep" does with caches that are kept for readers: it leaves them as they are.

vLLM counts finished requests whose blocks stay as work, and its pause waits until there is none: until readers have
come for them, or their leases end. It has no hook for a connector that only keeps, so two methods of the scheduler and
of its cache manager are wrapped, which only answer otherwise in that state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    from .owner import SchedulerOwner

_WRAPPED = "_kvdirect_wrapped"
_owners: WeakSet[SchedulerOwner] = WeakSet()


def keep_in_pauses(owner: SchedulerOwner, manager: KVCacheManager) -> None:
    """Let pauses begin while this owner keeps caches in these blocks. Older vLLM, which has no such state, stays."""
    from vllm.v1.core.sched import interface  # noqa: PLC0415  (what it has depends on the version)
    from vllm.v1.core.sched.scheduler import Scheduler  # noqa: PLC0415

    frozen = getattr(getattr(interface, "PauseState", None), "PAUSED_ALL", None)
    if frozen is None or not hasattr(manager, "evict_blocks"):
        return
    _owners.add(owner)
    _wrap_scheduler(Scheduler, frozen)
    _wrap_manager(owner, manager)


def _wrap_scheduler(scheduler: Any, frozen: object) -> None:
    finished, set_state = scheduler.has_finished_requests, scheduler.set_pause_state
    if getattr(finished, _WRAPPED, False):
        return

    def has_finished_requests(self: Any) -> bool:
        if self.pause_state is not frozen or self.finished_req_ids:
            return bool(finished(self))
        running, waiting = self.get_request_counts()
        return bool(finished(self)) and len(self.requests) - running - waiting > sum(
            owner.kept for owner in _owners if owner.cache_manager is self.kv_cache_manager
        )

    def set_pause_state(self: Any, state: object) -> None:
        set_state(self, state)
        for owner in _owners:
            if owner.cache_manager is self.kv_cache_manager:
                owner.frozen = state is frozen

    setattr(has_finished_requests, _WRAPPED, True)
    scheduler.has_finished_requests, scheduler.set_pause_state = has_finished_requests, set_pause_state


def _wrap_manager(owner: SchedulerOwner, manager: Any) -> None:
    """A pause clears vLLM's prefix cache first, and vLLM takes blocks that are in use then for a mistake."""
    reset = manager.reset_prefix_cache

    def reset_prefix_cache() -> bool:
        pool = manager.block_pool
        used = pool.num_gpu_blocks - pool.get_num_free_blocks() - 1  # without the null block
        if not (owner.frozen and used and used == len(owner.kept_blocks())):
            return bool(reset())
        manager.evict_blocks(set(range(pool.num_gpu_blocks)))
        owner.revoke_all()  # vLLM need not have its connector told, and nobody may take them for what comes next
        return True

    manager.reset_prefix_cache = reset_prefix_cache
