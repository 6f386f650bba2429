#!/usr/bin/env bash
# Install what scripts/gpu_kit.sh gathered, without network: a folder per backend, to be put on PYTHONPATH.
# Usage: scripts/gpu_kit_install.sh FOLDER TARGETS [BACKEND ...]     (makes TARGETS/trl, TARGETS/unsloth)
# Environment: PYTHON, whose packages it adds to (python3).
set -euo pipefail

fail() {
    echo "gpu kit: $1" >&2
    exit 1
}

(($# >= 2)) || fail "usage: scripts/gpu_kit_install.sh FOLDER TARGETS [BACKEND ...]"
kit=${1%/}
targets=$2
shift 2
python=${PYTHON:-python3}

[[ -f $kit/CONTENTS ]] || fail "$kit has no CONTENTS; make it with scripts/gpu_kit.sh $kit"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null ||
    fail "the wheels are for Python 3.12, and $python is $("$python" --version 2>&1 || true)"
"$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' ||
    fail "$python has no torch, which the kit does not carry"

while read -r digest _ wheel _; do
    [[ -f $kit/$wheel ]] || fail "$wheel is missing from $kit"
    [[ $(sha256sum <"$kit/$wheel") == "$digest  -" ]] ||
        fail "$wheel in $kit is damaged: its sha256 is not the one in CONTENTS"
done <"$kit/CONTENTS"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
(($#)) || set -- trl unsloth
for backend in "$@"; do
    target=$targets/$backend
    mapfile -t wheels < <(awk '{ print $3 }' "$kit/CONTENTS" | grep -E "^(common|$backend)/")
    rm -rf "$target"
    if ! "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-compile --target "$target" "${wheels[@]/#/$kit/}" >"$log" 2>&1; then
        rm -rf "$target"
        ! grep -q 'No space left' "$log" || fail "the disk is full: $backend does not fit in $targets"
        fail "pip cannot install $backend: $(tail -n 1 "$log")"
    fi
    echo "installed ${#wheels[@]} wheels into $target"
done
