# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""DGL's KVStore, over its own sockets: servers with half of the rows each, and a client for which both are remote.

A client reads what its own machine's server has out of shared memory, and asks the others. So that it asks for all rows
there is one more server, called the client's machine, with a row that nobody wants; that row is id 0, and all others
come one later.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvdirect_bench.errors import BenchError

from .child import child
from .workload import STORES, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_MACHINES = 1 + STORES
_READY = "ready"


def _dgl() -> Any:  # noqa: ANN401  (it need not be there)
    """`dgl.distributed`, ready for barriers, which wait for roles.

    It is told which tensors are meant, as it would otherwise write that into the user's home.
    """
    os.environ |= {"DGLBACKEND": "pytorch", "DGL_DIST_MODE": "distributed"}
    import dgl.distributed  # noqa: PLC0415
    from dgl.distributed import role  # noqa: PLC0415

    dgl.distributed.rpc.register_service(role.REGISTER_ROLE, role.RegisterRoleRequest, role.RegisterRoleResponse)
    dgl.distributed.rpc.register_service(role.GET_ROLE, role.GetRoleRequest, role.GetRoleResponse)
    return dgl.distributed


def _book(workload: Workload, machine: int) -> Any:  # noqa: ANN401
    """Which machine has which ids."""
    from dgl.distributed.graph_partition_book import RangePartitionBook  # noqa: PLC0415

    ends = [1, *(1 + workload.ids_of(store).stop for store in range(STORES))]
    ranges = np.array(list(zip([0, *ends], ends, strict=False)), np.int64)
    edges = ("_N", "_E", "_N")
    return RangePartitionBook(machine, _MACHINES, {"_N": ranges}, {edges: ranges.copy()}, {"_N": 0}, {edges: 0})


def serve(workload: Workload, machine: int, config: str, name: str) -> None:
    """Serve until killed; machine 0 has the row that nobody wants."""
    distributed = _dgl()
    import torch  # noqa: PLC0415
    from dgl.distributed.graph_partition_book import NodePartitionPolicy  # noqa: PLC0415
    from dgl.distributed.kvstore import KVServer  # noqa: PLC0415
    from dgl.distributed.server_state import ServerState  # noqa: PLC0415

    book = _book(workload, machine)
    server = KVServer(machine, config, 1, 1)
    server.add_part_policy(NodePartitionPolicy(book))
    if machine == 0:
        server.init_data(name, "node~_N", torch.zeros(1, workload.width))
    else:
        # Not as above, for that is shared memory under this name, of which a host has one.
        server.init_data(name, "node~_N")
        server.data_store[name] = torch.from_numpy(workload.features(workload.ids_of(machine - 1)))
    print(_READY, flush=True)
    distributed.rpc_server.start_server(machine, config, 1, 1, ServerState(server, None, book))


@contextlib.contextmanager
def served(workload: Workload, folder: str) -> Iterator[tuple[str, str]]:
    """Servers of all rows: the file that says where they are, and the name of the rows."""
    config, name = f"{folder}/dgl", f"rows-{os.getpid()}"
    Path(config).write_text("".join(f"127.0.0.1 {port}\n" for port in _free_ports(_MACHINES)))
    with contextlib.ExitStack() as running:
        running.callback(_forget, name)
        servers = [
            running.enter_context(child("dgl_store", workload, str(machine), config, name, silent=True))
            for machine in range(_MACHINES)
        ]
        for machine, server in enumerate(servers):
            if not any(line.strip() == _READY for line in server.stdout or ()):
                raise BenchError(f"server {machine} of DGL's KVStore did not start")
        yield config, name


class KvStore:
    """A client of DGL's KVStore."""

    name = "dgl"

    def __init__(self, workload: Workload, config: str, name: str) -> None:
        """Connect to the servers."""
        distributed = _dgl()
        from dgl.distributed.kvstore import KVClient  # noqa: PLC0415

        with contextlib.redirect_stdout(sys.stderr):
            distributed.connect_to_server(config, 1)
            distributed.role.init_role("default")
        self._client = KVClient(config, 1)
        self._client.map_shared_data(_book(workload, 0))
        self._rows = name

    def gather(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Pull them: one request of each server."""
        import torch  # noqa: PLC0415

        rows: npt.NDArray[np.float32] = self._client.pull(self._rows, torch.from_numpy(ids + 1)).numpy()
        return rows


def _forget(name: str) -> None:
    """Machine 0's shared memory, which outlives a server that is killed."""
    Path(f"/dev/shm/{name}-kvdata-").unlink(missing_ok=True)  # noqa: S108  (what DGL calls it)


def _end_with_the_input(name: str) -> None:
    sys.stdin.read()
    _forget(name)
    os._exit(0)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_input, args=(sys.argv[4],), daemon=True).start()
    serve(Workload(**json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3], sys.argv[4])
