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
Trains on train and scores on val, at 192 pixels: the recipe of bccd.sh, the same without each of
its choices, and the original's recipe in PyTorch. Prints two tables and draws a picture.
STEPS (400) is the length of each run, JOBS (as many as cores) how many share the machine, PYTHON
the interpreter.
TEXT
}

DEVICE_TARGET=CPU
begin_recipe "$@"
steps=${STEPS:-400}
jobs=${JOBS:-$(usable_cores)}
want_number STEPS "$steps"
want_number JOBS "$jobs"

common=(--set model.input_size=192 --set model.num_scales=4 --set test.score_threshold=0.01)
recipe=(
  "${common[@]}"
  --set 'anchors.scales=0.07,0.18,0.36,0.55,0.8'
  --set 'anchors.ratios=[[2.0]]'
  --set data.vertical_flip=true
  --set train.ema=0.99
)
"$PYTHON" -m benchmarks.ablation --dataset_path "$DATA" --output "$OUT/ablation" --jobs "$jobs" \
  --steps "$steps" --config m2det_small "${recipe[@]}"

# The original has six priors in a cell, so ours gets them here as well. Both are scored on the way.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(usable_cores)}
both=(--dataset_path "$DATA" --config m2det_small)

# compared NAME COMMAND...: trains with it, and scores what it leaves in OUT/NAME
compared() {
  local name=$1 finals
  shift
  [[ ! -f $OUT/$name/metrics.json ]] || return 0
  "$PYTHON" "$@" "${both[@]}" --set train.eval_epochs=2 --set "experiment_tag=$name" \
    --set "train.total_steps=$steps"
  finals=("$OUT/$name"/*-final.ckpt)
  "$PYTHON" eval.py --checkpoint_path "${finals[0]}" --dataset_path "$DATA" --split val \
    --output "$OUT/$name"
}

compared ours train.py --train_url "$OUT" "${recipe[@]}" --set 'anchors.ratios=[[2.0,3.0]]'
compared official -m benchmarks.official_recipe --output "$OUT" "${common[@]}"
"$PYTHON" -m benchmarks.recipes "ours=$OUT/ours" "official=$OUT/official" \
  --output "$OUT/recipes.png"
