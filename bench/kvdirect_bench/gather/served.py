# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a store's process serves to contenders that ask it for rows: by torch's rpc, and by gRPC."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .workload import STORES

if TYPE_CHECKING:
    import numpy.typing as npt

GRPC_METHOD = "/rows/Take"
# Answers are as large as they are wanted.
GRPC_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

kept: list[npt.NDArray[np.float32]] = []


def rows_of(rows: Any) -> Any:  # noqa: ANN401  (torch need not be there)
    """The rows with these numbers, as a tensor."""
    import torch  # noqa: PLC0415

    return torch.from_numpy(kept[0]).index_select(0, rows)


def torch_is_here() -> bool:
    """Whether torch's rpc can take part, over loopback then."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("TP_SOCKET_IFNAME", "lo")
    try:
        from torch.distributed import rpc  # noqa: PLC0415
    except ImportError:
        return False
    return hasattr(rpc, "init_rpc")


def is_here(package: str) -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec(package) is not None


def grpc_address(folder: str, store: int) -> str:
    """A unix socket, which is faster than a port of loopback."""
    return f"unix:{folder}/grpc{store}"


def serve_grpc(address: str) -> Any:  # noqa: ANN401  (grpc need not be there)
    """A server of raw bytes, without protobuf: row numbers come, rows go. Runs while it is referred to."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    import grpc  # noqa: PLC0415

    def take(request: bytes, _context: object) -> bytes:
        return kept[0].take(np.frombuffer(request, np.int64), axis=0).tobytes()

    _, service, method = GRPC_METHOD.split("/")
    server = grpc.server(ThreadPoolExecutor(1), options=GRPC_OPTIONS)
    methods = {method: grpc.unary_unary_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    server.add_insecure_port(address)
    server.start()
    return server


def join(rendezvous: str, name: str, rank: int) -> None:
    """Join the group of torch's rpc."""
    from torch.distributed import rpc  # noqa: PLC0415

    options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{rendezvous}", rpc_timeout=60)
    rpc.init_rpc(name, rank=rank, world_size=1 + STORES, rpc_backend_options=options)
