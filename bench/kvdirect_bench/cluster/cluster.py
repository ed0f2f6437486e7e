# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A whole simulation: a cluster, its requests, and what came of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simpy

from kvdirect_bench.errors import BenchError, BenchUsageError

from .dispatch import WAYS, Dispatch, Instance
from .elastic import Controller
from .engine import Engine
from .network import Link, Network
from .scheduler import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .elastic import Change, Elastic
    from .engine import Model
    from .jobs import Request

# What a step holds unless a cluster says otherwise.
STEP = Limits(8192)
# Simulated seconds that a cluster has after the last arrival.
_DEADLINE = 100_000.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What serves.

    Attributes:
        model: Of every engine.
        way: One of `WAYS`.
        prefill: Instances of that role; of all, where `way` is colocated.
        decode: Instances of that role; none, where `way` is colocated.
        prompts: What a step of an instance that prefills, or does both, may hold.
        tokens: What a step of one that decodes may hold.
        link: Bytes a second of an instance's network, each direction.
        setup: Seconds before a transfer's first byte.
        hop: Seconds of each way from the router to an engine.
        elastic: Roles change by this; None: they stay.
    """

    model: Model
    way: str
    prefill: int
    decode: int = 0
    prompts: Limits = STEP
    tokens: Limits = STEP
    link: float = 180e9
    setup: float = 0.002
    hop: float = 0.002
    elastic: Elastic | None = None

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise BenchUsageError(f"way {self.way}: expected one of {', '.join(WAYS)}")
        if self.prefill < 1 or (self.decode < 1) is not (self.way == "colocated"):
            raise BenchUsageError(
                f"{self.prefill} instances for prefill and {self.decode} for decode, {self.way}: expected at least "
                "one of each, and colocated none for decode"
            )
        if self.elastic is not None and self.elastic.decode_requests and self.way != "pull":
            raise BenchUsageError(
                f"decode_requests by way {self.way}: expected pull, where a request that waits for its prefill has no "
                "decode instance yet"
            )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it.

    Attributes:
        requests: With their times.
        instances: As they were at the end.
        seconds: From the beginning to the end of the last request.
        changes: Of roles.
    """

    requests: Sequence[Request]
    instances: Sequence[Instance]
    seconds: float
    changes: Sequence[Change]


def simulate(cluster: Cluster, requests: Sequence[Request], clients: int = 0) -> Result:
    """Serve all requests.

    Args:
        cluster: What serves.
        requests: In order of arrival.
        clients: 0: each request comes at its time; otherwise so many clients take them in turn, and each sends its next
            one when its last has ended.

    Raises:
        BenchUsageError: One of them can never run there.
        BenchError: Some never end.
    """
    env = simpy.Environment()
    instances = [_instance(env, cluster, number) for number in range(cluster.prefill + cluster.decode)]
    network = Network(env, cluster.setup)
    dispatch = Dispatch(env, instances, network, cluster.model.kv_bytes, cluster.hop)
    if clients:
        queue = deque(requests)
        for _ in range(clients):
            env.process(dispatch.serve_in_turn(queue, cluster.way))
    else:
        env.process(dispatch.serve(requests, cluster.way))
    controller = None if cluster.elastic is None else Controller(env, dispatch, cluster.elastic)
    deadline = (requests[-1].arrival if requests else 0.0) + _DEADLINE
    while dispatch.done < len(requests) and env.peek() < deadline:
        env.step()
    if dispatch.done < len(requests):
        raise BenchError(
            f"{len(requests) - dispatch.done} of {len(requests)} requests never end: blocks are held on both sides and "
            "nobody can go on; give the engines more memory or fewer requests"
        )
    return Result(requests, instances, env.now, controller.changes if controller else ())


def _instance(env: simpy.Environment, cluster: Cluster, number: int) -> Instance:
    role = "both" if cluster.way == "colocated" else "prefill" if number < cluster.prefill else "decode"
    limits = cluster.tokens if role == "decode" else cluster.prompts
    return Instance(
        Engine(env, f"{role} {number}", cluster.model, limits), Link(cluster.link), Link(cluster.link), role
    )
