#!/bin/sh
# Builds the OpenBao server and command line for the tests, once per version:
#   target/openbao/VERSION/bao
# Prints the path on standard output; a no-op when the binary is there. The
# first build takes about four minutes and 2 GB of memory on two cores.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
go=$(command -v go || echo /usr/local/go/bin/go)
[ -x "$go" ] || { echo "go not found: install Go 1.24.6 or newer (https://go.dev/dl)" >&2; exit 127; }

# OpenBao's own tags are no valid Go versions, so go.mod names its commit; the
# release that it belongs to is the version of its api module.
version=$(sed -n 's|^[[:space:]]*github.com/openbao/openbao/api/v2 v\([^ ]*\).*|\1|p' "$here/go.mod")
folder=${CARGO_TARGET_DIR:-$here/../../target}/openbao/$version
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

if [ ! -x "$folder/bao" ]; then
    echo "building OpenBao $version (about four minutes, once)" >&2
    cd "$here"
    CGO_ENABLED=0 "$go" build -trimpath \
        -ldflags "-s -w -X github.com/openbao/openbao/version.fullVersion=$version" \
        -o "$folder/bao.$$" . >&2
    mv "$folder/bao.$$" "$folder/bao"
fi
echo "$folder/bao"
