#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tests that take minutes, in the environment of run_tests.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/scripts/environment.sh"

usage() {
  cat <<'TEXT'
usage: bash scripts/run_slow_tests.sh [PYTEST ARGUMENTS]
Installs into .venv what is missing, builds, and runs the tests marked slow.
PYTHON is the interpreter to make .venv with (3.9 to 3.12), VENV another folder for it.
TEXT
}

want_arguments 0 "$@"
make_environment requirements.txt requirements-dev.txt
choose_python
cd "$ROOT"
build_extension
PATH=$VENV/bin:$PATH exec python -m pytest -m slow "$@"
