#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every check there is, but for the slow tests, in an environment it makes itself.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/scripts/environment.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_tests.sh [PYTEST ARGUMENTS]
Installs into .venv what is missing, builds, and runs ruff, mypy, shellcheck and pytest.
PYTHON is the interpreter to make .venv with (3.9 to 3.12), VENV another folder for it, MINDSPORE
another release of it than requirements.txt asks for. LINT=0 leaves all but pytest out.
TEXT
}

# check NAME COMMAND...: runs it, and remembers a failure for the end.
failed=()
check() {
  local name=$1
  shift
  printf '== %s\n' "$name"
  "$@" || failed+=("$name")
}

want_arguments 0 "$@"
make_environment requirements.txt requirements-dev.txt
choose_python
PATH=$VENV/bin:$PATH
cd "$ROOT"
build_extension

if [[ ${LINT:-1} != 0 ]]; then
  check "ruff check" ruff check .
  check "ruff format" ruff format --check .
  check "mypy" mypy
  check "shellcheck" shellcheck -x scripts/*.sh scripts/recipes/*.sh .ci/run
fi
# A process per core with xdist where there is memory for it: the largest network wants 8 GB.
cores=$(usable_cores)
workers=$cores
fitting=$(awk '/MemAvailable/ { print int($2 / 8000000) }' /proc/meminfo)
((workers <= fitting)) || workers=$((fitting > 0 ? fitting : 1))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / workers))}
check "pytest" python -m pytest -m "not slow" -n "$workers" --dist loadfile "$@"

if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[*]}" >&2
  exit 1
fi
printf 'All checks passed in %d s.\n' "$SECONDS"
