#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the compiled NMS in place. Without it the same results come from NumPy, more slowly.
set -euo pipefail

usage() {
  cat <<TEXT
usage: bash scripts/make.sh
Builds src/nms/cpu_nms.pyx with Cython and the C compiler; no CUDA is needed.
PYTHON names the interpreter to build for (default: python3).
TEXT
}

case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m src.build "$@"
