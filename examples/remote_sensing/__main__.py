# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`python -m remote_sensing`: train a model, judge it on scenes it has not seen, draw what it finds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import torch

from .pictures import plot_losses
from .report import evaluate
from .train import save, train

STEPS = 900


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


def main() -> int:
    """0 where one process and three told the same, bit for bit, else 1; other aims are printed as reached or missed."""
    parser = argparse.ArgumentParser(prog="remote_sensing", description=__doc__)
    parser.add_argument("what", choices=("all", "train", "evaluate"), nargs="?", default="all")
    parser.add_argument("--out", type=Path, default=Path("build/matching"), help="folder for weights and pictures")
    parser.add_argument("--steps", type=int, default=STEPS, help="scenes that training sees")
    parser.add_argument("--pairs", type=int, default=40, help="held-out scenes to judge it on")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training scenes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.out / "model.pt"
    if arguments.what != "evaluate":
        model, history = train(arguments.steps, say, seed=arguments.seed)
        save(model, weights)
        (arguments.out / "losses.json").write_text(json.dumps(history, indent=1) + "\n")
        plot_losses(history, arguments.out / "losses.png")
        say(f"{model.parameters_in_millions:.2f} M parameters trained in {history[-1]['seconds']:.0f} s")
    if arguments.what == "train":
        return 0
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    report = evaluate(weights, arguments.pairs, arguments.out, say)
    say(f"pictures are in {arguments.out}")
    return 0 if report.equal == report.pairs else 1


if __name__ == "__main__":
    sys.exit(main())
