# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The client of demo and benchmark reads streams as they are sent, whatever text a model makes."""

from __future__ import annotations

import http.server
import json
import threading
from typing import TYPE_CHECKING

import pytest

from kvdirect.harness import http_client
from kvdirect.harness.completions import complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What Python's splitlines, and so httpx's iter_lines, takes for a line's end, and JSON may have in a string as it is;
# before it an escape, as models of random weights write them.
ENDS = "\x7f\x1f\u0085\u2028\u2029\u0001\u0085"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, int], str]]:
    """A server that answers everything with this, so many bytes at a time."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(answer: bytes, size: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                for at in range(0, len(answer), size):
                    self.wfile.write(answer[at : at + size])
                    self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_text_may_have_any_character(serve: Callable[[bytes, int], str], size: int) -> None:
    answer = (
        event(choices=[{"text": ENDS, "token_ids": [1, 2]}]).replace(b"\n\n", b"\r\n\r\n")
        + b": a comment\n\n"
        + event(choices=[{"text": f"data: {ENDS}", "token_ids": [3]}])
        + event(choices=[], usage={"prompt_tokens": 5})
        + b"data: [DONE]\n\n"
    )
    done = complete(serve(answer, size), "a", "r", timeout=10.0)
    assert (done.tokens, done.prompt_tokens) == ((1, 2, 3), 5)


def test_a_line_without_an_end_is_not_kept(serve: Callable[[bytes, int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_LONGEST_LINE", 1000)
    with pytest.raises(ValueError, match="sent a line of more than 1000 bytes"):
        complete(serve(b"data: " + b"x" * 5000, 1 << 20), "a", "r", timeout=10.0)
