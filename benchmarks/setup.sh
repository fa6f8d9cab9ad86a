#!/bin/sh
# setup.sh PYTHON: what the benchmarks are held against (pmap, psutil, smem, vmtouch, fincore), built with (gcc) and
# trace (node, redis), installed where it is missing;
# dontneed as a user installs it, with numpy, for what a cold command costs: no hooks of a developer's environment, and
# compiled;
# and the real programs whose memory is released, in an environment of their own, which knows nothing of dontneed.

set -eu
cd "$(dirname "$0")/.."
python=${1:-python3}

missing=
command -v pmap >/dev/null || missing="$missing procps"
command -v smem >/dev/null || missing="$missing smem"
command -v vmtouch >/dev/null || missing="$missing vmtouch"
command -v fincore >/dev/null || missing="$missing util-linux-extra"
command -v gcc >/dev/null || missing="$missing gcc libc6-dev"
command -v node >/dev/null || missing="$missing nodejs"
command -v redis-server >/dev/null || missing="$missing redis-server"
if [ -n "$missing" ]; then
    echo "benchmarks: installing$missing" >&2
    # shellcheck disable=SC2086 # a list of names
    tools/packages.sh $missing || { echo "benchmarks: try: apt-get install$missing, as root" >&2; exit 1; }
    case $missing in *redis-server*)  # for a server of our own: none is to run as a service
        ! command -v systemctl >/dev/null || systemctl disable --now redis-server >/dev/null 2>&1 || true
        ;;
    esac
fi

"$python" -m venv --clear build/benchmarks/installed
build/benchmarks/installed/bin/python -m pip install --quiet --disable-pip-version-check .

"$python" -c 'import psutil' 2>/dev/null || "$python" -m pip install --quiet --disable-pip-version-check 'psutil>=6'

# Installed once, and anew when this list or the Python changes.
services='pandas>=2.2,<4 scikit-learn>=1.5,<2 distributed>=2024.8 gunicorn>=22,<26 flask>=3,<4'
stamp="$services with $("$python" -V)"
if [ "$(cat build/benchmarks/services/stamp 2>/dev/null)" != "$stamp" ]; then
    echo "benchmarks: installing pandas, scikit-learn, distributed, gunicorn and flask into build/benchmarks/services" >&2
    "$python" -m venv --clear build/benchmarks/services
    # shellcheck disable=SC2086 # a list of names
    build/benchmarks/services/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: $services
    echo "$stamp" >build/benchmarks/services/stamp
fi
