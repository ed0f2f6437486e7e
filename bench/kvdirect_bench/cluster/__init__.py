# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Simulates serving clusters: vLLM's scheduler, a table of step times, shared links. See docs/simulation.md."""
