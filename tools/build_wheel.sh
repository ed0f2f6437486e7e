#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Build sdist and wheel into dist/ without the network, from a wheelhouse that is filled first.
set -euo pipefail

python=$1
house=build/wheelhouse
limit=$((5 * 1024 * 1024))

mkdir -p "$house" dist
mapfile -t requires < <("$python" -c "
import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')")
"$python" -m pip download --quiet --dest "$house" "${requires[@]}" build
"$python" -m venv --clear build/wheel-env
build/wheel-env/bin/pip install --quiet --no-index --find-links "$house" build

export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/$house"
rm -f dist/kvdirect-*
build/wheel-env/bin/python -m build --outdir dist .

for file in dist/kvdirect-*.whl; do
  size=$(stat -c %s "$file")
  echo "$file: $size bytes"
  [ "$size" -le "$limit" ] || { echo "$file is larger than $limit bytes" >&2; exit 1; }
done
