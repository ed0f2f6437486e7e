#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
#
# Programs of the system that tests start (tests/outside.py), where they are missing: a browser for the router's status
# page, and Prometheus for the dashboard and the alert rules. As root on Debian or Ubuntu they are installed. Elsewhere
# this only says so, and those tests are skipped by name.
set -euo pipefail

missing=()
for program in chromium prometheus promtool; do
  command -v "$program" > /dev/null || missing+=("$program")
done
[ ${#missing[@]} -eq 0 ] && exit 0
packages=$(printf '%s\n' "${missing[@]}" | sed 's/promtool/prometheus/' | sort -u | tr '\n' ' ')

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests that need ${missing[*]} will be skipped: apt-get install $packages"
  exit 0
fi
# Where systemd runs, Debian's package would start a Prometheus for good; that is not ours to do on somebody's machine.
if [ -d /run/systemd/system ] && [ -z "${KVDIRECT_CI:-}" ]; then
  echo "tests that need ${missing[*]} will be skipped: apt-get install $packages (which starts services), or set KVDIRECT_CI=1"
  exit 0
fi
echo "installing $packages"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  (a list of words)
apt-get install --quiet --yes --no-install-recommends $packages > /dev/null || {
  apt-get update --quiet > /dev/null
  apt-get install --quiet --yes --no-install-recommends $packages > /dev/null
}
