#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests with several releases of MindSpore and Python, one after the other.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/test_matrix.sh [MINDSPORE:PYTHON...] [-- PYTEST ARGUMENTS]
  MINDSPORE:PYTHON  releases to test; default: 2.8.0:3.11 2.10.0:3.12 2.7.2:3.9
  PYTEST ARGUMENTS  e.g. the tests to run; default: all but the slow ones
Each pair has an environment of its own, .matrix/MINDSPORE-pyPYTHON, made the first time, and a log
beside it. A table of the results comes last; exit code 1 if one has failed. Interpreters are looked
for as python3.X and in pyenv's folder. MATRIX is another folder for the environments.
TEXT
}

# find_python VERSION: prints an interpreter of it that can make environments, or nothing.
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python python3; do
    if "$candidate" -c "import ensurepip, sys, venv
sys.exit('%d.%d' % sys.version_info[:2] != '$1')" >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
}

# test_one MINDSPORE PYTHON INTERPRETER [PYTEST ARGUMENTS]: adds a row to the table.
test_one() {
  local name=$1-py$2 result=ok began=$SECONDS summary passed failed skipped
  local log=$matrix/$name.log
  printf '\n== MindSpore %s, Python %s\n' "$1" "$2"
  VENV=$matrix/$name MINDSPORE=$1 PYTHON=$3 LINT=0 bash "$ROOT/scripts/run_tests.sh" "${@:4}" \
    2>&1 | tee "$log" || result=FAILED
  summary=$(grep -E '(passed|failed|skipped|errors?).* in [0-9.]+s' "$log" | tail -1) || true
  passed=$(count "$summary" passed)
  failed=$(($(count "$summary" failed) + $(count "$summary" error)))
  skipped=$(count "$summary" skipped)
  ((passed)) || result=FAILED # MindSpore may die with exit code 0
  rows+=("$(printf '%-10s %-7s %-7s %7d %7d %8d %8d' \
    "$1" "$2" "$result" "$passed" "$failed" "$skipped" $((SECONDS - began)))")
  [[ $result == ok ]] || code=1
}

# count SUMMARY WORD: the number before WORD in pytest's last line, 0 if it is not there
count() {
  [[ $1 =~ ([0-9]+)\ $2 ]] && printf '%d' "${BASH_REMATCH[1]}" || printf 0
}

want_arguments 0 "$@"
pairs=()
while (($#)) && [[ $1 != -- ]]; do
  [[ $1 =~ ^([0-9]+\.[0-9]+\.[0-9a-z.]+):(3\.[0-9]+)$ ]] ||
    die "expected MINDSPORE:PYTHON, for example 2.8.0:3.11, not '$1'"
  pairs+=("$1")
  shift
done
(($# == 0)) || shift # the --
((${#pairs[@]})) || pairs=(2.8.0:3.11 2.10.0:3.12 2.7.2:3.9)

matrix=${MATRIX:-$ROOT/.matrix}
[[ $matrix == /* ]] || matrix=$PWD/$matrix
interpreters=() # all of them before the first run, which takes minutes
for pair in "${pairs[@]}"; do
  interpreter=$(find_python "${pair#*:}")
  [[ -n $interpreter ]] || die "no Python ${pair#*:} with venv found, which $pair needs"
  interpreters+=("$interpreter")
done
mkdir -p "$matrix"

rows=() code=0
for index in "${!pairs[@]}"; do
  test_one "${pairs[index]%:*}" "${pairs[index]#*:}" "${interpreters[index]}" "$@"
done
printf '\n%-10s %-7s %-7s %7s %7s %8s %8s\n' MindSpore Python result passed failed skipped seconds
printf '%s\n' "${rows[@]}"
exit "$code"
