# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The connector's half in the scheduler process: which leases are given, what is pulled, and when."""
