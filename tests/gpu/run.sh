#!/usr/bin/env bash
# Everything that must be shown on a GPU, in one command: see README.md beside this file.
# Usage: tests/gpu/run.sh [--wheels FOLDER] [--rehearse] [--only STEPS] [--after STEP] [--output FOLDER]
# With wheels (default: gpu-kit, where it is) it needs no engine and no network, only Python 3.12 with
# torch; without, it runs in the images of this clone.
# Environment: PYTHON (python3), GPU_KIT_TARGETS, where the wheels are installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

wheels=
[[ ! -f $root/gpu-kit/CONTENTS ]] || wheels=$root/gpu-kit
given=()
while (($#)); do
    case $1 in
    --wheels)
        (($# > 1)) || { echo "error: --wheels needs a folder, made by scripts/gpu_kit.sh" >&2; exit 2; }
        wheels=$2
        shift
        ;;
    --wheels=*) wheels=${1#*=} ;;
    *) given+=("$1") ;;
    esac
    shift
done

python=${PYTHON:-python3}
paths=$root:$root/shared:$root/launcher
if [[ -n $wheels ]]; then
    targets=${GPU_KIT_TARGETS:-${TMPDIR:-/tmp}/aligntune-gpu-kit-$(id -u)}
    # Once for several calls: only a whole installation has CONTENTS, and it is of these wheels.
    if ! cmp --silent "$wheels/CONTENTS" "$targets/CONTENTS"; then
        PYTHON=$python "$root/scripts/gpu_kit_install.sh" "$wheels" "$targets" || exit 2
        cp "$wheels/CONTENTS" "$targets/CONTENTS"
    fi
    given+=("--packages=$targets")
    paths=$targets/trl:$paths
elif [[ -x $root/.venv/bin/python ]]; then
    python=$root/.venv/bin/python
else
    echo "error: there is neither a folder of wheels (scripts/gpu_kit.sh makes one; name it with" \
        "--wheels) nor this clone's environment (make images makes it)" >&2
    exit 2
fi
export PYTHONPATH=$paths
exec "$python" -m tests.gpu ${given[@]+"${given[@]}"}
