#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What each choice of the recipe for blood cells is worth, and the original's recipe beside it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/recipes/bccd_choices.sh DATASET_PATH OUTPUT
  DATASET_PATH  the BCCD data set, https://github.com/Shenggan/BCCD_Dataset (the folder BCCD)
  OUTPUT        folder for everything made; runs found finished there are not repeated
Trains on train and scores on val, at 192 pixels: the recipe of bccd.sh with an average that fits
short runs, the same without each of its choices, and the original's recipe in PyTorch; and from
weights/photos, with the usual six priors a cell and two seeds, each choice that came after M2Det.
Prints three tables and draws a picture.
STEPS (300) is the length of each run, JOBS (as many as cores) how many share the machine, PYTHON
the interpreter.
TEXT
}

DEVICE_TARGET=CPU
begin_recipe "$@"
steps=${STEPS:-300}
jobs=${JOBS:-$(usable_cores)}
want_number STEPS "$steps"
want_number JOBS "$jobs"

common=(--set model.input_size=192 --set model.num_scales=4 --set test.score_threshold=0.01)
common+=(--set train.eval_times=0)
recipe=(
  "${common[@]}"
  --set 'anchors.scales=0.07,0.18,0.36,0.55,0.8'
  --set 'anchors.ratios=[[2.0]]'
  --set data.vertical_flip=true
  --set train.ema=0.99
)
"$PYTHON" -m benchmarks.studies.ablation --dataset_path "$DATA" --output "$OUT/ablation" --jobs "$jobs" \
  --steps "$steps" --config m2det_small "${recipe[@]}"

"$PYTHON" -m benchmarks.studies.ablation --dataset_path "$DATA" --output "$OUT/later" --jobs "$jobs" \
  --steps "$steps" --later --seeds 2 --config m2det_finetune --finetune photos \
  "${recipe[@]}" --set 'anchors.ratios=[[2.0,3.0]]' --set test.voting_iou=0

# The same network and steps the original's way. It has the usual anchors, so it stands beside ours
# with those.
if [[ ! -f $OUT/official/metrics.json ]]; then
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(usable_cores)} "$PYTHON" -m benchmarks.peers.official_recipe \
    --dataset_path "$DATA" --output "$OUT" --steps "$steps" --config m2det_small "${common[@]}" \
    --set experiment_tag=official
  finals=("$OUT"/official/*-final.ckpt)
  "$PYTHON" eval.py --checkpoint_path "${finals[0]}" --dataset_path "$DATA" --split val \
    --output "$OUT/official"
fi
"$PYTHON" -m benchmarks.studies.recipes "ours=$OUT/ablation/the_usual_anchors/run" \
  "official=$OUT/official" --output "$OUT/recipes.png"
