# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Graph learning with storage apart from training: stores hold rows, trainers fetch them by id while they compute.

`python -m graph` in the folder above runs it; docs/graph.md explains it.
"""
