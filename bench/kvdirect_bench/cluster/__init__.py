# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Simulates serving clusters: vLLM's scheduler, step times from a table, transfers over shared links. See docs/simulation.md."""
