#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains on several devices, of this machine or of several, one process (rank) each, through msrun.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_distributed_train_gpu.sh RANK_SIZE DEVICE_START PRETRAINED_BACKBONE \
         DATASET_PATH [FLAGS]
  RANK_SIZE            number of ranks on this machine
  DEVICE_START         first GPU; the ranks take this one and those after it; 0 on the CPU.
                       Where CUDA_VISIBLE_DEVICES (ASCEND_RT_VISIBLE_DEVICES) is set it counts
                       from 0 in that list, as Slurm makes one of what a job has
  PRETRAINED_BACKBONE  .ckpt made by convert_vgg.sh, or none
  DATASET_PATH         COCO or Pascal VOC folder
  FLAGS                handed to train.py, e.g. --config m2det320_vgg16 --set train.lr=1e-3
With several machines, run this on each, with the same MASTER_ADDR (address of the first), NNODES
(how many) and MASTER_PORT (8118 unless set), and NODE_RANK from 0. The data set must lie on each.
DEVICE_TARGET=CPU|GPU|Ascend chooses the devices, BACKGROUND=1 detaches, PYTHON is the interpreter.
The log is logs/train.log, those of the ranks are logs/train-DATE-TIME-PID/worker_RANK.log.
TEXT
}

want_arguments 4 "$@"
want_number RANK_SIZE "$1"
want_number DEVICE_START "$2"
((10#$1 > 0)) || die "RANK_SIZE must be at least 1"
choose_python
choose_device

# take_devices VARIABLE FIRST COUNT: exports COUNT devices from number FIRST on, of the list in
# VARIABLE where there is one.
take_devices() {
  local variable=$1 first=$2 count=$3 given
  if [[ -z ${!variable:-} ]]; then
    export "$variable=$(seq -s, "$first" $((first + count - 1)))"
    return
  fi
  IFS=, read -ra given <<<"${!variable}"
  ((first + count <= ${#given[@]})) ||
    die "$variable=${!variable}: $count from number $first on are wanted, of ${#given[@]} devices"
  export "$variable=$(IFS=, && printf '%s' "${given[*]:first:count}")"
}

ranks=$((10#$1)) start=$((10#$2))
if [[ $DEVICE_TARGET == CPU ]]; then
  # Ranks that all use all cores get in each other's way.
  threads=$(($(usable_cores) / ranks))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
elif [[ $DEVICE_TARGET == GPU ]]; then
  take_devices CUDA_VISIBLE_DEVICES "$start" "$ranks"
else
  take_devices ASCEND_RT_VISIBLE_DEVICES "$start" "$ranks"
fi

export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
run_logged train "$PYTHON" -m src.runtime.launch --ranks "$ranks" --log_dir "logs/train-$STAMP" \
  "$ROOT/train.py" --distribute --device_target "$DEVICE_TARGET" \
  --pretrained_backbone "$3" --dataset_path "$4" "${@:5}"
