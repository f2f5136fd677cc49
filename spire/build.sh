#!/usr/bin/env bash
# Builds SPIRE's three binaries from the pinned source module, for machines where
# neither a release nor an image can be fetched. Needs Go and a C compiler.
#
#   spire/build.sh OUT_DIR
#
# Writes OUT_DIR/{spire-server,spire-agent,oidc-discovery-provider}; nothing else.
# The module's checksum is pinned in spire/PINNED; a download that differs is refused.
set -euo pipefail
export GOWORK=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: spire/build.sh OUT_DIR}
# shellcheck source=spire/PINNED
. "$here/PINNED"
command -v go >/dev/null || { echo "spire/build.sh: Go ${GO_MINIMUM} or newer is needed (https://go.dev/doc/install)" >&2; exit 3; }
if ! command -v cc >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "spire/build.sh: installing a C compiler" >&2
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev </dev/null >/dev/null
fi
command -v cc >/dev/null || { echo "spire/build.sh: a C compiler is needed (Debian: apt-get install gcc)" >&2; exit 3; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
echo "spire/build.sh: fetching SPIRE ${SPIRE_VERSION} (source)" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
download=$(go mod download -json "github.com/spiffe/spire@v${SPIRE_VERSION}")
field() { printf '%s' "$download" | sed -n "s/^[[:space:]]*\"$1\": \"\\(.*\\)\",\\{0,1\\}\$/\\1/p"; }
dir=$(field Dir)
sum=$(field Sum)
if [ "$sum" != "$SPIRE_SUM" ]; then
  echo "spire/build.sh: checksum of the downloaded module is $sum, pinned is $SPIRE_SUM" >&2
  exit 4
fi
packages=(./cmd/spire-server ./cmd/spire-agent ./support/oidc-discovery-provider)
cd "$dir"
echo "packages: $(CGO_ENABLED=1 go list -deps "${packages[@]}" | wc -l)" >&2
echo "spire/build.sh: compiling (about 5 minutes on 2 cores)" >&2
CGO_ENABLED=1 go build -v -trimpath -ldflags "-s -w" -o "$work/out/" "${packages[@]}"
for binary in spire-server spire-agent oidc-discovery-provider; do
  install -m 0755 "$work/out/$binary" "$out/.$binary.new"
  mv -f "$out/.$binary.new" "$out/$binary"
done
echo "spire/build.sh: done: $out" >&2
