#!/usr/bin/env bash
# Sees to it that every image of docker-compose.yml is there: kept if present, pulled if that works, else built
# here under the same name from the pinned binaries and Debian's packages. Then the project's own images, which
# are built anew when their sources changed. Safe to repeat; quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cache=${TASKLEASE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tasklease}
images=$cache/images
mkdir -p "$images"
exec 9>"$images/lock"
flock 9 # two builds at once would disturb each other
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "images: $*"; }
has() { docker image inspect "$1" >/dev/null 2>&1; }
# Without the buildx plugin the newer client only has the classic builder, and asks to be told so. Its network is
# not needed: all that the Dockerfiles take was fetched, and checked by hash, before.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
build() { docker build --network none "$@" >"$work/build.log" 2>&1 || { tail -30 "$work/build.log" >&2; return 1; }; }

install_packages() { # COMMAND PACKAGE: where this is root on Debian
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "images: $1 is missing; install it (Debian: apt-get install $2)" >&2
    return 1
  fi
  say "installing $2"
  apt-get update -qq </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" </dev/null >/dev/null
}

binaries() { # PART VERSION: the cache's folder, filled by the part's own build where it has to be
  local folder=$cache/bin/$1-$2 first=$3
  if [ ! -x "$folder/$first" ]; then
    say "building $1 $2 (some minutes)" >&2
    "$1/build.sh" "$folder" >&2
  fi
  echo "$folder"
}

scratch() { # IMAGE BINARY FOLDER ENTRYPOINT...: the binary and the libraries that it names, and nothing else
  local image=$1 binary=$2 folder=$3 context=$work/scratch library
  shift 3
  rm -rf "$context" && mkdir -p "$context/root$folder" "$context/root/tmp" "$context/root/etc/ssl/certs"
  cp "$binary" "$context/root$folder/"
  { ldd "$binary" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r library; do
    install -D -m 0755 "$(readlink -f "$library")" "$context/root$library"
  done
  [ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$context/root/etc/ssl/certs/"
  printf 'FROM scratch\nCOPY root/ /\nENV PATH=%s\nENTRYPOINT [%s]\n' "$folder" "$(printf '"%s",' "$@" | sed 's/,$//')" \
    >"$context/Dockerfile"
  build -t "$image" "$context"
}

debian() { # NAME PACKAGES: a minimal Debian with these packages, in the cache
  local tar=$images/$1.tar
  if [ ! -s "$tar" ]; then
    install_packages mmdebstrap mmdebstrap >&2
    say "installing Debian bookworm with $2 (about a minute)" >&2
    mmdebstrap --quiet --format=tar --variant=minbase --include="$2" bookworm "$tar.new" >&2
    mv "$tar.new" "$tar"
  fi
  echo "$tar"
}

make_postgres() {
  local tar
  tar=$(debian postgres-15-bookworm ca-certificates,postgresql-15)
  mkdir "$work/postgres" && ln "$tar" "$work/postgres/root.tar" 2>/dev/null || cp "$tar" "$work/postgres/root.tar"
  cp docker/local/postgres-entrypoint.sh "$work/postgres/"
  build -t "$1" -f docker/local/postgres.Dockerfile "$work/postgres"
}

make_python() {
  local tar
  tar=$(debian python-3.11-bookworm ca-certificates,python3,python3-venv,python3-pip)
  mkdir "$work/python" && ln "$tar" "$work/python/root.tar" 2>/dev/null || cp "$tar" "$work/python/root.tar"
  build -t "$1" -f docker/local/python.Dockerfile "$work/python"
}

spire() { binaries spire 1.13.3 spire-server; }

make_image() {
  local name
  case $1 in
    ghcr.io/spiffe/oidc-discovery-provider:*) scratch "$1" "$(spire)/oidc-discovery-provider" /opt/spire/bin /opt/spire/bin/oidc-discovery-provider ;;
    ghcr.io/spiffe/*) name=${1#ghcr.io/spiffe/} name=${name%%:*}; scratch "$1" "$(spire)/$name" /opt/spire/bin "/opt/spire/bin/$name" run ;;
    hashicorp/vault:*) scratch "$1" "$(binaries vault 1.21.0 vault)/vault" /bin vault ;;
    postgres:*) make_postgres "$1" ;;
    python:*) make_python "$1" ;;
    *) echo "images: nobody knows how to build $1" >&2; return 1 ;;
  esac
}

# What of the locks an image needs, as wheels for its own Python, whatever Python this machine has. A file that is
# not in the lock, by hash, is refused.
wheels() {
  local key folder name
  key=$(cat requirements.lock requirements-dev.lock | sha256sum | cut -c1-16)
  folder=$images/wheels-$key
  if [ ! -e "$folder/.whole" ]; then
    say "fetching wheels" >&2
    for name in setuptools psycopg psycopg-binary; do
      awk -v wanted="$name==" '/^[a-z]/ {on = index($0, wanted) == 1} /^[ #]*#/ {next} on' requirements-dev.lock
    done >"$work/extra.lock"
    local pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check download --no-deps --require-hashes
      --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none
      --platform "manylinux_2_34_$(uname -m)" --platform "manylinux_2_28_$(uname -m)"
      --platform "manylinux_2_17_$(uname -m)" --platform "manylinux2014_$(uname -m)" -d "$folder")
    "${pip[@]}" -r requirements.lock >&2
    "${pip[@]}" -r "$work/extra.lock" >&2
    cp "$work/extra.lock" "$folder/extra.lock"
    touch "$folder/.whole"
  fi
  echo "$folder"
}

own() { # IMAGE DOCKERFILE BASE PATH...: built when the paths, the Dockerfile or an image below it changed
  local image=$1 file=$2 bases=$3 key context=$work/own base
  shift 3
  key=$({
    for base in $bases; do docker image inspect -f '{{.Id}}' "$base"; done
    find "$file" "$@" -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -c1-32)
  if [ "$(docker image inspect -f '{{index .Config.Labels "tasklease.sources"}}' "$image" 2>/dev/null)" = "$key" ]; then
    say "$image is current"
    return
  fi
  say "building $image"
  rm -rf "$context" && mkdir "$context"
  tar -c --exclude=__pycache__ "$@" | tar -x -C "$context"
  cp -R "$(wheels)" "$context/wheels"
  build -t "$image" --label "tasklease.sources=$key" -f "$file" "$context"
}

tools/docker.sh up 9>&- # a daemon that starts here must not keep the lock
if ! docker compose version >/dev/null 2>&1; then install_packages docker-compose docker-compose; fi
for image in \
  ghcr.io/spiffe/spire-server:1.13.3 ghcr.io/spiffe/spire-agent:1.13.3 ghcr.io/spiffe/oidc-discovery-provider:1.13.3 \
  hashicorp/vault:1.21.0 postgres:15-bookworm python:3.11-slim-bookworm; do
  if has "$image"; then
    say "$image is there"
  elif timeout "${TASKLEASE_PULL_TIMEOUT:-120}" docker pull --quiet "$image" >/dev/null 2>&1; then
    say "$image was pulled"
  else
    say "$image cannot be pulled: building it here"
    make_image "$image"
  fi
done
own tasklease/broker:dev docker/broker.Dockerfile python:3.11-slim-bookworm \
  pyproject.toml README.md LICENSE requirements.lock broker
own tasklease/agent:dev docker/agent.Dockerfile tasklease/broker:dev docker/agent requirements-dev.lock
own tasklease/bootstrap:dev docker/bootstrap.Dockerfile "tasklease/broker:dev ghcr.io/spiffe/spire-server:1.13.3" \
  docker/bootstrap.py vault/server.hcl vault/database examples/catalog examples/policies
say "all there"
