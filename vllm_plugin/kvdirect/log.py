# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The plugin's logger: a child of vLLM's, so that its lines appear where vLLM's do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class _Named(logging.LoggerAdapter[logging.Logger]):
    """vLLM's format shows a file's name and not a logger's, so each line says whose it is."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"kvdirect: {msg}", kwargs


logger = _Named(logging.getLogger("vllm.kvdirect"))


def show_library_log() -> None:
    """Let kvtransfer, which is silent by default, log through vLLM's handlers."""
    library = logging.getLogger("kvtransfer")
    for handler in logging.getLogger("vllm").handlers:
        if handler not in library.handlers:
            library.addHandler(handler)
    library.setLevel(logger.getEffectiveLevel())
