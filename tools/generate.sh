#!/usr/bin/env bash
# Generates the wire's Python from proto/ into OUT_DIR/broker/api/v1, and what is called of SPIRE's from spire/proto/
# into OUT_DIR/broker/adapters/spire/api.
#
#   tools/generate.sh OUT_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: tools/generate.sh OUT_DIR}
mkdir -p "$out"
for root in proto spire/proto; do
  find "$root" -name '*.proto' -print0 | sort -z | xargs -0 .venv/bin/python -m grpc_tools.protoc -I "$root" \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out"
done
