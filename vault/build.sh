#!/usr/bin/env bash
# Builds Vault from its pinned source module, for machines where neither a release nor an image can be fetched.
# Needs Go. vault/module/ is a module that requires Vault and pins it, and everything below it, by checksum.
#
#   vault/build.sh OUT_DIR
#
# Writes OUT_DIR/vault; nothing else.
set -euo pipefail
export GOWORK=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: vault/build.sh OUT_DIR}
# shellcheck source=vault/PINNED
. "$here/PINNED"
command -v go >/dev/null || { echo "vault/build.sh: Go ${GO_MINIMUM} or newer is needed (https://go.dev/doc/install)" >&2; exit 3; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
echo "vault/build.sh: fetching Vault ${VAULT_VERSION} (source)" >&2
cd "$here/module"
# -mod=readonly: a download that differs from go.sum is refused, and neither file is changed.
echo "packages: $(go list -mod=readonly -deps github.com/hashicorp/vault | wc -l)" >&2
echo "vault/build.sh: compiling (about 5 minutes on 2 cores)" >&2
trap 'rm -f "$out/.vault.new"' EXIT
CGO_ENABLED=0 go build -v -mod=readonly -trimpath -ldflags "-s -w" -o "$out/.vault.new" github.com/hashicorp/vault
mv -f "$out/.vault.new" "$out/vault"
echo "vault/build.sh: done: $out/vault" >&2
