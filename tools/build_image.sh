#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Build deploy/Dockerfile without Docker, and serve the demo in the image:
#
#   tools/build_image.sh            # the base image from its registry
#   tools/build_image.sh debian     # the base image made from Debian's packages, under the name that the Dockerfile has
#
# Takes buildah, root, and for `debian` debootstrap; images and layers stay below build/image, which it empties first.
# What pip is configured to on this machine (indexes, folders of wheels) holds for the build too; the image keeps none.
set -euo pipefail

from=${1:-registry}
root=$PWD
work=$root/build/image
dockerfile=deploy/Dockerfile
name=localhost/kvdirect:test
base=$(awk '$1 == "FROM" { print $2; exit }' "$dockerfile")
suite=bookworm

for program in buildah $([ "$from" = debian ] && echo debootstrap); do
  command -v "$program" >/dev/null || { echo "$program is missing (Debian: apt-get install $program)" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "run it as root: a layer keeps its files' owners" >&2; exit 1; }

# A storage of its own: nobody's images are touched, and all of it goes with one folder. No mounts that need a kernel's
# permission: layers are copies, and steps run in a chroot.
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
in_storage() { local call=$1; shift; buildah --root "$work/storage" --runroot "$work/run" "$call" "$@"; }

rm -rf "$work"
mkdir -p "$work"

made_from_debian() {
  echo "== $base from Debian's packages"
  debootstrap --variant=minbase --include=ca-certificates,build-essential,python3-dev,python3-pip,python3-venv \
    "$suite" "$work/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" || {
      tail -20 "$work/debootstrap.log" >&2; exit 1; }
  # As the image of that name has it: `python` and `pip` are there, and may install.
  ln -s python3 "$work/root/usr/bin/python"
  rm -f "$work/root"/usr/lib/python3*/EXTERNALLY-MANAGED
  # A machine behind a proxy of its own trusts more than Debian does.
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
  local container
  container=$(in_storage from scratch)
  in_storage add --quiet "$container" "$work/root" / >/dev/null
  in_storage commit --quiet "$container" "docker.io/library/$base" >/dev/null
  in_storage rm "$container" >/dev/null
  rm -rf "$work/root"
}
[ "$from" != debian ] || made_from_debian

# pip's configuration, as a file that is there only while steps run, and what it names.
configuration=$work/pip.conf
python3 - >"$configuration" <<'PYTHON'
import os, subprocess, sys
found = {}
lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout.splitlines()
for line in lines:
    name, _, value = line.partition("=")
    section, _, key = name.partition(".")
    if section in ("global", "install", ":env:") and key not in ("cert", "target", "prefix", "user"):
        found[key] = value.strip("'\"").replace("\\n", " ")
print("[global]", *(f"{key} = {value}" for key, value in found.items()), sep="\n")
PYTHON
volumes=(--volume "$configuration:/etc/pip.conf:ro")
# An index of this machine has its files beside itself.
for path in $(grep -oE '(file://)?/[^ ]+' "$configuration" | sed -E 's|^file://(.*)/[^/]+/?$|\1|' | sort -u); do
  [ ! -e "$path" ] || volumes+=(--volume "$path:$path:ro")
done

echo "== $dockerfile on $base"
in_storage build --quiet --pull="$([ "$from" = debian ] && echo never || echo false)" --layers=false --network host \
  "${volumes[@]}" --file "$dockerfile" --ignorefile "$dockerfile.dockerignore" --tag "$name" . >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; exit 1; }

echo "== in the image"
container=$(in_storage from --pull=never "$name")
read -ra entry < <(in_storage inspect --type image --format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' "$name")
here() { in_storage run --network host "$container" -- "${entry[@]}" "$@"; }
here --version
here doctor
here proxy --help >/dev/null
here serve --help >/dev/null
echo "== the demo in the image: three engines and the router (some minutes)"
here demo
echo "the image works"
