# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connector's half in a worker process: grants, pulls, and the engine that moves the bytes."""
