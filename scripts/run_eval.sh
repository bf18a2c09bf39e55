#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Scores a checkpoint or an exported file: COCO and VOC numbers, by class, errors, speed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_eval.sh DEVICE_ID CHECKPOINT_PATH DATASET_PATH [FLAGS]
  DEVICE_ID        number of the GPU; 0 on the CPU
  CHECKPOINT_PATH  .ckpt, for which the config.json beside it says what network it is; or a
                   .mindir or .onnx file of export.py
  DATASET_PATH     COCO or Pascal VOC folder
  FLAGS            handed to eval.py, e.g. --split val --output eval_output --report
DEVICE_TARGET=CPU|GPU|Ascend chooses the device, BACKGROUND=1 detaches, PYTHON is the interpreter.
The log is logs/eval.log.
TEXT
}

want_arguments 3 "$@"
choose_python
device_flags "$1"
run_logged eval "$PYTHON" "$ROOT/eval.py" "${DEVICE_FLAGS[@]}" \
  --checkpoint_path "$2" --dataset_path "$3" "${@:4}"
