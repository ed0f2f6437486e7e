# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One frame of `kvdirect top`: what two readings say, as tables.

All that comes from outside goes through `clean` and into rich's Text, which gives no meaning to markup.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .samples import Samples, grown, quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from .sources import Instance, Reading

_LONGEST = 100  # characters of what a stranger says
_LOST = ("failed", "no_decode", "timeout", "limited", "internal")
_COLOURS = {"ok": "green", "up": "green", "down": "red", "unavailable": "red"}
_NOTHING = Samples({})
_Kind = tuple[str, str, str, tuple[str, ...]]
# Counters of what went otherwise than it should: the metric, its label, what it counts, and the values that are good.
_ROUTER_EVENTS: tuple[_Kind, ...] = (
    ("kvdirect_router_requests_total", "outcome", "request", ("ok",)),
    ("kvdirect_router_prefills_total", "outcome", "prompt", ("disaggregated",)),
    ("kvdirect_router_retries_total", "reason", "sent to decode again", ()),
    ("kvdirect_router_tickets_returned_total", "outcome", "ticket given back", ()),
)
_ENGINE_EVENTS: tuple[_Kind, ...] = (
    ("vllm:kvdirect_num_failed_transfers_total", "reason", "pull or ticket refused", ()),
    ("vllm:kvdirect_num_handshakes_total", "outcome", "handshake", ("welcomed",)),
    ("vllm:kvdirect_num_ended_leases_total", "reason", "lease ended", ("completed",)),
    ("vllm:kvdirect_num_returned_tickets_total", "outcome", "ticket taken back", ()),
    ("vllm:kvdirect_num_requests_without_ticket_total", "", "request without a ticket", ()),
)


def clean(text: str) -> str:
    """What a stranger says, in characters that a terminal only shows."""
    cut = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in cut)


def count(number: float) -> str:
    """A number of things."""
    return f"{number:,.0f}" if math.isfinite(number) else "-"


def rate(number: float) -> str:
    """A number of things a second."""
    if not number or number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 0.1 else f"{number:.2f}"


def size(number: float) -> str:
    """A number of bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def span(number: float | None) -> str:
    """A time that something took."""
    if number is None:
        return "-"
    return f"{number:.2f} s" if number >= 1 else f"{number * 1e3:.1f} ms"


def age(number: float) -> str:
    """How long something has been so."""
    for seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if number >= seconds:
            return f"{min(number, 1e9) // seconds:.0f} {unit}"
    return f"{number:.0f} s"


class Frame:
    """What changed between two readings, and what is now."""

    def __init__(self, router: str, now: Reading, before: Reading | None) -> None:
        """Make it.

        Args:
            router: The router's base URL.
            now: The last reading.
            before: One before it, some seconds ago; None: there is none yet, and so there are no rates.
        """
        self._router = router
        self._now, self._before = now, before
        self._seconds = 0.0 if before is None else now.when - before.when

    def render(self) -> RenderableType:
        """All of it."""
        parts: list[RenderableType] = [self._head(), Text(self._requests())]
        for table in (self._instances(), self._lanes(), self._leases(), self._events()):
            if not table.row_count:
                table.add_row("none")
            parts += [Text(), table]
        return Group(*parts, *self._troubles())

    def _head(self) -> Text:
        status = self._now.status
        state = "no answer" if status is None else clean(status.status)
        rates = f"rates and quantiles of the last {self._seconds:.1f} s" if self._before else "no rates yet"
        head = Text.assemble(("kvdirect top", "bold"), "  ", clean(self._router), "  ")
        return head.append(state, _COLOURS.get(state, "yellow")).append(f"  {rates}")

    def _requests(self) -> str:
        now, before = self._now.router.samples or _NOTHING, self._earlier(None)
        ended = self._growths(now, before, "kvdirect_router_requests_total", "outcome")
        prompts = self._growths(now, before, "kvdirect_router_prefills_total", "outcome")
        first = [self._quantile(now, before, "kvdirect_router_first_byte_seconds", share) for share in (0.5, 0.99)]
        asked = sum(prompts.values())
        apart = f"{100 * prompts.get('disaggregated', 0) / asked:.0f} %" if asked else "-"
        return (
            f"requests {rate(self._a_second(sum(ended.values())))}/s, "
            f"lost {rate(self._a_second(sum(ended.get(name, 0) for name in _LOST)))}/s, "
            f"in flight {count(now.total('kvdirect_router_in_flight'))}, "
            f"clients {count(now.total('kvdirect_router_connections'))}; "
            f"first byte p50 {span(first[0])}, p99 {span(first[1])}; prefilled apart {apart}"
        )

    def _instances(self) -> Table:
        left = ("ROLE", "INSTANCE", "STATE")
        right = ("FOR", "IN FLIGHT", "CACHES", "REQUESTS", "/S", "FAILED", "RUNNING", "WAITING", "KV USED")
        table = _table(left, right, "ERROR")
        known = [] if self._now.status is None else self._now.status.instances
        for one in known:
            table.add_row(*self._instance(one), style="" if one.state == "up" else "yellow")
        named = {one.url for one in known}
        for url in self._now.engines:
            if url not in named:  # given by hand, or known from before
                table.add_row(*map(_cell, ("-", url, "-", *["-"] * 6, *self._load(url), self._error(url))))
        return table

    def _instance(self, one: Instance) -> Iterator[Text]:
        before = self._before.status if self._before else None
        same = [each for each in before.instances if (each.role, each.url) == (one.role, one.url)] if before else []
        speed = rate(self._a_second(grown(one.requests, same[0].requests))) if same else "-"
        figures = (age(one.seconds), *map(count, (one.in_flight, one.caches, one.requests)), speed, count(one.failures))
        yield from map(_cell, (one.role, one.url))
        yield Text(clean(one.state), _COLOURS.get(one.state, "yellow"))
        yield from map(_cell, (*figures, *self._load(one.url), one.error or self._error(one.url)))

    def _load(self, url: str) -> tuple[str, str, str]:
        answer = self._now.engines.get(url)
        if answer is None or answer.samples is None:
            return ("-", "-", "-")
        of = answer.samples.total
        ranks = max(1, sum(1 for _ in answer.samples.of("vllm:kv_cache_usage_perc")))
        used = f"{100 * of('vllm:kv_cache_usage_perc') / ranks:.0f} %"
        return (count(of("vllm:num_requests_running")), count(of("vllm:num_requests_waiting")), used)

    def _error(self, url: str) -> str:
        answer = self._now.engines.get(url)
        return "" if answer is None else answer.error

    def _lanes(self) -> Table:
        table = _table(("PULLS BY", "LANE"), ("PULLS", "/S", "BYTES", "/S", "P50", "P99"))
        for url, now, before in self._scrapes():
            prefix = "vllm:kvdirect_"
            for lane, pulls in now.by(f"{prefix}xfer_time_seconds_count", "lane").items():
                moved = now.total(f"{prefix}bytes_transferred_sum", lane=lane)
                figures = [count(pulls), *["-"] * 5]
                figures[2] = size(moved)
                if before is not None:
                    more = grown(pulls, before.total(f"{prefix}xfer_time_seconds_count", lane=lane))
                    bytes_more = grown(moved, before.total(f"{prefix}bytes_transferred_sum", lane=lane))
                    figures[1], figures[3] = rate(self._a_second(more)), size(self._a_second(bytes_more))
                    name = f"{prefix}xfer_time_seconds"
                    figures[4:] = [span(self._quantile(now, before, name, share, lane=lane)) for share in (0.5, 0.99)]
                table.add_row(*map(_cell, (url, lane, *figures)))
        return table

    def _leases(self) -> Table:
        table = _table(("LEASES OF",), ("HELD", "GRANTED", "/S", "COMPLETED", "EXPIRED"))
        for url, now, before in self._scrapes():
            granted = now.total("vllm:kvdirect_num_granted_leases_total")
            ended = now.total("vllm:kvdirect_num_ended_leases_total")
            if not granted and not ended:
                continue
            speed = "-"
            if before is not None:
                more = grown(granted, before.total("vllm:kvdirect_num_granted_leases_total"))
                speed = rate(self._a_second(more))
            completed = now.total("vllm:kvdirect_num_ended_leases_total", reason="completed")
            expired = now.total("vllm:kvdirect_num_kv_expired_reqs_total")
            held = max(0.0, granted - ended)
            table.add_row(*map(_cell, (url, count(held), count(granted), speed, count(completed), count(expired))))
        return table

    def _events(self) -> Table:
        table = _table(("WHERE", "WHAT", "HOW, OR WHY"), ("IN ALL", "/S"))
        routers = self._now.router.samples
        scrapes = [] if routers is None else [("router", routers, self._earlier(None), _ROUTER_EVENTS)]
        scrapes += [(url, now, before, _ENGINE_EVENTS) for url, now, before in self._scrapes()]
        for where, now, before, kinds in scrapes:
            for name, label, what, good in kinds:
                for value, number in now.by(name, label).items():
                    if number and value not in good:
                        older = 0.0 if before is None else before.by(name, label).get(value, 0.0)
                        speed = "-" if before is None else rate(self._a_second(grown(number, older)))
                        table.add_row(*map(_cell, (where, what, value, count(number), speed)))
        return table

    def _troubles(self) -> Iterator[Text]:
        now = self._now
        if now.router.error:
            yield Text(f"the router at {clean(self._router)}: {clean(now.router.error)}", "red")
        if now.left_out:
            yield Text(f"{now.left_out} more engines are not asked", "yellow")

    def _scrapes(self) -> Iterator[tuple[str, Samples, Samples | None]]:
        for url, answer in self._now.engines.items():
            if answer.samples is not None:
                yield url, answer.samples, self._earlier(url)

    def _earlier(self, url: str | None) -> Samples | None:
        """What the engine, or the router, said before."""
        if self._before is None:
            return None
        answer = self._before.router if url is None else self._before.engines.get(url)
        return None if answer is None else answer.samples

    def _a_second(self, number: float) -> float:
        return number / self._seconds if self._seconds > 0 else 0.0

    @staticmethod
    def _growths(now: Samples, before: Samples | None, name: str, label: str) -> Mapping[str, float]:
        older = {} if before is None else before.by(name, label)
        newer = now.by(name, label)
        return {} if before is None else {value: grown(n, older.get(value, 0.0)) for value, n in newer.items()}

    @staticmethod
    def _quantile(now: Samples, before: Samples | None, name: str, share: float, **labels: str) -> float | None:
        return None if before is None else quantile(share, now.buckets(name, **labels), before.buckets(name, **labels))


def _cell(text: str) -> Text:
    return Text(clean(text))


def _table(left: Sequence[str], right: Sequence[str], last: str = "") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(Text(name), overflow="fold")
    for name in right:
        table.add_column(Text(name), justify="right", no_wrap=True)
    if last:
        table.add_column(Text(last), overflow="fold")
    return table
