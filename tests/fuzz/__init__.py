# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What takes foreign bytes apart, fed with ever new ones by `make fuzz`, and with a corpus by `make test`."""
