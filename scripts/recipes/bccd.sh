#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Blood cells from nothing: trains on trainval, scores on test.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/recipes/bccd.sh DATASET_PATH OUTPUT [FLAGS]
  DATASET_PATH  the BCCD data set, https://github.com/Shenggan/BCCD_Dataset (the folder BCCD)
  OUTPUT        folder for everything made
  FLAGS         handed to train.py after the recipe's own, e.g. --set random_seed=1
Trains m2det_small without pretrained weights on the 292 images of trainval and scores the 72 of
test. DEVICE_TARGET=CPU|GPU|Ascend chooses the device, PYTHON is the interpreter.
TEXT
}

begin_recipe "$@"

# Cells lie any way round, and none is longer than half of the image: four maps do. Platelets, red
# cells and white cells have a scale each, on the map whose cells are about a third as long.
recipe=(
  --config m2det_small
  --set experiment_tag=bccd
  --set model.num_scales=4
  --set 'anchors.scales=0.07,0.18,0.36,0.55,0.8'
  --set 'anchors.ratios=[[2.0]]'
  --set data.vertical_flip=true
  --set train.total_steps=2000
  --set test.score_threshold=0.01
)

train_recipe --split trainval "${recipe[@]}" "${@:3}"
score_recipe test
