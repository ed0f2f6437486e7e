# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Names the targets; or has atheris feed one, with the arguments of libFuzzer: `python -m fuzz TARGET ...`."""

from __future__ import annotations

import sys


def main() -> int:
    if len(sys.argv) == 1:
        from .targets import TARGETS  # noqa: PLC0415  (imported only once atheris looks on)

        print("\n".join(TARGETS))
        return 0
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415  (only who fuzzes has it)

    with atheris.instrument_imports(include=["kvdirect"], enable_loader_override=False):
        from .targets import TARGETS  # noqa: PLC0415
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
