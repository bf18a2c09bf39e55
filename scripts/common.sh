# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the other scripts share. Sourced by them, not run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STAMP=$(date +%Y%m%d-%H%M%S)-$$ # no two runs share a log

die() {
  printf '%s: %s\n' "${0##*/}" "$1" >&2
  exit 2
}

# want_arguments COUNT "$@": the script's usage text unless COUNT arguments come before any flag.
want_arguments() {
  local count=$1 index
  shift
  case ${1:-} in
    -h | --help)
      usage
      exit 0
      ;;
  esac
  for ((index = 1; index <= count; index++)); do
    if [[ -z ${!index:-} || ${!index} == -* ]]; then
      usage >&2
      exit 2
    fi
  done
}

want_number() {
  [[ $2 =~ ^[0-9]+$ ]] || die "$1 must be a whole number, not '$2'"
}

# Sets PYTHON: the caller's choice, an active environment, the project's own, or the system's.
choose_python() {
  if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
      PYTHON=$VIRTUAL_ENV/bin/python
    elif [[ -x $ROOT/.venv/bin/python ]]; then
      PYTHON=$ROOT/.venv/bin/python
    fi
  fi
  command -v "$PYTHON" >/dev/null || die "Python not found: $PYTHON"
  export PYTHON PYTHONUNBUFFERED=1
}

# Prints how many cores may be used: nproc knows no quotas of containers.
usable_cores() {
  PYTHONPATH=$ROOT "$PYTHON" -c 'from src.runtime.cpu_settings import usable_cores; print(usable_cores())'
}

# Sets DEVICE_TARGET to what the machine has, unless the caller has set it.
choose_device() {
  case ${DEVICE_TARGET:-} in
    CPU | GPU | Ascend) return ;;
    ?*) die "DEVICE_TARGET must be CPU, GPU or Ascend, not '$DEVICE_TARGET'" ;;
  esac
  if [[ -e /dev/nvidia0 ]] || nvidia-smi -L >/dev/null 2>&1; then
    DEVICE_TARGET=GPU
  elif [[ -e /dev/davinci0 ]]; then
    DEVICE_TARGET=Ascend
  else
    DEVICE_TARGET=CPU
    printf 'No GPU found: running on the CPU. DEVICE_TARGET=GPU insists on one.\n' >&2
  fi
}

# device_flags ID: sets DEVICE_FLAGS for train.py and the others. The CPU has no number.
device_flags() {
  want_number DEVICE_ID "$1"
  choose_device
  DEVICE_FLAGS=(--device_target "$DEVICE_TARGET")
  [[ $DEVICE_TARGET == CPU ]] || DEVICE_FLAGS+=(--device_id "$1")
}

# begin_recipe "$@": for the scripts of recipes/, called with DATASET_PATH and OUTPUT. Sets DATA and
# OUT to their full names, PYTHON and DEVICE_FLAGS, and goes to the project's folder.
begin_recipe() {
  want_arguments 2 "$@"
  choose_python
  device_flags 0
  DATA=$(realpath -m -- "$1") OUT=$(realpath -m -- "$2")
  cd "$ROOT" || die "cannot enter $ROOT"
}

# train_recipe FLAGS...: train.py on DATA into OUT/run; sets CHECKPOINT to the finished network: the
# newest there, as FLAGS may have named the run otherwise than one before.
train_recipe() {
  local final
  "$PYTHON" train.py "${DEVICE_FLAGS[@]}" --dataset_path "$DATA" --train_url "$OUT/run" "$@"
  CHECKPOINT=
  for final in "$OUT"/run/*/*-final.ckpt; do
    [[ -n $CHECKPOINT && ! $final -nt $CHECKPOINT ]] || CHECKPOINT=$final
  done
}

# score_recipe SPLIT: scores CHECKPOINT on a split of DATA, draws the curves, and says where all is.
score_recipe() {
  local run
  run=$(dirname "$CHECKPOINT")
  "$PYTHON" eval.py "${DEVICE_FLAGS[@]}" --checkpoint_path "$CHECKPOINT" --dataset_path "$DATA" \
    --split "$1" --output "$OUT/eval" --report
  "$PYTHON" -m src.drawing.plot_log "$run"
  cat <<TEXT

Done in $SECONDS s.
  checkpoint  $CHECKPOINT
  scores      $OUT/eval/metrics.json
  report      $OUT/eval/report.html
  curves      $run/log.png
TEXT
}

# run_logged NAME COMMAND...: becomes COMMAND, so that exit code and signals are its own. What it
# prints goes to the terminal and to a log of its own, which logs/NAME.log leads to. A progress bar
# goes to the terminal only: the log gets of each line what stands behind the last carriage return.
# With BACKGROUND=1 it is left running and logs/NAME.pid holds its number.
run_logged() {
  local name=$1 stem log
  shift
  mkdir -p logs || die "cannot write to $PWD/logs"
  stem=$name-$STAMP
  log=logs/$stem.log
  : >"$log" || die "cannot write $log"
  ln -sfn "$stem.log" "logs/$name.log"
  if [[ ${BACKGROUND:-0} == 1 ]]; then
    nohup "$@" >"$log" 2>&1 </dev/null &
    printf '%s\n' $! >"logs/$stem.pid"
    ln -sfn "$stem.pid" "logs/$name.pid"
    printf 'running in the background: PID %s, log %s\n' $! "$log"
    exit 0
  fi
  [[ ! -t 1 ]] || export M2DET_TERMINAL=1
  # tee outlives an interrupt, so that the last words are kept.
  exec "$@" > >(trap '' INT TERM && exec tee >(exec sed -u 's/.*\r//' >"$log")) 2>&1
}
