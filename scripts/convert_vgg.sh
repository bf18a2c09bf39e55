#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Converts the pretrained VGG-16 of ssd.pytorch for training.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/convert_vgg.sh VGG_PTH [OUTPUT_CKPT] [FLAGS]
  VGG_PTH      vgg16_reducedfc.pth; any other backbone or M2Det model of PyTorch does too
  OUTPUT_CKPT  default: the same name beside it, ending in .ckpt
  FLAGS        handed to convert.py, e.g. --set model.input_size=512
PYTHON is the interpreter.
TEXT
}

want_arguments 1 "$@"
source_path=$1
shift
name=${source_path##*/} # dots of folders are no endings
output_path=${source_path%"$name"}${name%.*}.ckpt
if [[ -n ${1:-} && $1 != -* ]]; then
  output_path=$1
  shift
fi
choose_python
exec "$PYTHON" "$ROOT/convert.py" --input "$source_path" --output "$output_path" "$@"
