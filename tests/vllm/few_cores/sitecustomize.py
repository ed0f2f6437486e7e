# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""On PYTHONPATH of engines of several ranks, whose processes outnumber the cores of a small test machine.

vLLM's ranks wait for each other with os.sched_yield() in a loop. Some kernels (Linux 6.18) let two processes that do
this keep two cores for themselves for minutes, while forty others, among them the ranks waited for, are ready to run.
"""

import os
import time


def _sched_yield() -> None:
    time.sleep(0.0002)


os.sched_yield = _sched_yield
