#!/usr/bin/env bash
# Gather the wheels that a bare GPU machine lacks, at most 40 MiB, so that tests/gpu runs there without
# network and engine: tests/gpu/wheels.txt names them, the locks pin them. Then install them
# into an environment like that machine and import both backends.
# Usage: scripts/gpu_kit.sh [--no-check] FOLDER
# Environment: BARE_VENV, the environment to check in (.bare-venv; made if missing, about 5 GB);
# GPU_KIT_LIMIT, in bytes.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

limit=${GPU_KIT_LIMIT:-$((40 << 20))}
bare_venv=$(realpath -m "${BARE_VENV:-$root/.bare-venv}")
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
names=$root/tests/gpu/wheels.txt
trl_lock=$root/images/trl/cuda.lock
unsloth_lock=$root/images/unsloth/cuda.lock

fail() {
    echo "gpu kit: $1" >&2
    exit 1
}

check=yes
if [[ ${1:-} == --no-check ]]; then
    check=no
    shift
fi
[[ $# == 1 && $1 != -* ]] || fail "usage: scripts/gpu_kit.sh [--no-check] FOLDER"
kit=$1

# The lines of a section of wheels.txt.
section() { awk -v wanted="[$1]" '/^\[/ { inside = $0 == wanted; next } inside && /^[^# ]/' "$names"; }

# The entries of a lock with these names, hashes included, comments not.
entries() {
    awk -v wanted=" ${*:2} " '
        /^[^ #]/ { split($1, pin, "=="); taken = index(wanted, " " pin[1] " ") }
        taken && !/^ *#/' "$1"
}

pins() { entries "$@" | awk '/==/ { print $1 }'; }

# The tags of Linux wheels for the glibc that the images have, and older.
platforms=(--platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64)
for minor in {5..28}; do
    platforms+=(--platform "manylinux_2_${minor}_x86_64")
done

# gather SECTION LOCK SUBFOLDER: download the section's wheels, repack some, and list them.
gather() {
    local lock=$2 into=$kit/$3 wanted name patterns wheel source
    mapfile -t wanted < <(section "$1")
    [[ ${#wanted[@]} -gt 0 ]] || fail "$names has no section [$1]"
    mkdir -p "$into" "$work/$1"
    entries "$lock" "${wanted[@]%% *}" >"$work/$1.txt"
    [[ $(grep -c == "$work/$1.txt") == "${#wanted[@]}" ]] ||
        fail "${lock#"$root/"} does not pin every name of [$1]"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --implementation cp --python-version 3.12 "${platforms[@]}" \
        --requirement "$work/$1.txt" --dest "$work/$1"
    for name in "${wanted[@]}"; do
        read -ra patterns <<<"$name"
        name=${patterns[0]//-/_}
        source=${lock#"$root/"}
        wheel=$(find "$work/$1" -name "$name-*.whl")
        if ((${#patterns[@]} > 1)); then
            source+=", without $("$python" "$root/scripts/repack_wheel.py" "$wheel" "$into" "${patterns[@]:1}")"
        else
            cp "$wheel" "$into"
        fi
        wheel=$into/${wheel##*/}
        printf '%s  %8d  %s  %s\n' "$(sha256sum "$wheel" | cut -d' ' -f1)" \
            "$(stat -c %s "$wheel")" "${wheel#"$kit/"}" "$source" >>"$work/CONTENTS"
    done
}

# left_out LOCK SECTION ...: what of a lock is not carried, and why.
left_out() {
    local lock=$1 carried section
    shift
    carried=$(for section in "$@"; do section "$section"; done | cut -d' ' -f1)
    awk -v carried="$carried" -v lock="${lock#"$root/"}" '
        BEGIN { split(carried, names, "\n"); for (n in names) taken[names[n]] }
        { split($1, pin, "==") }
        FILENAME ~ /bare.txt$/ && /^[^#]/ { there[pin[1]] = pin[2]; next }
        /^[^ #]/ && !(pin[1] in taken) {
            if (!(pin[1] in there)) unused = unused " " pin[1]
            else if (there[pin[1]] == pin[2]) same = same " " pin[1]
            else other = other " " pin[1] " " pin[2] " (" there[pin[1]] ");"
        }
        END {
            print "left out of " lock
            print "  nothing imports it:" unused
            print "  the machine has it:" same
            print "  the machine has another version:" other
        }' "$root/tests/gpu/bare.txt" "$lock" | fold -s -w 120
}

# check_imports BACKEND MODULE ...: in this order, as Unsloth patches what comes after it.
check_imports() {
    local backend=$1 modules
    shift
    modules=$(printf ', %s' "$@" aligntune_backend aligntune.training aligntune_run.cli.main)
    (
        cd "$work"
        PYTHONPATH=$work/targets/$backend:$root/shared:$root/launcher:$root/images/$backend \
            CUDA_VISIBLE_DEVICES='' UNSLOTH_DISABLE_STATISTICS=1 PYTHONDONTWRITEBYTECODE=1 \
            "$bare_venv/bin/python" -c "import ${modules#, }" >"$work/import.log" 2>&1
    ) || fail "$backend does not import: $(tail -n 1 "$work/import.log")"
    echo "imported for $backend: ${modules#, }"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for name in $(section common | cut -d' ' -f1); do
    [[ $(pins "$trl_lock" "$name") == "$(pins "$unsloth_lock" "$name")" ]] ||
        fail "the locks differ in $name, so it cannot be in [common] of tests/gpu/wheels.txt"
done

rm -rf "$kit/common" "$kit/trl" "$kit/unsloth" "$kit/CONTENTS"
gather common "$trl_lock" common
gather host "$root/tests/gpu/host.lock" common
gather trl "$trl_lock" trl
gather unsloth "$unsloth_lock" unsloth
size=$(awk '{ sum += $2 } END { print sum }' "$work/CONTENTS")
cat "$work/CONTENTS"
left_out "$trl_lock" common trl
left_out "$unsloth_lock" common unsloth
echo "$kit: $size bytes"
((size <= limit)) || fail "$size bytes are more than the limit of $limit"
# Written last: a folder with CONTENTS is whole.
mv "$work/CONTENTS" "$kit/CONTENTS"

[[ $check == yes ]] || exit 0
"$root/scripts/bare_venv.sh" "$bare_venv" ||
    fail "imports were not checked, which needs that environment; --no-check does without"
PYTHON=$bare_venv/bin/python "$root/scripts/gpu_kit_install.sh" "$kit" "$work/targets"
check_imports trl trl datasets peft bitsandbytes
check_imports unsloth unsloth trl datasets peft bitsandbytes
