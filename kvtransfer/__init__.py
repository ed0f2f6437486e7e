# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Move tensors between processes and hosts by pull: leased blocks are read straight into place.

An engine registers memory and publishes a map of it. Another engine connects, asks for blocks under a lease, and is
told whether what it got is valid. Importing this package loads UCX and the native core and starts nothing.
"""

from __future__ import annotations

import logging as _logging

from ._native import core as _core
from ._native import ucx_file as ucx_file
from ._native import ucx_version as ucx_version
from .admission import descriptor_for as descriptor_for
from .config import EngineConfig as EngineConfig
from .engine import Engine as Engine
from .errors import ClosedError as ClosedError
from .errors import CodecError as CodecError
from .errors import ConfigError as ConfigError
from .errors import ConnectError as ConnectError
from .errors import DigestMismatch as DigestMismatch
from .errors import InvalidState as InvalidState
from .errors import KVTransferError as KVTransferError
from .errors import LaneError as LaneError
from .errors import LeaseExpired as LeaseExpired
from .errors import MismatchError as MismatchError
from .errors import PeerLost as PeerLost
from .errors import PlanError as PlanError
from .errors import PullCancelled as PullCancelled
from .errors import PullError as PullError
from .errors import PullTimeout as PullTimeout
from .errors import TransportError as TransportError
from .errors import WaitTimeout as WaitTimeout
from .memory import empty as empty
from .notes import Note as Note
from .parts import Part as Part
from .parts import gather as gather
from .peer import Peer as Peer
from .pull import Pull as Pull
from .pull import PullResult as PullResult
from .sharded_peer import ShardedPeer as ShardedPeer

Axis = _core.Axis
Component = _core.Component
LeaseEnd = _core.LeaseEnd
LeaseRef = _core.LeaseRef
LeaseTable = _core.LeaseTable
MemoryKind = _core.MemoryKind
Plan = _core.Plan
TensorMap = _core.TensorMap
block_extents = _core.block_extents

__version__ = "0.1.0"
# Engines talk to each other only when this is equal on both sides.
PROTOCOL_VERSION: int = _core.PROTOCOL_VERSION
# Whether this build can register and move the memory of NVIDIA GPUs.
CUDA_BUILD = _core.CUDA_BUILD

__all__ = [
    "CUDA_BUILD",
    "PROTOCOL_VERSION",
    "Axis",
    "ClosedError",
    "CodecError",
    "Component",
    "ConfigError",
    "ConnectError",
    "DigestMismatch",
    "Engine",
    "EngineConfig",
    "InvalidState",
    "KVTransferError",
    "LaneError",
    "LeaseEnd",
    "LeaseExpired",
    "LeaseRef",
    "LeaseTable",
    "MemoryKind",
    "MismatchError",
    "Note",
    "Part",
    "Peer",
    "PeerLost",
    "Plan",
    "PlanError",
    "Pull",
    "PullCancelled",
    "PullError",
    "PullResult",
    "PullTimeout",
    "ShardedPeer",
    "TensorMap",
    "TransportError",
    "WaitTimeout",
    "__version__",
    "block_extents",
    "descriptor_for",
    "empty",
    "gather",
    "ucx_file",
    "ucx_version",
]

_logging.getLogger("kvtransfer").addHandler(_logging.NullHandler())
