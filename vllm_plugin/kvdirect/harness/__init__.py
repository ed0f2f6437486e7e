# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines as child processes, tiny models and completions: for the demo, the tests and the benchmark."""
