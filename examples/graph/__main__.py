# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`python -m graph`: train on rows in stores, compare with rows in one's own memory, and draw what happened."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from . import whole
from .data import GraphSettings
from .plot import plot_losses, plot_timelines
from .train import SageSettings
from .walk_train import WalkSettings
from .walks import WalkPlan

ACCURACY = 0.51  # what a linear model on features of two hops reaches on WordNet
AUC_APART = 0.01


def main() -> int:
    """The exit status: 0 if rows from stores gave what rows of one's own give."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    graph = GraphSettings(
        kind=options.graph, cache=options.cache.resolve(), width=options.width, seed=options.seed, nodes=options.nodes
    )
    begin = time.monotonic()
    print(f"graph: {graph.kind} is read or drawn, which takes a while the first time", flush=True)
    graph.prepare()
    parts = {"sage": _sage, "compare": _compare, "walks": _walks}
    wrong = []
    for name in options.parts or parts:
        if name == "compare" and graph.kind != "wordnet":
            print("graph: compare: left out, as its RPC store takes rows from a file, which only wordnet has")
            continue
        wrong += parts[name](options, graph)
    for line in wrong:
        print(f"graph: NOT as it should be: {line}")
    print(f"graph: done in {time.monotonic() - begin:.0f} s; pictures are in {options.out}")
    return 1 if wrong else 0


def _part(text: str) -> str:
    """A part's name; argparse's own choices refuse that there is none."""
    if text not in {"sage", "compare", "walks"}:
        raise argparse.ArgumentTypeError(f"{text!r}: expected sage, compare or walks")
    return text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m graph", description=__doc__)
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART", help="sage, compare, walks; all unless given")
    parser.add_argument("--graph", default="wordnet", choices=["wordnet", "rmat"])
    parser.add_argument("--nodes", type=int, default=1 << 20, help="of an R-MAT graph, a power of two")
    parser.add_argument("--width", type=int, default=256, help="floats of a feature row")
    parser.add_argument("--stores", type=int, default=2)
    parser.add_argument("--trainers", type=int, default=2, help="of embeddings")
    parser.add_argument("--epochs", type=int, default=4, help="of GraphSAGE")
    parser.add_argument("--walk-epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", action="store_true", help="Ray starts stores and trainers")
    parser.add_argument("--no-kill", action="store_true", help="let all stores live")
    parser.add_argument("--cache", type=Path, default=Path("build/graph"), help="downloads and what was read of them")
    parser.add_argument("--out", type=Path, default=Path("build/graph/out"), help="pictures")
    return parser.parse_args()


def _sage(options: argparse.Namespace, graph: GraphSettings) -> list[str]:
    settings = SageSettings(
        folder=Path(),
        out=Path(),
        graph=graph,
        epochs=options.epochs,
        batch=options.batch,
        seed=options.seed,
        check=True,
    )
    parent = 0 if options.ray else os.getpid()
    own = whole.run_sage(settings, 0, parent=parent)
    stores = whole.run_sage(settings, options.stores, parent=parent, ray=options.ray, kill=not options.no_kill)
    same = own["losses"] == stores["losses"]
    print(
        f"graph: sage: {len(own['losses'])} losses {'bit-equal' if same else 'DIFFERENT'}, accuracy "
        f"{stores['accuracies'][-1]:.4f}; {stores['checked']} rows checked, {stores['retries']} tries begun again, "
        f"{stores['replaced']} stores replaced",
        flush=True,
    )
    reports = {"own memory": own, "stores": stores}
    plot_losses(options.out / "sage-loss.png", "GraphSAGE: one is drawn upon the other", reports)
    wrong = []
    if not same:
        wrong.append("the losses with rows of stores are not those with rows of one's own")
    if graph.kind == "wordnet" and stores["accuracies"][-1] <= ACCURACY:
        wrong.append(f"accuracy {stores['accuracies'][-1]:.4f}, at least {ACCURACY} was expected")
    if not options.no_kill and not stores["replaced"]:
        wrong.append("no store was replaced")
    return wrong


def _compare(options: argparse.Namespace, graph: GraphSettings) -> list[str]:
    settings = SageSettings(folder=Path(), out=Path(), graph=graph, batch=options.batch, seed=options.seed)
    report = whole.run_compare(settings, options.stores, options.rounds, parent=os.getpid())
    medians = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in report["seconds"].items()}
    print(
        "graph: compare: an epoch takes "
        + ", ".join(f"{seconds:.2f} s with rows of {name}" for name, seconds in medians.items())
        + f"; stores: {report['stores_to_own']:.2f} x own memory (at most 1.10 is the aim), "
        f"{1 - report['stores_to_rpc']:.0%} shorter than synchronous RPC (the aim is 40%)",
        flush=True,
    )
    bands = {f"rows of\n{name}": {"spans": spans} for name, spans in report["spans"].items()}
    plot_timelines(options.out / "sage-timeline.png", "GraphSAGE: what is done when", bands)
    return [] if report["equal"] else ["losses of the compared sources differ"]


def _walks(options: argparse.Namespace, graph: GraphSettings) -> list[str]:
    settings = WalkSettings(
        folder=Path(),
        out=Path(),
        graph=graph,
        plan=WalkPlan(seed=options.seed),
        epochs=options.walk_epochs,
        trainers=options.trainers,
        check=True,
    )
    parent = 0 if options.ray else os.getpid()
    own = whole.run_walks(settings, 0, parent=parent)
    stores = whole.run_walks(settings, options.stores, parent=parent, ray=options.ray, kill=not options.no_kill)
    apart = stores["aucs"][-1] - own["aucs"][-1]
    print(
        f"graph: walks: AUC {stores['aucs'][-1]:.4f} with stores, {own['aucs'][-1]:.4f} in one process "
        f"({apart:+.4f}); {stores['checked']} rows checked, {stores['retries']} tries begun again, "
        f"{stores['replaced']} connections to a store replaced",
        flush=True,
    )
    plot_losses(
        options.out / "walks-loss.png", "DeepWalk: loss of a step", {"one process": own, "one of the trainers": stores}
    )
    plot_timelines(options.out / "walks-timeline.png", "DeepWalk, a trainer: what is done when", {"stores": stores})
    wrong = []
    if abs(apart) > AUC_APART:
        wrong.append(
            f"link prediction is {apart:+.4f} AUC apart from that of one process, at most {AUC_APART} is right"
        )
    if not options.no_kill and not stores["replaced"]:
        wrong.append("no store was replaced")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
