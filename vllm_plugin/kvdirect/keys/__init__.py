# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Who an engine is and whom it talks to: a key of its own, and the public parts of others' keys."""
