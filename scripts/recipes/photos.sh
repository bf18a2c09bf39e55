#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Photographs: trains from an ImageNet backbone on train, scores on val.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/recipes/photos.sh DATASET_PATH OUTPUT [FLAGS]
  DATASET_PATH  photographs with boxes, as COCO or Pascal VOC, with train and val
  OUTPUT        folder for everything made
  FLAGS         handed to train.py after the recipe's own, e.g. --set train.total_steps=16000
Trains m2det_photos and scores it. BACKBONE is a ResNet-18 with ImageNet weights for convert.py
(.pth, .onnx, .npz); without one nothing is pretrained, and nothing frozen. PIXELS=rgb is for
.pth files of torchvision. Called again, it goes on where it was. DEVICE_TARGET=CPU|GPU|Ascend
chooses the device, PYTHON is the interpreter.
TEXT
}

[[ -z ${BACKBONE:-} ]] || BACKBONE=$(realpath -m -- "$BACKBONE")
begin_recipe "$@"

recipe=(--config m2det_photos --resume auto)
if [[ -n ${BACKBONE:-} ]]; then
  "$PYTHON" convert.py --input "$BACKBONE" --output "$OUT/backbone.ckpt" --config m2det_photos \
    ${PIXELS:+--pixels "$PIXELS"}
  recipe+=(--pretrained_backbone "$OUT/backbone.ckpt")
else
  recipe+=(
    --set train.freeze_stages=0
    --set train.freeze_batch_norm=none
    --set optimizer.backbone_lr=1
  )
fi

train_recipe "${recipe[@]}" "${@:3}"
score_recipe val
