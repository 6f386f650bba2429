#!/usr/bin/env bash
# Make sure that container tests can run: an engine that answers, a client that can build,
# debootstrap for where no registry can be reached, and a registry and compose to test against. As
# root on Debian what is missing is installed and started; elsewhere this says what is needed and
# fails. Quiet where there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${VENV:-.venv}/bin/python
wait_seconds=${ENGINE_WAIT:-60}
PATH=$PATH:/usr/sbin:/sbin

say() { echo "engine: $*" >&2; }

fail() {
    say "$1"
    say "$2"
    exit 1
}

# Both look with the launcher's own eyes, so what is found here is what the tests will use.
engine() {
    "$python" - <<'PYTHON'
import sys
from aligntune_run.host.docker_client import connect

client, reason = connect()
sys.exit(None if client else reason)
PYTHON
}

builder() {
    "$python" - <<'PYTHON'
import sys
from aligntune.errors import AligntuneError
from aligntune_run.images.builder import find_buildkit_client

try:
    find_buildkit_client()
except AligntuneError as error:
    sys.exit(str(error))
PYTHON
}

is_root() { [[ $(id -u) == 0 ]]; }
is_debian() { [[ -e /etc/debian_version ]] && command -v apt-get >/dev/null; }

install() {
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # --no-remove: docker.io conflicts with Docker's own packages, which are not ours to take away.
    apt-get -qq install --yes --no-install-recommends --no-remove "$@" >/dev/null
}

start() {
    local log=/var/log/aligntune-dockerd.log waited
    [[ -w ${log%/*} ]] || log=$(mktemp)
    if ! pgrep -x dockerd >/dev/null; then
        # Left by one that was killed, they would stop a new one should their numbers be in use.
        rm -f /run/docker.pid /run/docker/containerd/containerd.pid
    fi
    say "starting dockerd, which logs to $log"
    setsid --fork dockerd </dev/null >"$log" 2>&1
    for ((waited = 0; waited < wait_seconds; waited++)); do
        engine 2>/dev/null && return
        sleep 1
    done
    tail -n 20 "$log" >&2
    fail "dockerd does not answer after $wait_seconds s" "the lines above are the end of its log"
}

packages=()
lack=
if ! said=$(engine 2>&1); then
    lack=$said
    command -v dockerd >/dev/null || packages+=(docker.io)
fi
if [[ -n $lack && -n ${DOCKER_HOST:-}${DOCKER_CONTEXT:-} ]]; then
    fail "$lack" "start that engine, or unset DOCKER_HOST and DOCKER_CONTEXT"
fi
cannot_build=
if ! said=$(builder 2>&1); then
    cannot_build=$said
    packages+=(docker.io)
fi

tools=()
for tool in debootstrap docker-registry docker-compose; do
    command -v "$tool" >/dev/null || tools+=("$tool")
done
command -v cc >/dev/null || tools+=(gcc libc6-dev)

if is_root && is_debian; then
    packages+=("${tools[@]}")
    if ((${#packages[@]})); then
        install "${packages[@]}" ca-certificates
    fi
elif ((${#tools[@]})); then
    fail "the container tests need ${tools[*]}" "on Debian: apt-get install ${tools[*]}"
elif [[ -n $lack$cannot_build ]]; then
    fail "${lack:-$cannot_build}" "container tests need a running Docker or podman and a docker client \
with BuildKit; as root on Debian this script installs and starts them"
fi

# Installing may have started it, where systemd runs.
engine 2>/dev/null || start
