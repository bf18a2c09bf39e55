# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Makes the project's own Python environment. Sourced by quickstart.sh and run_tests.sh, not run.
# VENV is its folder (default: .venv), PYTHON the interpreter to make it with, MINDSPORE a release
# to install instead of the one requirements.txt asks for.

VENV=${VENV:-$ROOT/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
[[ ${PYTHON:-} != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
VERSION_OK='import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))'
TORCH_CPU=https://download.pytorch.org/whl/cpu

# Prints the first interpreter that MindSpore has wheels for and that can make environments.
find_base_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.11 python3.12 python3.10 python3.9; do
    if "$candidate" -c "import ensurepip, venv; $VERSION_OK" >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
    [[ $candidate != "${PYTHON:-}" ]] || die "PYTHON=$PYTHON is no Python 3.9 to 3.12 with venv"
  done
  die "no Python 3.9 to 3.12 with venv found. On Debian or Ubuntu: apt install python3-venv. \
Another interpreter: PYTHON=/path/to/python3.11 bash $0"
}

# version_of PYTHON [MODULE]: e.g. 3.11; nothing if it does not run or lacks the module
version_of() {
  "$1" -c "import sys, ${2:-sys}; print('%d.%d' % sys.version_info[:2])" 2>/dev/null || true
}

# make_environment FILE...: VENV with the requirements files, and PYTHON set to its interpreter.
# Quick when they are the ones installed last time.
make_environment() {
  local base stamp wanted version
  version=$(version_of "$VENV/bin/python" pip) # none if it was left unfinished
  if [[ -z $version ]] || [[ -n ${PYTHON:-} && $version != $(version_of "$PYTHON") ]]; then
    base=$(find_base_python) || exit 2
    printf 'making %s with Python %s\n' "$VENV" "$(version_of "$base")"
    "$base" -m venv --clear "$VENV" || die "could not make $VENV"
  fi
  PYTHON=$VENV/bin/python
  stamp=$VENV/installed-$(basename "${@: -1}")
  wanted=$(cd "$ROOT" && sha256sum "$@" constraints.txt)${MINDSPORE:+ mindspore==$MINDSPORE}
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    printf 'installing %s; the first time takes some minutes\n' "$*"
    (cd "$ROOT" && install_requirements "$@") || die "pip could not install $*; see above"
    printf '%s\n' "$wanted" >"$stamp"
  fi
}

install_requirements() {
  local pins file prefix='' changes=() all=()
  local pip=("$PYTHON" -m pip install --disable-pip-version-check)
  # The versions of constraints.txt have wheels for this Python and belong to the usual MindSpore.
  if [[ -z ${MINDSPORE:-} && $(version_of "$PYTHON") == 3.11 ]]; then
    pip+=(-c constraints.txt)
  fi
  [[ -z ${MINDSPORE:-} ]] || changes+=(-e "s/^mindspore==.*/mindspore==$MINDSPORE/")
  mapfile -t pins < <(grep -h '^torch' "$@")
  if ((${#pins[@]})) && ! "${pip[@]}" --no-deps --retries 1 --timeout 20 \
    --index-url "$TORCH_CPU" "${pins[@]}"; then
    # PyPI's builds bring gigabytes of CUDA libraries, too much for what a few tests want.
    printf 'No CPU build of PyTorch can be had: tests that need it will be skipped.\n' >&2
    changes+=(-e '/^torch/d')
  fi
  if ((${#changes[@]})); then
    prefix=$VENV/requirements/ # all of them: they name each other
    mkdir -p "$prefix"
    for file in requirements*.txt; do
      sed "${changes[@]}" "$file" >"$prefix$file"
    done
  fi
  for file in "$@"; do
    all+=(-r "$prefix$file")
  done
  "${pip[@]}" "${all[@]}"
}

# The compiled NMS, or a word on why there is none: NumPy's gives the same results.
build_extension() {
  (cd "$ROOT" && PYTHON=$PYTHON bash scripts/make.sh) ||
    printf 'Going on without the compiled NMS; NumPy does the same more slowly.\n' >&2
}
