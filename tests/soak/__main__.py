# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Owners and readers that grant, pull and overwrite, with a fault every few seconds; every byte is looked at.

    .venv/bin/python -m soak --minutes 30

One JSON object on standard output; the exit status says whether all is well. `--pulls` injects no faults, and goes on
until each lane has ended so many pulls.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

from .run import Soak


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--kill-every", type=float, default=120.0, help="seconds between two kill -9 (default: 120)")
    parser.add_argument("--pulls", type=int, default=0, help="no faults, until each lane has ended so many pulls")
    parser.add_argument("--seed", type=int, help="that of an earlier run; its threads still run as they please")
    return parser.parse_args()


def main() -> int:
    options = _options()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    soak = Soak(seed, pace=0.0 if options.pulls else 0.004)
    summary = soak.count(options.pulls) if options.pulls else soak.run(options.minutes * 60, options.kill_every)
    print(json.dumps(summary, indent=2))
    return 0 if summary["clean"] else 1


if __name__ == "__main__":
    sys.exit(main())
