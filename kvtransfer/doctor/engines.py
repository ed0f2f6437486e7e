# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two real engines in processes of their own: where one listens, and over which lanes the other can pull from it."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from .network import device_of
from .procfs import devices
from .programs import ProgramError, answering, ask
from .report import Check, Status

if TYPE_CHECKING:
    from .library import Library

# Every lane that the design knows, best first; a version has some of them.
ALL_LANES = ("cuda_ipc", "shm", "cma", "rdma", "message")
_LOOK_AT = {"shm": "shared_memory", "cma": "process_read"}
_SEE_ENGINE = "see the check engine"
_START_HINT = "see to the other warnings of this report first"
_NOT_HERE = "not in this version"
_NOT_TRIED = "not tried: these engines have their memory on the host; see the check gpu"
_NO_DEVICE = "this machine has no RDMA device"


def check_engines(library: Library, listen: str) -> list[Check]:
    """The checks "engine" and "lanes"."""
    if library.module is None:
        facts = {"engine": _engine_facts(listen), "lanes": lane_facts({})}
        why, remedy = "not tried: kvtransfer cannot be imported", "see the check kvtransfer"
        return [Check(name, "problem", why, remedy, of_check) for name, of_check in facts.items()]
    try:
        with answering("owner", listen) as owner:
            engine = judge_engine(owner, listen)
            if "error" not in owner:
                return [engine, _check_lanes(library, listen, owner)]
    except ProgramError as error:
        engine = Check("engine", "problem", f"the engine's process: {error}", _START_HINT, _engine_facts(listen))
    return [engine, Check("lanes", "problem", "not tried: no engine", _SEE_ENGINE, lane_facts({}))]


def judge_engine(owner: dict[str, Any], listen: str) -> Check:
    """From what the owner's process answered."""
    facts = _engine_facts(listen)
    if "error" in owner:
        remedy = owner["hint"] or _START_HINT
        return Check("engine", "problem", owner["error"], f"{remedy}; devices here: {', '.join(devices())}", facts)
    sockets = [
        {**one, "device": device_of(ip_address(one["address"])), "loopback": is_loopback(one["address"])}
        for one in owner["listening"]
    ]
    facts["listening"] = sockets
    where = ", ".join(f"{one['address']} port {one['port']} ({one['device'] or 'no device'})" for one in sockets)
    if not sockets:
        remedy = "look at the output of `ss -ltnp` while an engine runs"
        return Check("engine", "warning", "starts, but listens nowhere that could be seen", remedy, facts)
    if not all(one["loopback"] for one in sockets):
        remedy = "let only engines and routers reach that network, or use --listen lo where all engines share a host"
        summary = f"starts and listens on {where}: others can reach it: give engines keys (kvdirect keygen)"
        return Check("engine", "warning", summary, remedy, facts)
    return Check("engine", "ok", f"starts and listens on {where}", facts=facts)


def is_loopback(address: str) -> bool:
    """Only this host reaches that address, also where IPv4 is written as IPv6."""
    parsed = ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _check_lanes(library: Library, listen: str, owner: dict[str, Any]) -> Check:
    try:
        tried = ask("reader", listen, given=json.dumps(owner))
    except ProgramError as error:
        return Check("lanes", "problem", f"the reader's process: {error}", _START_HINT, lane_facts({}))
    return judge_lanes(tried, library.lanes)


def judge_lanes(tried: dict[str, Any], known: tuple[str, ...]) -> Check:
    """From what the reader's process answered: for each lane whether it works, and why not."""
    facts = lane_facts(tried)
    working = [lane for lane in known if tried.get(lane, {}).get("works")]
    # No device is no defect; one that does not work is.
    failed = {lane: tried[lane]["why"] for lane in known if lane in tried and lane not in working}
    broken = {lane: why for lane, why in failed.items() if _NO_DEVICE not in why}
    absent = [lane for lane in ALL_LANES if lane not in known]
    status: Status = "warning" if broken else "ok"
    remedy = ""
    summary = f"{', '.join(working) or 'none'} pulled the right bytes between two processes"
    if not working:
        status, remedy = "problem", "see to the other warnings and problems of this report first"
    elif broken:
        first = next((lane for lane in broken if lane in _LOOK_AT), "")
        remedy = f"see the check {_LOOK_AT[first]}" if first else _SEE_ENGINE
    missing = f"{_NOT_HERE}: {', '.join(absent)}" if absent else ""
    parts = [summary, *(f"{lane}: {why}" for lane, why in broken.items()), missing]
    return Check("lanes", status, "; ".join(filter(None, parts)), remedy, facts)


def lane_facts(tried: dict[str, Any]) -> dict[str, object]:
    """The facts of "lanes": those that work, and for every lane whether it does and why not."""
    lanes = {
        lane: tried.get(lane) or {"works": False, "why": _NOT_TRIED if lane == "cuda_ipc" else _NOT_HERE}
        for lane in ALL_LANES
    }
    return {"working": [lane for lane, one in lanes.items() if one["works"]], "lanes": lanes}


def _engine_facts(listen: str) -> dict[str, object]:
    return {"listen": listen, "listening": []}
