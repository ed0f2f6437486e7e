# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where processes leave what others need to find them: a folder of one user, a file for each name."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LOOK = 0.01  # seconds between two looks at a file that is awaited


class OfferFolder:
    """Offers of stores by name. They have secrets, so nobody else may enter the folder."""

    def __init__(self, folder: Path) -> None:
        """Use this folder, which is made if it is not there."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._seen: dict[str, tuple[int, int]] = {}

    def put(self, name: str, body: bytes) -> None:
        """Replace what is there; whoever looks has the old or the new."""
        part = self.folder / f".{name}.{os.getpid()}"
        part.touch(mode=0o600)
        part.write_bytes(body)
        part.replace(self.folder / name)

    def news(self, name: str) -> bytes | None:
        """What was put since this object last looked, or None; one look costs some microseconds."""
        path = self.folder / name
        try:
            found = path.stat()
            mark = (found.st_ino, found.st_mtime_ns)
            if self._seen.get(name) == mark:
                return None
            body = path.read_bytes()
        except FileNotFoundError:
            return None
        self._seen[name] = mark
        return body

    def forget(self, name: str) -> None:
        """What is there now is news again."""
        self._seen.pop(name, None)

    def wait(self, name: str, seconds: float) -> bytes:
        """What was put since this object last looked; TimeoutError if nothing is within that time."""
        deadline = time.monotonic() + seconds
        while (body := self.news(name)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {name} in {self.folder} within {seconds:g} s; did that process end?")
            time.sleep(LOOK)
        return body
