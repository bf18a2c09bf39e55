#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on one device.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_standalone_train.sh DEVICE_ID PRETRAINED_BACKBONE DATASET_PATH [FLAGS]
  DEVICE_ID            number of the GPU; 0 on the CPU
  PRETRAINED_BACKBONE  .ckpt made by convert_vgg.sh, or none
  DATASET_PATH         COCO or Pascal VOC folder
  FLAGS                handed to train.py, e.g. --config m2det320_vgg16 --set train.lr=1e-3
DEVICE_TARGET=CPU|GPU|Ascend chooses the device, BACKGROUND=1 detaches, PYTHON is the interpreter.
The log is logs/train.log.
TEXT
}

want_arguments 3 "$@"
choose_python
device_flags "$1"
run_logged train "$PYTHON" "$ROOT/train.py" "${DEVICE_FLAGS[@]}" \
  --pretrained_backbone "$2" --dataset_path "$3" "${@:4}"
