#!/bin/sh
# environment.sh PYTHON DIRECTORY [EXTRA]: a virtual environment in DIRECTORY with this checkout installed in it, editable,
# and the optional dependencies EXTRA of pyproject.toml ("dev") when they are asked for.
#
# It works from a bare Debian: there `python3 -m venv` exists but cannot make pip, because Debian keeps ensurepip in a
# package of its own. As root that package is installed; otherwise the one command to run is named.

set -eu

python=$1
directory=$2
extra=${3:-}

fail() {
    echo "dontneed: $1" >&2
    exit 1
}

supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

install_ensurepip() {
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    hint="try: apt-get install $package, as root; or name another Python with PYTHON=/path/to/python"
    [ "$(id -u)" = 0 ] || fail "$python cannot make virtual environments, for it comes without ensurepip; $hint"
    command -v apt-get >/dev/null || fail "$python comes without ensurepip, and this system without apt-get; $hint"
    echo "dontneed: installing $package, which $python needs to make virtual environments" >&2
    tools/packages.sh "$package" || fail "apt-get could not install $package; $hint"
}

make_environment() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_ensurepip
    rm -rf "$directory"
    "$python" -m venv "$directory" || fail "$python -m venv $directory failed, for the reason above"
}

cd "$(dirname "$0")/.."
supported "$python" || fail "$python is no Python 3.10 or newer; name one with PYTHON=/path/to/python"
# An environment whose interpreter was upgraded or removed since is made anew.
supported "$directory/bin/python" || make_environment
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" ||
    fail "pip could not install what pyproject.toml asks for, for the reason above; it needs the network once"
