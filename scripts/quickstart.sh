#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Boxes on photographs, then from nothing to a trained, scored and exported detector, on data it
# draws itself.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/scripts/environment.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/quickstart.sh [FLAGS]
Installs into .venv, builds, and finds what is in the photographs of docs/photos, with the network
that comes along. Then it draws a data set of coloured shapes, trains m2det_tiny on it, scores it
on images it has not seen, exports MINDIR and draws what it finds. FLAGS go to train.py.
SHORT=1 trains a quarter as long, which is too short for good scores.
PYTHON is the interpreter to make .venv with (3.9 to 3.12), VENV another folder for it,
OUT the folder for everything made (default: quickstart), DEVICE_TARGET the device (CPU).
TEXT
}

step() {
  printf '\n[%d/8, %d s] %s\n' "$1" "$SECONDS" "$2"
}

case ${1:-} in -h | --help) want_arguments 0 "$@" ;; esac
out=${OUT:-quickstart}
[[ -z ${OUT:-} || $OUT == /* ]] || out=$PWD/$OUT
cd "$ROOT"
device=(--device_target "${DEVICE_TARGET:-CPU}")

step 1 "Python environment"
make_environment requirements.txt
choose_python

step 2 "Compiled NMS"
build_extension

step 3 "Photographs, with the network that comes along"
rm -rf "$out/photos"
"$PYTHON" demo.py "${device[@]}" --input docs/photos --output "$out/photos"

step 4 "Data set of shapes"
"$PYTHON" -m src.data.synthetic_shapes "$out/data"

[[ ${SHORT:-0} != 1 ]] || set -- --set train.total_epochs=2 "$@"
step 5 "Training; how long it takes here is said as soon as it runs (SHORT=1: a quarter)"
rm -rf "$out/run" "$out/eval" "$out/pictures"
"$PYTHON" train.py "${device[@]}" --config m2det_tiny --dataset_path "$out/data" \
  --train_url "$out/run" "$@"
finals=("$out"/run/*/*-final.ckpt)
checkpoint=${finals[0]}

step 6 "Scores on images it has not seen"
"$PYTHON" eval.py "${device[@]}" --checkpoint_path "$checkpoint" --dataset_path "$out/data" \
  --split val --output "$out/eval" --report

step 7 "MINDIR, written, loaded again and compared"
"$PYTHON" export.py "${device[@]}" --checkpoint_path "$checkpoint" --output "$out/m2det_tiny.mindir"

step 8 "Pictures"
"$PYTHON" demo.py "${device[@]}" --checkpoint_path "$checkpoint" --input "$out/data/val2017" \
  --limit 16 --output "$out/pictures"

ap=$("$PYTHON" -c 'import json, sys; print("%.3f" % json.load(open(sys.argv[1]))["AP"])' \
  "$out/eval/metrics.json")
cat <<TEXT

Done in $SECONDS s. AP (0.50:0.95) on images it has not seen: $ap
  checkpoint  $checkpoint
  scores      $out/eval/metrics.json
  report      $out/eval/report.html
  MINDIR      $out/m2det_tiny.mindir
  pictures    $out/pictures/*.png
  photographs $out/photos/*.png
TEXT
# Flags may well have asked for a shorter training.
if (($# == 0)) && ! awk -v ap="$ap" 'BEGIN { exit !(ap >= 0.5) }'; then
  die "AP is below 0.50: the network has not learned as it should"
fi
