#!/usr/bin/env bash
# Gets the real parts and the container images, says what could not be had, and runs the whole suite.
# With TASKLEASE_CI=1 nothing may be missing and nothing may be skipped.
#
#   tools/test.sh [PYTEST ARGUMENT...]        TEST_WORKERS=2 at once
set -euo pipefail
cd "$(dirname "$0")/.."
trap 'tools/docker.sh down' EXIT

missing=()
without=""
echo "test: the real parts"
if ! .venv/bin/tasklease dev parts </dev/null; then
  missing+=("the real parts (SPIRE, Vault, PostgreSQL): tests/integration, tests/threats, tests/chaos and the containers")
  without=" and not integration and not containers and not threats and not chaos"
fi
if [ ${#missing[@]} -eq 0 ]; then
  echo "test: Docker and the local images"
  if ! { tools/docker.sh up && docker/build-local-images.sh </dev/null; }; then
    missing+=("Docker or the local images: tests marked containers")
    without=" and not containers"
  fi
fi

if [ ${#missing[@]} -gt 0 ]; then
  printf 'test: NOT TO BE HAD: %s\n' "${missing[@]}" >&2
  if [ "${TASKLEASE_CI:-}" = 1 ]; then
    echo "test: in CI nothing may be missing" >&2
    exit 1
  fi
fi
# Both workers have to see sets in the same order.
export PYTHONHASHSEED=${PYTHONHASHSEED:-$RANDOM}
echo "test: PYTHONHASHSEED=$PYTHONHASHSEED"
code=0
run() { # what is selected beside what is missing, and how
  local marks=$1
  shift
  local status=0
  .venv/bin/python -m pytest -m "$marks$without" "$@" </dev/null || status=$?
  [ $status -eq 0 ] || [ $status -eq 5 ] || code=$status # 5: none of the chosen tests is among these
}
if [ $# -gt 0 ]; then # what somebody asked for, as they asked for it
  .venv/bin/python -m pytest ${without:+-m "${without# and }"} "$@" </dev/null || code=$?
else
  run alone
  # Most of the others wait for real parts: two at a time take little more than half. What shares a stack has one worker.
  run "not alone" -n "${TEST_WORKERS:-2}" --dist loadgroup --no-loadscope-reorder --durations=15
fi
if [ ${#missing[@]} -gt 0 ]; then
  printf 'test: NOT RUN, for want of %s\n' "${missing[@]}" >&2
fi
exit $code
