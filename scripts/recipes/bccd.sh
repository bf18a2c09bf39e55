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
Trains m2det_small without pretrained weights on the 292 images of trainval, scores the 72 of test
and draws some of them. DEVICE_TARGET=CPU|GPU|Ascend chooses the device, PYTHON is the interpreter.
TEXT
}

want_arguments 2 "$@"
choose_python
device_flags 0
data=$(realpath -m -- "$1") out=$(realpath -m -- "$2")
cd "$ROOT"

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

"$PYTHON" train.py "${DEVICE_FLAGS[@]}" --dataset_path "$data" --split trainval \
  --train_url "$out/run" "${recipe[@]}" "${@:3}"
finals=("$out"/run/*/*-final.ckpt)
checkpoint=${finals[0]}
"$PYTHON" eval.py "${DEVICE_FLAGS[@]}" --checkpoint_path "$checkpoint" --dataset_path "$data" \
  --split test --output "$out/eval" --report
"$PYTHON" -m src.plot_log "$(dirname "$checkpoint")"

cat <<TEXT

Done in $SECONDS s.
  checkpoint  $checkpoint
  scores      $out/eval/metrics.json
  report      $out/eval/report.html
  curves      $(dirname "$checkpoint")/log.png
TEXT
