#!/usr/bin/env bash
# Train on all cores of this machine: launch/local.sh [options of distnet.train]
#   RANKS=4 launch/local.sh --epochs 3               number of ranks; default: the number of cores
#   PYTHON=python3 launch/local.sh                   interpreter; default: the one that `make train` installed
#   launch/local.sh --checkpoint-dir runs/mine       checkpoint folder; run the same command again to resume
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
command -v "$python" >/dev/null || { echo "local.sh: no $python: run make train first, or set PYTHON" >&2; exit 2; }
cores=$(getconf _NPROCESSORS_ONLN)
ranks=${RANKS:-$(nproc 2>/dev/null || echo "$cores")}

export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # one BLAS thread per rank: ranks use the other cores
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe       # Open MPI: more ranks than cores, without a flag

# Bind ranks to cores only if they fill the machine. Otherwise, two runs would share the first cores.
# mpirun must belong to the MPI that this python loads: the one beside it, else the first on the PATH.
mpirun=$(dirname "$(command -v "$python")")/mpirun
[ -x "$mpirun" ] || mpirun=mpirun
if [ "$ranks" = "$cores" ] && [ "$(uname)" = Linux ]; then # macOS binds no process to a core
  case $("$mpirun" --version 2>/dev/null) in
    *"Open MPI"*) mpirun="$mpirun --bind-to hwthread:overload-allowed" ;;
    *) export HYDRA_BINDING=hwthread ;;
  esac
fi

# Each run has its own folder. A folder that is typed comes later and overrides it.
exec "$python" -m distnet.supervise -n "$ranks" --mpirun "$mpirun" -- \
  --checkpoint-dir "runs/$(date +%Y%m%d-%H%M%S)-$$" --resume "$@"
