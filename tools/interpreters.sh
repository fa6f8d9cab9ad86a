#!/bin/sh
# interpreters.sh: the CPythons on this machine that dontneed supports, a path a line, the oldest first.
#
# They are looked for on PATH and where pyenv keeps them, one of each version; standard error names those that are missing.
# A name alone proves nothing (pyenv leaves shims on PATH for versions that are not active), so each is asked what it is.

set -eu

supported="3.10 3.11 3.12 3.13"

# The interpreter behind the command $1, if that is a CPython $2 with a GIL.
path_of() {
    "$1" -c '
import os, sys, sysconfig
wanted = tuple(map(int, sys.argv[1].split(".")))
if sys.implementation.name != "cpython" or sys.version_info[:2] != wanted or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print(os.path.realpath(sys.executable))
' "$2" 2>/dev/null
}

find_version() {
    for candidate in "python$1" python3 "/usr/bin/python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        path_of "$candidate" "$1" && return
    done
    echo "dontneed: no CPython $1 here; going on with those there are" >&2
}

for version in $supported; do
    find_version "$version"
done
