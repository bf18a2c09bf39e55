#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes a data set as MindRecord files, for network disks.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/make_mindrecord.sh DATASET_PATH OUTPUT_PATH [SPLIT...] [--allow_links]
  DATASET_PATH  COCO or Pascal VOC folder
  OUTPUT_PATH   folder to write; it is then a DATASET_PATH like any other
  SPLIT         splits to write, all by default
  --allow_links follows links that lead out of DATASET_PATH
The images are kept byte for byte and in their order, a few large files for each split. PYTHON is
the interpreter.
TEXT
}

want_arguments 2 "$@"
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m src.data.make_mindrecord "$@"
