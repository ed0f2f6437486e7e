# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Failures that are told in one line; they name the offender and the way out."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark cannot go on."""

    status = 1


class BenchUsageError(BenchError):
    """The command line asks for something impossible."""

    status = 2


class WorkerError(BenchError):
    """A process of the benchmark failed, and said this."""
