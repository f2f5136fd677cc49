#!/usr/bin/env bash
# Builds Vault from its pinned source module, for machines where neither a release nor an image can be fetched.
# Needs Go. vault/build/ is a module that requires Vault and pins everything below it by checksum.
#
#   vault/build.sh OUT_DIR
#
# Writes OUT_DIR/vault; nothing else.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: vault/build.sh OUT_DIR}
# shellcheck source=vault/PINNED
. "$here/PINNED"
command -v go >/dev/null || { echo "vault/build.sh: Go ${GO_MINIMUM} or newer is needed" >&2; exit 3; }
mkdir -p "$out"
echo "vault/build.sh: fetching and compiling Vault ${VAULT_VERSION} (about 4 minutes on 2 cores)" >&2
cd "$here/build"
CGO_ENABLED=0 go build -mod=readonly -trimpath \
  -ldflags "-s -w" \
  -o "$out/.vault.new" github.com/hashicorp/vault
mv -f "$out/.vault.new" "$out/vault"
echo "vault/build.sh: done: $out/vault" >&2
