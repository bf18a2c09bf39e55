#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Exports a checkpoint to MINDIR (or ONNX).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_export.sh DEVICE_ID CHECKPOINT_PATH [FLAGS]
  DEVICE_ID        number of the GPU; 0 on the CPU
  CHECKPOINT_PATH  .ckpt; the config.json beside it says what network it is
  FLAGS            handed to export.py, e.g. --file_format ONNX --output m2det.onnx,
                   --inputs image --outputs boxes --batch_size 0 --fold_batchnorm
DEVICE_TARGET=CPU|GPU|Ascend chooses the device, BACKGROUND=1 detaches, PYTHON is the interpreter.
The log is logs/export.log.
TEXT
}

want_arguments 2 "$@"
choose_python
device_flags "$1"
run_logged export "$PYTHON" "$ROOT/export.py" "${DEVICE_FLAGS[@]}" --checkpoint_path "$2" "${@:3}"
