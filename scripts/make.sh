#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the compiled NMS in place. Without it the same results come from NumPy, more slowly.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/make.sh
Builds src/nms/cpu_nms.pyx with Cython and the C compiler; no CUDA is needed.
PYTHON is the interpreter to build for.
TEXT
}

want_arguments 0 "$@"
choose_python
cd "$ROOT"
exec "$PYTHON" -m src.nms.build "$@"
