# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a router costs: fake engines, a client with many requests open, and routers that take turns between them."""
