# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sets CUDA_HOME and LD_LIBRARY_PATH so that MindSpore finds the CUDA libraries that
# requirements-gpu.txt has installed. To be sourced, in the Python environment they are in:
#   source scripts/gpu_env.sh
# PYTHON is the interpreter (default: python).

m2det_gpu_env() {
  local root settings
  root=$(cd "$(dirname "$1")/.." && pwd) || return
  settings=$(cd "$root" && "${PYTHON:-python}" -m src.runtime.gpu.libraries) || return
  eval "$settings"
}

if [[ -n ${BASH_VERSION:-} && ${BASH_SOURCE[0]} == "$0" ]]; then
  printf 'usage: source scripts/gpu_env.sh\n'
  exit 2
fi
m2det_gpu_env "${BASH_SOURCE[0]:-$0}"
