#!/usr/bin/env bash
# Generates the wire's Python from proto/ into OUT_DIR/broker/api/v1.
#
#   tools/generate.sh OUT_DIR
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: tools/generate.sh OUT_DIR}
mkdir -p "$out"
.venv/bin/python -m grpc_tools.protoc -I proto \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/broker/api/v1/*.proto
