#!/usr/bin/env bash
# Make the development environment and install this project into it, editable, with its tools.
# Usage: scripts/venv.sh FOLDER PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$1
python=$2

fail() {
    echo "setup: $1" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed and '$python' is not; name one: make PYTHON=python3.11"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [[ $(id -u) != 0 || ! -e /etc/debian_version ]]; then
        fail "'$python' cannot make environments; on Debian, as root: apt-get install $package"
    fi
    echo "setup: installing $package" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "$package" >/dev/null
fi

# An environment whose Python has gone, or that was never finished, is made again.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "setup: making $venv with $("$python" --version)" >&2
    "$python" -m venv --clear "$venv"
fi
echo "setup: installing aligntune-run and its tools" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
# An editable install is not compiled, and where PYTHONDONTWRITEBYTECODE is set never would be.
"$venv/bin/python" -m compileall -q launcher shared
