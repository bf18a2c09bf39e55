#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Learns the training images of a small COCO by heart, and says what keeps the rest out.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/recipes/coco_tiny.sh DATASET_PATH OUTPUT [FLAGS]
  DATASET_PATH  COCO folder of some hundred images at most, with train and val
  OUTPUT        folder for everything made
  FLAGS         handed to train.py after the recipe's own, e.g. --set train.total_steps=500
Trains on the images of train without augmentation, with anchors for small objects, then scores
train (which it has learned by heart) and val (which shows that it has), draws what it finds in
the training images, and prints what became of the objects of each size, with the network trained
and with a perfect one.
DEVICE_TARGET=CPU|GPU|Ascend chooses the device, PYTHON is the interpreter.
TEXT
}

begin_recipe "$@"

# Scales: check_data.py DATASET_PATH --suggest_anchors --config m2det_small on coco_tiny.
recipe=(
  --config m2det_small
  --set experiment_tag=coco_tiny
  --set 'anchors.scales=0.056,0.1197,0.2646,0.5237,0.912,1.05'
  --set data.augment=false
  --set optimizer.weight_decay=0
  --set train.total_steps=2000
  --set train.warmup=4
  --set train.save_epochs=10
  --set train.eval_times=0
  --set test.score_threshold=0.05
)

train_recipe "${recipe[@]}" "${@:3}"

for split in train val; do
  printf '\nScores on %s\n' "$split"
  "$PYTHON" eval.py "${DEVICE_FLAGS[@]}" --checkpoint_path "$CHECKPOINT" --dataset_path "$DATA" \
    --split "$split" --output "$OUT/eval_$split" --report
done

printf '\nWhat anchors and NMS alone keep out: the scores of a perfect network\n'
"$PYTHON" -m benchmarks.studies.ceiling --dataset_path "$DATA" "${recipe[@]}"

# The folder of the training images is where the data set has it.
images=$("$PYTHON" -c 'import sys
from pathlib import Path
from src.data.coco_utils import load_data
print(Path(load_data(Path(sys.argv[1]), "train").records[0].path).parent)' "$DATA")
rm -rf "$OUT/pictures"
"$PYTHON" demo.py "${DEVICE_FLAGS[@]}" --checkpoint_path "$CHECKPOINT" --input "$images" \
  --limit 16 --output "$OUT/pictures"

cat <<TEXT

Done in $SECONDS s.
  checkpoint  $CHECKPOINT
  training    $OUT/eval_train/report.html
  held out    $OUT/eval_val/report.html
  pictures    $OUT/pictures/*.png
TEXT
