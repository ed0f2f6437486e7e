# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Program: pull the owner's block over each lane, and say which lanes brought the right bytes.

Argument: the network device. Stdin: what the owner answered. Answers one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

import kvtransfer as kt
from kvtransfer.config import KNOWN_LANES
from kvtransfer.doctor.owner import LEASED, SHAPE, answer_stream, content, publish, tell

TIMEOUT = 15.0  # seconds, for connecting and again for pulling
_MINE = 2


def try_lane(listen: str, lane: str, owner: dict[str, Any]) -> dict[str, Any]:
    """One real pull over one lane."""
    cache = np.zeros(SHAPE, dtype=np.uint8)
    lease = kt.LeaseRef(owner["slot"], owner["epoch"])
    try:
        with kt.Engine(kt.EngineConfig(listen=listen, lanes=(lane,)), name="doctor-reader") as engine:
            publish(engine, cache)
            peer = engine.connect(bytes.fromhex(owner["descriptor"]), require_lane=lane, timeout=TIMEOUT)
            peer.pull(lease, [[LEASED]], [[_MINE]], stop=SHAPE[1], timeout=TIMEOUT).wait(2 * TIMEOUT)
    except kt.KVTransferError as error:
        return {"works": False, "why": owner["problems"].get(lane) or str(error)}
    right = np.array_equal(cache[_MINE], content()[LEASED])
    return {"works": right, "why": "" if right else "the bytes that arrived are not those that were sent"}


def main() -> None:
    """Try every lane of this version that carries host memory."""
    answers = answer_stream()
    owner = json.load(sys.stdin)
    tell(answers, {lane: try_lane(sys.argv[1], lane, owner) for lane in KNOWN_LANES if lane != "cuda_ipc"})


if __name__ == "__main__":
    main()
