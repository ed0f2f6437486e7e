# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The `kvdirect` command and its sub-commands."""

from __future__ import annotations

from .main import main

__all__ = ["main"]
