#!/usr/bin/env bash
# Makes .venv from requirements-dev.lock: every file is checked against its hash.
# Run by make when the lock or pyproject.toml is newer than .venv/.ready.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local name
  for name in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    [ -n "$name" ] && command -v "$name" >/dev/null || continue
    # The path of the interpreter itself, so that no version manager's shim ends up in the environment.
    "$name" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' 2>/dev/null && return
  done
  return 1
}

if ! python=$(find_python); then
  echo "setup: Python 3.11 or newer is needed; name one with PYTHON=/path/to/python" >&2
  exit 3
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing python3-venv" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv </dev/null >/dev/null
  else
    echo "setup: $python has no venv; install it (Debian: apt-get install python3-venv)" >&2
    exit 3
  fi
fi

rm -f .venv/.ready
if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "setup: making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
echo "setup: installing $(grep -c '==' requirements-dev.lock) packages, each checked by hash"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
echo "setup: installing tasklease itself, editable"
PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
touch .venv/.ready
