# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A process that keeps one half of the rows, for all contenders; ends when its standard input does."""

from __future__ import annotations

import json
import sys

from kvtransfer.rows import RowStore

from .served import grpc_address, is_here, join, kept, serve_grpc, torch_is_here
from .workload import Workload


def main() -> None:
    """Arguments: the workload, which store, and the folder in which contenders meet it."""
    workload, number, folder = Workload(**json.loads(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
    ids = workload.ids_of(number)
    kept.append(workload.features(ids))
    with RowStore({"features": kept[0]}, ids=ids, name=f"store {number}") as store:
        server = serve_grpc(grpc_address(folder, number)) if is_here("grpc") else None
        print(store.offer().to_bytes().hex(), flush=True)
        if torch_is_here():
            join(f"{folder}/rpc", f"store{number}", 1 + number)
        sys.stdin.read()
        del server


if __name__ == "__main__":
    main()
