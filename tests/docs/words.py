# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Words that were given up, and what is said instead: one row a word."""

from __future__ import annotations

from typing import NamedTuple

# Files by what they belong to.
PLACES = {
    "csrc": ("csrc/**/*.h", "csrc/**/*.cpp", "csrc/**/*.cu", "tests/cpp/*.h", "tests/cpp/*.cpp", "tests/cpp/stress/*"),
    "kvtransfer": ("kvtransfer/**/*.py", "kvtransfer/**/*.pyi"),
    "plugin": ("vllm_plugin/**/*.py",),
    "bench": ("bench/**/*.py",),
    "tests": ("tests/**/*.py", "examples/**/*.py", "tools/*"),
    "docs": ("*.md", "docs/*.md", "Makefile", "pyproject.toml", "CMakeLists.txt"),
}


class Retired(NamedTuple):
    """A regular expression of names, what is said instead, and in which places."""

    word: str
    now: str
    places: str


def cpp(name: str) -> str:
    """A C++ type where it is used as one, and not the same English word at the beginning of a comment."""
    return rf"\b(?:(?:class|struct|friend) {name}\b|{name}(?:::|&|\*|>|\())|(?<!// )\b{name} \w+(?:;|\{{| =|,|\))"


def module(package: str, name: str) -> str:
    """A module under its package's name, in imports, texts and paths."""
    return rf"\b{package}[./]{name}\b|\bfrom {package} import (?:.*\W)?{name}\b"


WORDS = [
    # The core: sessions and threads.
    Retired(cpp("Reading"), "ReaderSessions", "csrc"),
    Retired(cpp("Serving"), "OwnerSessions", "csrc"),
    Retired(r"\bstruct Session\b|\bServing::Session\b", "OwnerConnection", "csrc"),
    Retired(cpp("Connection"), "ReaderConnection", "csrc"),
    Retired(cpp("Progress"), "EventThread", "csrc"),
    Retired(r"\bDuties\b|\b_duties\b|\bduties\.", "callbacks", "csrc"),
    Retired(r"\bpump\b", "poll", "csrc"),
    Retired(r"\b_?[Ii]nbox\b", "CommandQueue", "csrc"),
    Retired(r"\b[Cc]olleagues?\b", "sibling", "csrc docs"),
    Retired(r"\b(?:struct|class) (?:Self|Parts|Target)\b", "Options", "csrc"),
    Retired(r"\bInlet\b", "StreamHandler", "csrc"),
    Retired(r"\b_?[Gg]uest\b|\breceive_guest\b", "OnAccept", "csrc"),
    Retired(r"\b_strangers\b|\bmax_strangers\b", "unadmitted", "csrc"),
    Retired(r"\b_?deaf\b", "accept_paused", "csrc"),
    Retired(r"\b_?[Pp]arting(?:_time)?\b", "lingering", "csrc"),
    Retired(r"\bbool matters\b|[.>]matters\b", "carried_data", "csrc"),
    # The core: the message lane.
    Retired(r"\bPortion\b|\b(?:least|best)?_?portions?\b", "stripe", "csrc docs"),
    Retired(r"\bDividedPull\b", "StripedPull", "csrc docs"),
    Retired(cpp("Landing"), "ReceiveCursor", "csrc"),
    Retired(r"\b_?(?:open_)?[Ss]trands?\b", "ConnectionHandle", "csrc"),
    # The core: memory and lanes within a host.
    Retired(r"\bBulk\b|\bkvd-bulk\b", "CopyPool", "csrc tests docs"),
    Retired(r"\bBoard\b|\b_?board\b", "control page", "csrc tests docs"),
    Retired(r"\bShmDoor\b|\b_?door\b", "HandoffServer, handoff", "csrc tests"),
    Retired(r"\bDoorVisit\b", "HandoffClient", "csrc"),
    Retired(r"\bDoorAccess\b", "HandoffAccess", "csrc"),
    Retired(
        r"\b_?[Tt]ickets?\b|\b(?:issue|take|max)_tickets?\b", "secret (a ticket is what a request carries)", "csrc"
    ),
    Retired(r"\bParcel\b", "FdMessage", "csrc"),
    Retired(r"\b(?:gpu_)?glance\b", "poll_interval", "csrc"),
    # The core: GPUs, planning.
    Retired(r"\bDeviceMark\b", "DeviceEvent", "csrc docs"),
    Retired(r"\b(?:struct|class) Share\b", "ShardSource", "csrc"),
    Retired(r"\b(?:struct|class) Shared\b", "IndexOverlap", "csrc"),
    Retired(r"\bPlaced\b", "LocatedRange", "csrc"),
    Retired(r"\bAtom\b", "RelativeRun", "csrc"),
    Retired(r"\bprogression\b", "index_range", "csrc docs"),
    # The core's files; those whose names were words above are found by them.
    Retired(
        r"\"(?:codec|fd|random|threads|counters|process_guard|error|copy|regions|shared_memory|large_pages|geometry|landing"
        r"|progress|reactor|listener|stream|tcp_socket|unix_socket|readiness|plan|coverage|pattern|selection|run_list"
        r"|tensor_map|connection|serving_session|stream_worker|protocol|protocol_fields|descriptor)\.h\"",
        "the header's folder too",
        "csrc",
    ),
    Retired(r"\bcsrc/protocol\.h\b", "csrc/wire/messages.h", "docs"),
    # The plugin: who is who.
    Retired(
        r"\b(?:Lender|Borrower|Granter|Puller)\b",
        "owner or reader (SchedulerOwner, WorkerReader, ...)",
        "plugin tests docs",
    ),
    Retired(r"\b_?[Ll]oans?\b", "lease", "plugin tests docs"),
    Retired(r"\b(?:LeaseName|LeaseToken)\b", "RemoteLease, LeaseRef", "plugin bench tests"),
    Retired(r"\bclass (?:Address|Owner)\b", "OwnerAddress", "plugin"),
    Retired(r"\bclass Links\b|\bLinks\(", "Connections", "plugin tests"),
    Retired(r"\bclass Marks\b|\bMarks\(", "StepFences", "plugin tests"),
    Retired(r"\bspoil(?:ed|s|ing)?\b", "corrupt", "plugin tests docs"),
    # The plugin: the router.
    Retired(r"\bHandover\b", "PrefillResult", "plugin tests"),
    Retired(r"\bTally\b", "RouterMetrics", "plugin tests"),
    Retired(r"\bOutgoing\b", "ClientResponse", "plugin tests"),
    Retired(r"\bProxyError\b", "RouterError", "plugin tests"),
    # The plugin: modules, however they are named.
    *[
        Retired(module("kvdirect", old), now, "plugin bench tests docs")
        for old, now in {
            "lending": "scheduler.owner",
            "borrowing": "scheduler.reader",
            "grants": "worker.owner",
            "pulls": "worker.reader",
            "links": "worker.connections",
            "marks": "worker.gpu_fences",
            "shared_cache": "worker.shared_cache",
            "faults": "worker.faults",
            "asking": "handshake.client",
            "wire": "transfer_params, fingerprint or handshake.messages",
            "prompts": "transfer_params",
            "steps": "metadata",
            "geometry": "cache.describe",
            "layer_shape": "cache.layer_shape",
            "shard": "cache.shard",
            "tables": "cache.block_tables",
            "cli_errors": "errors",
            r"demo_\w+": "harness",
            r"proxy_\w+": "router, or cli.instances",
        }.items()
    ],
    # The benchmark's modules.
    *[
        Retired(module("kvdirect_bench", old), now, "bench tests docs")
        for old, now in {
            "scene": "workload",
            "race": "interleave",
            "words": "arguments",
            "bars": "targets",
            "gpu_bars": "gpu_targets",
            "mixing": "prng",
            "peers": "backends",
            "sides": "backends.base",
            r"serving[./]race": "serving.interleave",
            r"serving[./]bars": "serving.targets",
            r"serving[./]meter": "serving.engine_metrics",
            "meter": "engine_metrics",
        }.items()
    ],
    # What has come.
    Retired(r"to come: `cuda_ipc`", "that it is there", "docs"),
]
