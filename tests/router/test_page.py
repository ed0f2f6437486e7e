# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The status page in a real browser, before a real router.

KVDIRECT_SCREENSHOT=docs/figures/status-page.png makes the picture of docs/router.md anew.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import outside
import pytest
from played_backend import Backend, Reply
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from raw_http import HEALTHY, PlayedInstance
from router_process import Proxy

DEADLINE = 20_000.0  # milliseconds
# Nothing but what the tests ask for: no updates, no first page, no metrics.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# Of one that is shown as markup, whatever else is done to it, the script would run.
HOSTILE = "<img/src=x/onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = outside.program("chromium", "chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield running
        running.close()


class Visit:
    """A page, what it asked for, and what it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(DEADLINE)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def row(self, text: str) -> list[str]:
        """The cells of the row that begins so, once it is there."""
        row = self.page.locator("tr", has=self.page.get_by_role("rowheader", name=text, exact=True))
        expect(row.first).to_be_visible(timeout=DEADLINE)
        return row.first.locator("th, td").all_inner_texts()

    def state(self, url: str, state: str) -> None:
        """Wait until an instance is shown in this state."""
        row = self.page.locator("#instances tr", has_text=url)
        expect(row.locator(".state")).to_have_text(state, timeout=DEADLINE)

    def said(self, text: str | re.Pattern[str]) -> None:
        """Wait until the line that is read aloud says so."""
        expect(self.page.get_by_role("status")).to_have_text(text, timeout=DEADLINE)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    page = browser.new_page()
    yield Visit(page)
    page.close()


def test_what_the_router_counts_is_shown_and_follows_what_happens(visit: Visit, browser: Browser) -> None:
    with (
        Backend("prefill") as prefill,
        Backend("a") as a,
        Backend("b") as b,
        Proxy([prefill.url], [a.url, b.url], "--health-failures", "1") as proxy,
    ):
        prefill.reply = Reply(params={"ticket": 1})
        visit.page.goto(proxy.url)
        visit.said("requests are prefilled and decoded apart")
        for _ in range(12):
            assert proxy.complete().status_code == 200
        proxy.client.post("/v1/completions", content=b"{")

        expect(visit.page.locator("tr", has_text=re.compile("^ok\\s*12")).first).to_be_visible(timeout=DEADLINE)
        assert visit.row("refused")[1] == "1"
        assert visit.row("disaggregated")[1] == "12"
        assert visit.row(prefill.url)[1:3] == ["prefill", "up"]
        assert [visit.row(one.url)[6] for one in (prefill, a, b)] == ["12", "6", "6"]
        tiles = visit.page.locator("#tiles").inner_text()
        assert re.search(r"First byte, median\s+[\d.]+ m?s", tiles), tiles
        assert re.search(r"Prefilled apart\s+100 %\s+12 of 12 in all", tiles), tiles
        assert re.search(r"Requests a second\s+0?[\d.]+\s+13 in all", tiles), tiles
        assert float(visit.row("ok")[2]) > 0

        b.health = 500
        visit.state(b.url, "down")
        assert "/health answered 500" in visit.row(f"{b.url} /health answered 500")[0]
        picture(browser, proxy, os.environ.get("KVDIRECT_SCREENSHOT"))
        prefill.stop()
        visit.said("no prefill instance is up: decode prefills")
        visit.state(prefill.url, "down")
        prefill.start()
        visit.said("requests are prefilled and decoded apart")
        visit.state(prefill.url, "up")

        assert {urlsplit(url).netloc for url in visit.asked} == {urlsplit(proxy.url).netloc}, "nobody else is asked"
        assert {urlsplit(url).path for url in visit.asked} == {"/", "/status", "/metrics"}
        assert not visit.complaints
    visit.said(re.compile("the router does not answer; what is shown is old"))


def picture(browser: Browser, proxy: Proxy, path: str | None) -> None:
    """As docs/router.md has it: some traffic, one instance that is down."""
    if path is None:
        return
    page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light")
    page.goto(proxy.url)
    for number in range(240):
        assert proxy.complete(stream=number % 3 == 0).status_code == 200
        page.wait_for_timeout(60 + 40 * (number // 40 % 2))
    page.wait_for_timeout(2500)
    page.screenshot(path=path, full_page=True)
    page.close()


def test_what_instances_are_called_and_say_is_text(visit: Visit) -> None:
    with (
        PlayedInstance(lambda _: [f"HTTP/1.1 {HOSTILE}\r\n\r\n".encode()]) as odd,
        Backend("decode") as decode,
        Proxy([f"http://127.0.0.1:9/{HOSTILE}", odd.url], [decode.url]) as proxy,
    ):
        visit.page.goto(proxy.url)
        visit.state("127.0.0.1:9", "down")
        shown = visit.page.locator("#instances")
        for instance in proxy.instances("prefill"):
            assert instance["url"] in shown.inner_text()
            assert instance["error"] in shown.inner_text()
        assert HOSTILE in proxy.instances("prefill")[0]["url"]

        def corrupt(route: Route) -> None:
            route.fulfill(body=route.fetch().text().replace('"error":"', f'"error":"{HOSTILE}'))

        visit.page.route("**/status", corrupt)
        expect(shown.get_by_text(HOSTILE + "Connection")).to_be_visible(timeout=DEADLINE)
        assert visit.page.locator("img").count() == 0
        assert visit.page.title() == "degraded - KVDirect router"
        assert not visit.complaints


def test_a_browser_runs_nothing_else_there(visit: Visit) -> None:
    """What the policy forbids even where something was smuggled in."""
    with Backend("decode") as decode, Proxy([decode.url], [decode.url]) as proxy:
        visit.page.goto(proxy.url)
        visit.said("requests are prefilled and decoded apart")
        visit.page.evaluate("""() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title = 'owned'\\">");
            fetch("http://127.0.0.1:9/").catch(() => 0);
        }""")
        visit.page.wait_for_timeout(500)
        assert visit.page.title() == "ok - KVDirect router"
        blocked = [text for text in visit.complaints if "Content Security Policy" in text]
        assert len(blocked) >= 3, visit.complaints


def test_it_needs_no_key_and_hides_no_call(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef\n")
    keys.chmod(0o600)
    with (
        Backend("decode") as decode,
        Proxy([decode.url], [decode.url], "--api-key-file", str(keys)) as proxy,
        httpx.Client(base_url=proxy.url, trust_env=False) as client,
    ):
        page = client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert client.get("/status").status_code == 200
        assert client.post("/v1/completions", json={"model": "m", "prompt": "p"}).status_code == 401
        assert client.post("/").status_code == 405
        assert client.get("/index.html").status_code == 404
        assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", page.text), "nothing from elsewhere"


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_it_without_sideways_scrolling(browser: Browser, width: int) -> None:
    with (
        PlayedInstance(lambda _: HEALTHY) as prefill,
        Backend("decode") as decode,
        Proxy([prefill.url], [decode.url]) as proxy,
    ):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
        page.goto(proxy.url)
        expect(page.locator("#instances tr")).to_have_count(2, timeout=DEADLINE)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        # What reads the page aloud is told which cells are headings, and of what.
        tables = page.get_by_role("table")
        assert tables.count() == 5
        for name in ("Instances", "How requests ended", "Tickets given back"):
            expect(page.get_by_role("table", name=name)).to_be_visible()
        assert page.locator("thead th:not([scope=col])").count() == 0
        assert page.locator("tbody th:not([scope=row])").count() == 0
        page.close()
