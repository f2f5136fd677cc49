#!/usr/bin/env bash
# Resolves pyproject.toml into requirements.lock (what `serve` needs) and requirements-dev.lock (all).
# The files name hashes and no index, so that they mean the same wherever packages come from.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PIP_FIND_LINKS
compile=(.venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links)
"${compile[@]}" "$@" --output-file requirements.lock pyproject.toml
# The runtime's versions hold for development too.
"${compile[@]}" "$@" --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
