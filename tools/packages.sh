#!/bin/sh
# packages.sh NAME...: install Debian packages without asking anything. Needs root.
#
# The lists are fetched first, since a fresh image has none; a lock that another apt holds is waited for. Only errors show.

set -eu

export DEBIAN_FRONTEND=noninteractive
quietly="-qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120"
# shellcheck disable=SC2086  # the options are words
apt-get $quietly update >/dev/null
# shellcheck disable=SC2086
apt-get $quietly install --yes --no-install-recommends "$@" >/dev/null
