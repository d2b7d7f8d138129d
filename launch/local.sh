#!/usr/bin/env bash
# Train on all cores of this machine: launch/local.sh [options of distnet.train]
#   RANKS=4 launch/local.sh --epochs 3               ranks; the number of cores where it isn't set
#   PYTHON=python3 launch/local.sh                   where distnet is installed; what `make train` made where it isn't set
#   launch/local.sh --checkpoint-dir runs/mine       a folder for its checkpoints: the same again goes on from there
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
command -v "$python" >/dev/null || { echo "local.sh: no $python: run make train first, or set PYTHON" >&2; exit 2; }
cores=$(getconf _NPROCESSORS_ONLN)
ranks=${RANKS:-$(nproc 2>/dev/null || echo "$cores")}

export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 # a BLAS thread a rank: ranks are for the other cores
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe       # Open MPI: more ranks than cores, without a flag

# A rank stays on its core where they take the whole machine. Fewer may run beside others, on the same first cores.
# The mpirun has to belong to the MPI which this python loads: the one beside it, else the first on the PATH.
mpirun=$(dirname "$(command -v "$python")")/mpirun
[ -x "$mpirun" ] || mpirun=mpirun
if [ "$ranks" = "$cores" ]; then
  case $("$mpirun" --version 2>/dev/null) in
    *"Open MPI"*) mpirun="$mpirun --bind-to hwthread:overload-allowed" ;;
    *) export HYDRA_BINDING=hwthread ;;
  esac
fi

# A run of its own each time, unless a folder is typed, which comes later and wins.
exec "$python" -m distnet.supervise -n "$ranks" --mpirun "$mpirun" -- \
  --checkpoint-dir "runs/$(date +%Y%m%d-%H%M%S)-$$" --resume "$@"
