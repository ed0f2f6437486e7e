# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Python imports this at its start in the benchmark's engines; two variables say what is changed.

KVDIRECT_BENCH_SLEEP: vLLM's processes wait for each other by sched_yield() in a loop, for up to a second after their
last message. Where engines outnumber cores, idle ones then keep busy ones from computing; here they sleep instead.

KVDIRECT_BENCH_NIXL_BEST: NixlConnector as vLLM ships it has an agent with a thread that polls all the time, and on CPUs
binds the thread that computes to one core, the same one for every engine of a host. Neither can be set. Where cores are
few, that is most of what a request waits for; without it, transfers are compared, and not these habits.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

# Whatever `nixl` stands for: the wheels are made for a CUDA each.
_MODULES = ("nixl_cu12._api", "nixl_cu13._api")


_NAP = 0.0002


def _sleep() -> None:
    """Instead of os.sched_yield."""
    time.sleep(_NAP)


def _stay(_pid: int, _cores: object) -> None:
    """Instead of os.sched_setaffinity."""


class _Quiet(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets NIXL's module be found as usual, and then turns the polling thread off by default."""

    def __init__(self) -> None:
        self._searched = False
        self._usual: importlib.abc.Loader | None = None

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Step in front of the usual loader, once."""
        del path, target
        if name not in _MODULES or self._searched:
            return None
        self._searched = True  # before the search, which comes by here again
        found = importlib.util.find_spec(name)
        if found is not None:
            self._usual, found.loader = found.loader, self
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and change the default that vLLM relies on."""
        assert self._usual is not None  # noqa: S101  (find_spec came first)
        self._usual.exec_module(module)
        _polling, *others = module.nixl_agent_config.__init__.__defaults__
        module.nixl_agent_config.__init__.__defaults__ = (False, *others)


if os.environ.get("KVDIRECT_BENCH_SLEEP"):
    os.sched_yield = _sleep
if os.environ.get("KVDIRECT_BENCH_NIXL_BEST"):
    os.sched_setaffinity = _stay
    sys.meta_path.insert(0, _Quiet())
