#!/usr/bin/env bash
# Every check that needs no network and no running part. All of them run; each failure is listed at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
read -r -a folders <<<"${PYTHON_FOLDERS:-broker tests tools}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=()

check() {
  local name=$1
  shift
  if "$@" >"$scratch/output" 2>&1; then
    printf '  ok      %s\n' "$name"
  else
    printf '  FAILED  %s\n' "$name"
    sed 's/^/          /' "$scratch/output"
    failed+=("$name")
  fi
}

generated_is_current() {
  tools/generate.sh "$scratch/gen" || return
  local folder name
  for folder in broker/api/v1 broker/adapters/spire/api; do
    for name in "$scratch/gen/$folder"/*; do
      diff -u "$folder/$(basename "$name")" "$name" || { echo "run: make gen"; return 1; }
    done
    for name in "$folder"/*_pb2*; do
      [ -e "$scratch/gen/$name" ] || { echo "$name has no .proto any more"; return 1; }
    done
  done
}

schema_is_current() {
  tasklease catalog schema >"$scratch/schema.json" || return
  diff -u docs/catalog.schema.json "$scratch/schema.json" || { echo "run: make gen"; return 1; }
}

check "ruff check" ruff check "${folders[@]}"
check "ruff format" ruff format --check "${folders[@]}"
check "mypy --strict" mypy "${folders[@]}"
check "import rules" lint-imports --no-cache
check "wire: lint" buf lint
check "wire: nothing breaks" buf breaking --against proto/baseline.binpb
check "wire: generated code is current" generated_is_current
check "catalog: JSON Schema is current" schema_is_current
check "architecture: the table of transitions is current" python -m tools.lifecycle --check
check "catalog: the example is valid" tasklease catalog check examples/catalog
check "policies: the examples pass their tests" tasklease policy test examples/policies --catalog examples/catalog
check "repository: names, links, rules, commands" python tools/check_repository.py
if [ ${#failed[@]} -gt 0 ]; then
  printf 'check: %d failed: %s\n' "${#failed[@]}" "$(IFS=,; echo "${failed[*]}")" >&2
  exit 1
fi
echo "check: all passed"
