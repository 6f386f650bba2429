#!/bin/sh
# Put exactly what a lock names into the image's Python environment, every file checked by hash.
#
# The secrets are optional: "ca", the CA bundle of a proxy that inspects TLS, and "index", a shell
# fragment that says where packages come from (PIP_INDEX_URL, UV_DEFAULT_INDEX, UV_FIND_LINKS).
set -eu

secrets=/tmp/secrets
if [ -f $secrets/ca ]; then
    export SSL_CERT_FILE=$secrets/ca PIP_CERT=$secrets/ca
fi
if [ -f $secrets/index ]; then
    . $secrets/index
fi

case $1 in
tools)  # uv, which installs the rest; by the pip that Debian keeps as a wheel, run from that wheel
    pip=$(echo /usr/share/python-wheels/pip-*.whl)
    exec python3.11 "$pip/pip" install --quiet --target /tools \
        --no-deps --no-cache-dir --disable-pip-version-check --require-hashes \
        --only-binary :all: --root-user-action ignore --requirement "$2"
    ;;
lock)   # unsafe-best-match: with hashes, every index that has the file is as good as another
    [ -d "$VIRTUAL_ENV" ] || uv venv --quiet --python /usr/bin/python3.11 "$VIRTUAL_ENV"
    exec uv pip sync --require-hashes --only-binary :all: --index-strategy unsafe-best-match \
        --find-links "$(dirname "$2")" --compile-bytecode "$2"
    ;;
esac
