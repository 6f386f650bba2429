#!/usr/bin/env bash
# Make an environment like a bare GPU machine, of tests/gpu/bare.txt: about 5 GB, and it trains on a
# CPU too. Quiet where it is up to date.
# Usage: scripts/bare_venv.sh FOLDER [PYTHON]
set -euo pipefail

say() { echo "bare venv: $*" >&2; }

if (($# < 1)); then
    say "usage: scripts/bare_venv.sh FOLDER [PYTHON]"
    exit 1
fi
venv=$1
python=${2:-}
pins=$(dirname "$0")/../tests/gpu/bare.txt

is_312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; }

if [[ -z $python ]]; then
    newest=$(printf '%s\n' ~/.pyenv/versions/3.12.*/bin/python3.12 | sort -V | tail -n 1)
    for python in python3.12 "$newest" ''; do
        [[ -z $python ]] || ! is_312 "$python" || break
    done
fi
if [[ -z $python ]] || ! is_312 "$python"; then
    say "it needs Python 3.12, and ${python:-none is found}${python:+ is not}: scripts/bare_venv.sh $venv PYTHON"
    exit 1
fi

cmp --silent "$pins" "$venv/.made-of" && exit
say "making $venv with $("$python" --version)"
"$python" -m venv --clear "$venv"
# Nothing but the pins: a dependency that the machine lacks would hide a wheel that the kit lacks.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --only-binary :all: --requirement "$pins"
cp "$pins" "$venv/.made-of"
