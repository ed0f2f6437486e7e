# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Measures pulls beside other ways to move the same blocks, in one interleaved run. See docs/benchmarks.md."""
