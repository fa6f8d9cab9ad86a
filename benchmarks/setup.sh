#!/bin/sh
# setup.sh PYTHON: what the benchmarks are held against (pmap, psutil) and built with (gcc), installed where it is missing;
# and dontneed as a user installs it, for what a cold command costs: no hooks of a developer's environment, and compiled.

set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

missing=
command -v pmap >/dev/null || missing="$missing procps"
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    echo "benchmarks: installing$missing" >&2
    # shellcheck disable=SC2086 # a list of names
    tools/packages.sh $missing || { echo "benchmarks: try: apt-get install$missing, as root" >&2; exit 1; }
fi

"$python" -m venv --clear build/benchmarks/installed
build/benchmarks/installed/bin/python -m pip install --quiet --disable-pip-version-check --no-deps .

"$python" -c 'import psutil' 2>/dev/null || "$python" -m pip install --quiet --disable-pip-version-check 'psutil>=6'
