#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Blood cells from the network for photographs: trains on trainval, scores on test.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/recipes/bccd_finetune.sh DATASET_PATH OUTPUT [FLAGS]
  DATASET_PATH  the BCCD data set, https://github.com/Shenggan/BCCD_Dataset (the folder BCCD)
  OUTPUT        folder for everything made
  FLAGS         handed to train.py after the recipe's own, e.g. --set random_seed=1
Trains m2det_finetune from weights/photos on the 292 images of trainval and scores the 72 of test.
DEVICE_TARGET=CPU|GPU|Ascend chooses the device, PYTHON is the interpreter.
TEXT
}

begin_recipe "$@"

# The scales of bccd.sh, with the usual six priors a cell; cells lie any way round. Boxes of the
# mirrored image vote, too.
recipe=(
  --config m2det_finetune
  --finetune photos
  --set experiment_tag=bccd
  --set 'anchors.scales=0.07,0.18,0.36,0.55,0.8'
  --set data.vertical_flip=true
  --set test.flip=true
  --set test.merge=soft_nms
)

train_recipe --split trainval "${recipe[@]}" "${@:3}"
score_recipe test
