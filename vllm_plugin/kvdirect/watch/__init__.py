# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a running router and its engines say of themselves, read over HTTP and put together for a terminal."""
