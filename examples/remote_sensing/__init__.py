# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Optical and radar images matched: two processes compute features, a third one pulls them. See docs/matching.md."""

from __future__ import annotations
