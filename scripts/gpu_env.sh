# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sets CUDA_HOME and LD_LIBRARY_PATH so that MindSpore finds the CUDA libraries that
# requirements-gpu.txt has installed. To be sourced, by bash or zsh:
#   source scripts/gpu_env.sh
# PYTHON is the interpreter; by default that of the active environment, else of .venv, else python.

if [ -z "${BASH_VERSION:-}${ZSH_VERSION:-}" ]; then
  echo "gpu_env.sh: to be sourced by bash or zsh, not by sh" >&2
  return 2
fi

m2det_gpu_env() {
  local root settings python=${PYTHON:-}
  root=$(cd "$(dirname "$1")/.." && pwd) || return
  if [[ -z $python ]]; then
    python=python
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
      python=$VIRTUAL_ENV/bin/python
    elif [[ -x $root/.venv/bin/python ]]; then
      python=$root/.venv/bin/python
    fi
  fi
  settings=$(cd "$root" && "$python" -m src.runtime.gpu.libraries) || return
  eval "$settings"
}

if [[ -n ${BASH_VERSION:-} && ${BASH_SOURCE[0]} == "$0" ]]; then
  printf 'usage: source scripts/gpu_env.sh\n'
  exit 2
fi
m2det_gpu_env "${BASH_SOURCE[0]:-$0}"
