# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""`kvdirect instances`: let instances join, drain, leave and change roles at a running router, and see how they are.

Talks to the router's admin calls; the token comes from a file, never from the command line.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from kvdirect.errors import CommandError, UsageError
from kvdirect.router.auth import read_token
from kvdirect.router.config import ProxyConfigError, checked_url
from kvdirect.router.instances import ROLES

if TYPE_CHECKING:
    import argparse

    import httpx

_Instance = dict[str, Any]
_POLL_SECONDS = 0.5
_COLUMNS = ("role", "url", "state", "in_flight", "caches", "requests", "failures", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `kvdirect instances` and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    texts = {
        "list": "show every instance: role, URL, state, requests in flight",
        "join": "let an instance join; one that is there already stays, and takes requests again if it drained",
        "drain": "give an instance no new requests and let it leave once it is done",
        "role": "have an instance take requests of this role, and no more of the other one; it ends what it has",
        "leave": "forget an instance now; what it has in flight still finishes",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name != "list":
            action.add_argument("url", metavar="URL", help="base URL of the instance")
            action.add_argument(
                "--role",
                choices=ROLES,
                required=name in {"join", "role"},
                help="what it does" if name in {"join", "role"} else "in this role only (default: in both)",
            )
        if name == "drain":
            action.add_argument("--keep", action="store_true", help="drained, it stays known and can join again")
        if name in {"drain", "role"}:
            action.add_argument(
                "--wait", type=float, default=0.0, metavar="SECONDS", help="wait until what it has is done (default: 0)"
            )
        action.add_argument("--router", required=True, metavar="URL", help="base URL of the router")
        action.add_argument("--token-file", required=True, metavar="FILE", help="file with the router's admin token")
        action.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one call (default: 30)")
        action.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do one action.

    Returns:
        0.

    Raises:
        UsageError: An option cannot be used.
        CommandError: The router cannot be reached or refused, or a drain took longer than --wait.
    """
    for name in ("timeout", "wait"):
        if not 0 <= getattr(args, name, 0.0) < float("inf") or (name == "timeout" and not args.timeout):
            raise UsageError(f"--{name} is {getattr(args, name)}; expected a number of seconds")
    try:
        base = checked_url("router", args.router)
    except ProxyConfigError as error:
        raise UsageError(str(error)) from error
    try:
        import httpx  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise CommandError(f'this needs the Python package {error.name!r}: pip install "kvdirect[proxy]"') from error
    headers = {"authorization": f"Bearer {read_token('--token-file', args.token_file)}"}
    with httpx.Client(base_url=base, headers=headers, timeout=args.timeout, trust_env=False) as client:
        instances = _act(client, args)
        if args.action == "drain" and args.wait:
            instances = _wait_drained(client, args, instances)
        elif args.action == "role" and args.wait:
            old = [one for one in instances if one["role"] != args.role]
            instances = [one for one in instances if one not in old] + _wait_drained(client, args, old)
    print(json.dumps(instances, indent=2) if args.json else _table(instances))
    return 0


def _act(client: httpx.Client, args: argparse.Namespace) -> list[_Instance]:
    path = "/admin/instances"
    if args.action == "list":
        return _call(client, "GET", path)
    named = {"url": args.url} | ({"role": args.role} if args.role else {})
    if args.action == "leave":
        return _call(client, "DELETE", path, params=named)
    if args.action == "join":
        return _call(client, "POST", path, json=named)
    if args.action == "role":
        return _call(client, "POST", f"{path}/role", json=named)
    return _call(client, "POST", f"{path}/drain", json={**named, "remove": not args.keep})


def _call(client: httpx.Client, method: str, path: str, **what: Any) -> list[_Instance]:
    import httpx  # noqa: PLC0415 (an extra)

    try:
        answer = client.request(method, path, **what)
        body = answer.json()
        if answer.is_success:
            return list(body["instances"])
        text = str(body["error"]["message"])
    except httpx.RequestError as error:
        raise CommandError(
            f"no answer from the router at {client.base_url}: {error or type(error).__name__}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{client.base_url} answered {answer.status_code} with something that is no router's answer; check --router"
        ) from error
    raise CommandError(f"the router answered {answer.status_code}: {text}")


def _wait_drained(client: httpx.Client, args: argparse.Namespace, drained: list[_Instance]) -> list[_Instance]:
    """Wait until the instances have left or, with --keep, have nothing left; returns their last state."""
    deadline = time.monotonic() + args.wait
    seen = {(item["role"], item["url"]): item for item in drained}
    while True:
        known = {(item["role"], item["url"]): item for item in _call(client, "GET", "/admin/instances")}
        still = [item for key, item in known.items() if key in seen and item["state"] != "drained"]
        for key, item in seen.items():
            seen[key] = known.get(key, {**item, "state": "left", "in_flight": 0, "caches": 0})
        if not still:
            return list(seen.values())
        if time.monotonic() >= deadline:
            rest = "; ".join(f"{i['role']} {i['url']}: {i['in_flight']} in flight, {i['caches']} caches" for i in still)
            raise CommandError(f"not drained within {args.wait} s ({rest}); it goes on draining")
        time.sleep(_POLL_SECONDS)


def _table(instances: list[_Instance]) -> str:
    rows = [tuple(column.upper() for column in _COLUMNS)]
    rows += [tuple(str(item.get(column, "")) or "-" for column in _COLUMNS) for item in instances]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
